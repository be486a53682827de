"""A user's function of a chunk of events that gives histograms: for what no expression can say.

Owns what it is given and what it may give. It sees the same chunks of entries of a file whatever
the batches are, and what it gives is added up exactly; so it may round as it likes in a chunk.
"""

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import awkward as ak
import boost_histogram as bh
import numpy as np
from msgspec import Struct

from dask_runner.errors import RunnerError, UsageError
from dask_runner.files import sha256
from dask_runner.histograms.selection import Mask, Selected
from dask_runner.histograms.spec import Axis, FunctionSpec, HistogramSpec
from dask_runner.histograms.sums import HistogramSum, numeric_axes
from dask_runner.rootfiles.columns import Chunk, Column

# The name of a histogram that is not in a dict.
ONLY = "histogram"
# Storages that count.
_COUNTING = (bh.storage.Int64, bh.storage.AtomicInt64)
_WEIGHTED = (bh.storage.Double, bh.storage.Unlimited, bh.storage.Weight)

Histograms = Mapping[str, Any]


class Contents(Struct, frozen=True, kw_only=True):
    """A histogram's arrays in the shape of its spec; `counts` alone if it has no weights."""

    counts: Any
    values: Any = None
    variances: Any = None


class UserFunction:
    """The function, imported and checked."""

    def __init__(self, spec: FunctionSpec) -> None:
        """Raises UsageError if it cannot be imported or is not the one that was planned."""
        self.spec = spec
        self._call = _imported(spec.name)
        found = source_hash(spec.name)
        if spec.sha256 and found != spec.sha256:
            raise UsageError(
                f"function {spec.name}: the file here is not the one that the run was planned with",
                hint="have it sent along: --function ./FILE.py:FUNCTION",
            )

    def __call__(self, chunk: Chunk, events: Mask) -> dict[str, Any]:
        """The histograms of the chosen events of a chunk, by name. Raises UsageError if it gives
        anything else; what it raises itself is not caught.
        """
        made = self._call({name: _array(c)[events] for name, c in chunk.columns.items()})
        if isinstance(made, bh.Histogram):
            return {ONLY: made}
        if isinstance(made, Mapping) and made:
            wrong = [name for name, one in made.items() if not isinstance(one, bh.Histogram)]
            if not wrong and all(isinstance(name, str) for name in made):
                return dict(made)
        raise UsageError(
            f"function {self.spec.name} gave {_kind(made)}, not a histogram or a dict of some",
            hint="return hist.Hist(...) or {'name': hist.Hist(...)}",
        )


class FunctionFiller:
    """The histograms of a function; `sums` add up over all chunks, in the order of `specs`."""

    def __init__(self, spec: FunctionSpec, specs: Sequence[HistogramSpec]) -> None:
        """Raises UsageError as UserFunction."""
        self._function = UserFunction(spec)
        self._specs = specs
        self.sums = {
            one.name: HistogramSum(numeric_axes(one), weighted=bool(one.weight)) for one in specs
        }

    def add(self, selected: Selected, chunk: Chunk) -> int:
        """Call it on a chunk. Raises UsageError if the histograms are not those that were planned;
        returns how many events it saw.
        """
        made = self._function(chunk, selected.events)
        unknown = sorted(made.keys() - self.sums.keys())
        if unknown:
            raise UsageError(
                f"function {self._function.spec.name} gave the histogram {unknown[0]!r} at entry "
                f"{chunk.first} of {selected.path}, but not in the first chunk of the run",
                hint="it must give all histograms for every chunk, also empty ones",
            )
        for spec in self._specs:
            if spec.name in made:
                self._add(spec, made[spec.name])
        return int(np.count_nonzero(selected.events))

    def _add(self, spec: HistogramSpec, histogram: Any) -> None:
        if described(spec.name, histogram).axes != numeric_axes(spec):
            raise UsageError(
                f"histogram {spec.name}: its axes are not the same in all chunks",
                hint="fixed bins and categories, no growth",
            )
        found = contents(spec.name, histogram)
        total = self.sums[spec.name]
        total.counts += found.counts.reshape(-1)
        if total.weights is not None and total.squares is not None:
            total.weights.add(found.values.reshape(-1))
            total.squares.add(found.variances.reshape(-1))


def described(name: str, histogram: Any) -> HistogramSpec:
    """What a histogram is, without its contents; `weight` says that it has weights. Raises
    UsageError for axes and storages that cannot be added up.
    """
    storage = histogram.storage_type
    if storage not in {*_COUNTING, *_WEIGHTED}:
        raise UsageError(
            f"histogram {name}: a storage {storage.__name__} cannot be merged exactly",
            hint="Int64, Double or Weight can",
        )
    axes = tuple(_axis(name, number, axis) for number, axis in enumerate(histogram.axes))
    weight = "" if storage in _COUNTING else "(of the function)"
    return HistogramSpec(name=name, axes=axes, weight=weight)


