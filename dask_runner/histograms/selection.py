"""Which events and objects of a chunk are taken, and the cutflow.

Owns the order of cuts: events first, one cut after the other, then objects. A cut on events has one
value for each event; a cut `where` on what belongs to events takes all objects of an event or none.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec import Struct, field

from dask_runner.errors import BadInputError
from dask_runner.histograms.accumulate import ExactSum
from dask_runner.histograms.expressions import Expression
from dask_runner.histograms.spec import Job
from dask_runner.histograms.sums import CutSum
from dask_runner.histograms.values import CountsDifferError, Data, Offsets, Value, spread
from dask_runner.rootfiles.columns import Chunk

Mask = npt.NDArray[np.bool_]
Weights = npt.NDArray[np.float64]

ALL = "all"
# Of weights: their squares stay finite, and so do sums.
_LARGEST = 1e150


class Selected(Struct, frozen=True, kw_only=True):
    """A chunk with what is taken of it: `events` (one for each event) and `objects` (None: all).
    `weight` is that of the job, None without one. `path` and `first` (entry) are for messages.
    """

    path: str
    first: int
    entries: int
    columns: Mapping[str, Value]
    events: Mask
    objects: Value | None = None
    weight: Value | None = None
    # What was spread, by the identities of what and over which offsets; with it, so that no other
    # array gets its identity.
    known: dict[tuple[int, int], tuple[Any, Any, Any]] = field(default_factory=dict)
    values: dict[str, Value] = field(default_factory=dict)

    def spread(self, value: Value, offsets: Offsets | None) -> Data:
        """The data with one item for each object; made once, for histograms share weights."""
        if offsets is None or value.offsets is not None:
            return value.data
        key = id(value.data), id(offsets)
        if key not in self.known:
            self.known[key] = value.data, offsets, spread(value, offsets)
        data: Data = self.known[key][2]
        return data

    def mask(self, offsets: Offsets | None, objects: Value | None) -> Mask | None:
        """What is taken of events (no offsets) or of the objects of `offsets`, by the job's cuts;
        None if all is. Made once.
        """
        key = -1, id(offsets)
        if key not in self.known:
            made: Mask | None = None
            if not self.events.all():
                made = self.spread(Value(data=self.events), offsets)
            if objects is not None:
                own = self.spread(objects, offsets)
                made = own if made is None else made & own
            self.known[key] = made, offsets, made
        mask: Mask | None = self.known[key][2]
        return mask

    def shared(self, expression: Expression) -> Value:
        """As `evaluate`, kept for other histograms: cuts and weights are often the same."""
        if expression.text not in self.values:
            self.values[expression.text] = self.evaluate(expression)
        return self.values[expression.text]

    def evaluate(self, expression: Expression) -> Value:
        """The value of an expression. Raises BadInputError if objects do not fit together."""
        try:
            return expression(self.columns, self.entries)
        except CountsDifferError as error:
            raise self.unequal(error, f"{expression.place}: {expression.text!r}") from error

    def unequal(self, error: CountsDifferError, what: str) -> BadInputError:
        """The error for objects of different numbers in `what`."""
        one, other = error.names
        many, more = error.counts
        return BadInputError(
            f"{self.path}: entry {self.first + error.event}: {one} has {many} objects, {other} has "
            f"{more} ({what})",
            hint="objects of different collections cannot be combined one by one; sum(), any(), "
            "max() ... make one value for each event",
        )


class Selector:
    """The cuts of a job. `cuts` add up over all chunks."""

    def __init__(self, job: Job, *, place: str = "") -> None:
        """Raises UsageError for what is no expression."""
        self._event_cuts = [Expression(text, f"{place}where_event") for text in job.where_event]
        self._where = Expression(job.where, f"{place}where") if job.where else None
        self._weight = Expression(job.weight, f"{place}weight") if job.weight else None
        self.cuts: list[CutSum] = []

    @property
    def expressions(self) -> list[Expression]:
        """All that is evaluated."""
        return [*self._event_cuts, *(one for one in (self._where, self._weight) if one)]

    def select(self, path: str, chunk: Chunk) -> Selected:
        """Apply the cuts. Raises BadInputError that names the file, UsageError for an expression
        that cannot be a cut.
        """
        base = Selected(
            path=path,
            first=chunk.first,
            entries=chunk.entries,
            columns=values_of(chunk),
            events=np.ones(chunk.entries, np.bool_),
        )
        weight = base.evaluate(self._weight) if self._weight else None
        # The weight of an object is none of its event.
        of_events = None if weight is None or weight.jagged else as_weights(base, [weight])
        flow = _Flow(self.cuts)
        events = base.events
        flow.add(ALL, "event", base.entries, of_events)
        for cut in self._event_cuts:
            value = base.evaluate(cut)
            if value.jagged:
                raise cut.error(
                    "has objects; a cut on events has one value for each event",
                    "any(...), all(...), sum(...) > 1 or count(...) > 1 make one",
                )
            events = events & value.data.astype(np.bool_)
            flow.add(cut.text, "event", _count(events), _of(of_events, events))
        objects = base.evaluate(self._where) if self._where else None
        if objects is not None and not objects.jagged:
            assert self._where is not None
            events = events & objects.data.astype(np.bool_)
            flow.add(self._where.text, "event", _count(events), _of(of_events, events))
            objects = None
        if objects is not None:
            objects = Value(
                data=objects.data.astype(np.bool_), offsets=objects.offsets, name=objects.name
            )
            self._count_objects(flow, base, events, objects, weight)
        return Selected(
            path=path,
            first=chunk.first,
            entries=chunk.entries,
            columns=base.columns,
            events=events,
            objects=objects,
            weight=weight,
            known=base.known,
        )

    def _count_objects(
        self, flow: "_Flow", base: Selected, events: Mask, objects: Value, weight: Value | None
    ) -> None:
        assert self._where is not None
        inside = base.spread(Value(data=events), objects.offsets)
        weights = None
        if weight is not None:
            fits(base, objects.offsets, objects.name, weight, self._where)
            weights = as_weights(base, [weight], objects.offsets)
        flow.add(ALL, "object", _count(inside), _of(weights, inside))
        kept = inside & objects.data
        flow.add(self._where.text, "object", _count(kept), _of(weights, kept))


class _Flow:
    """The cuts of one chunk, in order, added to those of the chunks before."""

    def __init__(self, cuts: list[CutSum]) -> None:
        self._cuts = cuts
        self._next = 0

    def add(self, name: str, level: str, count: int, weights: Weights | None) -> None:
        if self._next == len(self._cuts):
            self._cuts.append(CutSum(name, level, weighted=weights is not None))
        cut = self._cuts[self._next]
        cut.count += count
        if weights is not None and cut.weights is not None:
            cut.weights.add_at(None, weights)
        self._next += 1


def values_of(chunk: Chunk) -> dict[str, Value]:
    """The branches of a chunk that expressions can use: numbers, at most in one level of lists.
    Integers have 64 bits, so that arithmetic does not wrap where it need not.
    """
    found = {}
    for name, column in chunk.columns.items():
        if len(column.offsets) <= 1:
            offsets = column.offsets[0] if column.offsets else None
            found[name] = Value(data=_widened(column.data), offsets=offsets, name=name)
    return found


def fits(
    selected: Selected, offsets: Offsets | None, name: str, value: Value, place: Expression
) -> None:
    """Raise if the value has objects, but not those of these offsets, which are of `name`."""
    if value.offsets is None or value.offsets is offsets:
        return
    if offsets is None:
        raise place.error(
            f"has one value for each event, but {value.name!r} has objects",
            "a cut or weight of objects can only be on what has those objects; histograms of other "
            "things have their own in the TOML file",
        )
    if not np.array_equal(offsets, value.offsets):
        counts = np.diff(offsets), np.diff(value.offsets)
        event = int(np.flatnonzero(counts[0] != counts[1])[0])
        pair = int(counts[0][event]), int(counts[1][event])
        raise selected.unequal(
            CountsDifferError((name, value.name), event, pair), f"{place.place}: {place.text!r}"
        )


def as_weights(
    selected: Selected,
    weights: Sequence[Value],
    offsets: Offsets | None = None,
    mask: Mask | None = None,
) -> Weights | None:
    """The product of weights as doubles, of events or spread over objects, where `mask` is true;
    None if there are none. Raises BadInputError that names file and entry if one is not finite.
    """
    product: Weights | None = None
    for value in weights:
        data = selected.spread(value, offsets)
        own = (data if mask is None else data[mask]).astype(np.float64)
        product = own if product is None else product * own
    if product is None:
        return None
    good = np.abs(product) < _LARGEST
    if good.all():
        return product
    places = np.arange(len(good)) if mask is None else np.flatnonzero(mask)
    place = int(places[np.flatnonzero(~good)[0]])
    event = place if offsets is None else int(np.searchsorted(offsets, place, side="right")) - 1
    text = " * ".join(value.name for value in weights)
    raise BadInputError(
        f"{selected.path}: entry {selected.first + event}: the weight {text!r} is "
        f"{product[~good][0]}, and must be between -{_LARGEST:g} and {_LARGEST:g}",
        hint=f"where(abs(w) < {_LARGEST:g}, w, 0) leaves such entries out",
    )


def _count(mask: Mask) -> int:
    return int(np.count_nonzero(mask))


def _of(weights: Weights | None, mask: Mask) -> Weights | None:
    return None if weights is None else weights[mask]


def _widened(data: npt.NDArray[Any]) -> npt.NDArray[Any]:
    kind = data.dtype
    if kind.kind in "iu" and kind != np.uint64:
        return data.astype(np.int64, copy=False)
    return data


def weights_sum(cut: CutSum) -> float:
    """The sum of weights after a cut; without weights the number."""
    exact: ExactSum | None = cut.weights
    return float(cut.count) if exact is None else float(exact.value()[0])


def branches_of(expressions: Sequence[Expression]) -> tuple[str, ...]:
    """All branches that some expressions read, each once."""
    return tuple(dict.fromkeys(name for one in expressions for name in one.branches))