def contents(name: str, histogram: Any) -> Contents:
    """The arrays, with flow bins where the spec has them. Raises UsageError for numbers that are
    not finite, or without known variances.
    """
    if histogram.storage_type in _COUNTING:
        return Contents(counts=_padded(histogram, histogram.values(flow=True).astype(np.int64)))
    values, variances = histogram.values(flow=True), histogram.variances(flow=True)
    if variances is None:
        raise UsageError(
            f"histogram {name}: it was filled with weights, but its storage keeps no variances",
            hint="storage=hist.storage.Weight()",
        )
    if not (np.isfinite(values).all() and np.isfinite(variances).all()):
        raise UsageError(f"histogram {name}: a bin is not finite")
    plain = histogram.storage_type is not bh.storage.Weight
    # How many entries a sum of weights has is not known.
    counts = values.astype(np.int64) if plain else np.zeros(values.shape, np.int64)
    return Contents(
        counts=_padded(histogram, counts),
        values=_padded(histogram, values.astype(np.float64)),
        variances=_padded(histogram, variances.astype(np.float64)),
    )


def needed(name: str, given: Sequence[str]) -> tuple[str, ...]:
    """The branches that a function reads: those given, or its attribute `branches`. Raises
    UsageError if neither says.
    """
    found = tuple(given) or tuple(getattr(_imported(name), "branches", ()))
    if not found or not all(isinstance(one, str) for one in found):
        raise UsageError(
            f"function {name}: which branches does it read?",
            hint="--branches NAME,NAME, or NAME.branches = [...] after its definition",
        )
    return found


def source_hash(name: str) -> str:
    """The SHA-256 of the file of a function's module, "" if it has none."""
    module = importlib.import_module(name.partition(":")[0])
    file = getattr(module, "__file__", None)
    return "" if file is None or not Path(file).is_file() else sha256(Path(file))


def _imported(name: str) -> Callable[[Mapping[str, Any]], Any]:
    module_name, _, names = name.partition(":")
    if not names:
        raise UsageError(
            f"function {name!r} names no function", hint="package.module:function, ./FILE.py:name"
        )
    try:
        found: Any = importlib.import_module(module_name)
        for part in names.split("."):
            found = getattr(found, part)
    except RunnerError:
        raise
    except (Exception, SystemExit) as error:
        missing = isinstance(error, ModuleNotFoundError)
        raise UsageError(
            f"function {name!r} cannot be imported: {type(error).__name__}: {error}",
            hint="modules of your own are sent along with --ship FILE.py" if missing else "",
        ) from error
    if inspect.isclass(found) or not callable(found):
        raise UsageError(f"function {name!r} is no function", hint="def fill(chunk): ...")
    call: Callable[[Mapping[str, Any]], Any] = found
    return call


def _array(column: Column) -> Any:
    """As the function sees it: NumPy for one value an event, awkward for lists."""
    array: Any = column.data
    if not column.offsets:
        return array
    layout: Any = ak.contents.NumpyArray(array)
    for offsets in reversed(column.offsets):
        layout = ak.contents.ListOffsetArray(ak.index.Index64(offsets), layout)
    return ak.Array(layout)


def _axis(name: str, number: int, axis: Any) -> Axis:
    traits = axis.traits
    if traits.growth:
        raise UsageError(
            f"histogram {name}: axis {number} grows, so that chunks differ", hint="fix its bins"
        )
    own = str(getattr(axis, "name", "") or f"axis{number}")
    label = str(getattr(axis, "label", "") or "")
    if not traits.ordered or isinstance(axis, bh.axis.Boolean):
        names = [str(axis.bin(k)) for k in range(axis.size)]
        if traits.overflow:
            names.append("other")
        return Axis(kind="category", categories=tuple(names), name=own, label=label)
    if isinstance(axis, bh.axis.Regular) and axis.transform is None and not traits.circular:
        start, stop = float(axis.edges[0]), float(axis.edges[-1])
        return Axis(bins=axis.size, start=start, stop=stop, name=own, label=label)
    edges = tuple(float(edge) for edge in axis.edges)
    return Axis(kind="variable", edges=edges, name=own, label=label)


def _padded(histogram: Any, values: Any) -> Any:
    """With empty flow bins where the axis has none of its own."""
    widths = []
    for axis in histogram.axes:
        category = not axis.traits.ordered or isinstance(axis, bh.axis.Boolean)
        widths.append(
            (0, 0) if category else (int(not axis.traits.underflow), int(not axis.traits.overflow))
        )
    return np.pad(values, widths)


def _kind(made: Any) -> str:
    if isinstance(made, Mapping):
        inner = next(iter(made.values()), None)
        return "an empty dict" if inner is None else f"a dict with {type(inner).__name__}"
    return type(made).__name__
