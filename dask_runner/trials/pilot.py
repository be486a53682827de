"""A few trials of a model before anything is planned: what fields it has, how long a trial takes.

They run in a forked child, which a crash or an endless loop ends. Nothing of them is kept: the same
trials are run again by the batches. Refuses a model that no batch could run.
"""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Struct, structs

from dask_runner.errors import RunnerError, UsageError
from dask_runner.seeds import TrialStreams, Value, trial_uniforms
from dask_runner.trials.forked import Child, ending
from dask_runner.trials.job import check_names
from dask_runner.trials.model import BlockTrial, Model, ScalarTrial, describe_point
from dask_runner.trials.tables import check_fields, fill, table_type

# Points that are tried, spread over the grid; seconds and trials for each; the longest wait.
_POINTS: Final = 12
_SECONDS: Final = 0.4
_FEWEST: Final = 3
_MOST: Final = 2000
_PATIENCE: Final = 60.0
# Trials of a vectorised model: as many as take about _SECONDS, within these numbers.
_BLOCK: Final = 4096
_SMALLEST_BLOCK: Final = 128
# Where a block is cut to see whether rows depend on each other.
_CUTS: Final = (0, 1, 3, 10)


class PointCost(Struct, frozen=True, kw_only=True):
    """What trials of a point cost: `seconds` each, `prepare` once for each batch. `failed` of
    `tried` trials failed, the first with `message`.
    """

    point: dict[str, Value]
    seconds: float
    prepare: float
    tried: int
    failed: int = 0
    message: str = ""


class PilotResult(Struct, frozen=True, kw_only=True):
    """The fields of a trial (name -> dtype), and what trials of some points cost, in their order
    in the grid; `places` are their indices there.
    """

    fields: dict[str, str]
    costs: tuple[PointCost, ...] = ()
    places: tuple[int, ...] = ()

    @property
    def row_bytes(self) -> int:
        """Bytes of a trial in a batch's file."""
        return table_type(self.fields).itemsize

    def seconds(self, place: int) -> float:
        """Estimated seconds for a trial of the point at this index: those of the nearest one."""
        return self._nearest(place).seconds if self.costs else 0.0

    def prepare(self, place: int) -> float:
        """Estimated seconds that each batch of this point takes before its trials."""
        return self._nearest(place).prepare if self.costs else 0.0

    def _nearest(self, place: int) -> PointCost:
        return self.costs[int(np.argmin(np.abs(np.asarray(self.places) - place)))]


class _Told(Struct, frozen=True, kw_only=True, omit_defaults=True):
    fields: dict[str, str] = {}
    seconds: float = 0.0
    prepare: float = 0.0
    tried: int = 0
    failed: int = 0
    message: str = ""
    refused: str = ""


def check_points(model: Model, name: str, points: Sequence[Mapping[str, Value]]) -> None:
    """Raises UsageError for a point that lacks a parameter or has one too many."""
    parameters = model.parameters()
    for point in points:
        parameters.check(point, name)


def measure(
    model: Model, name: str, points: Sequence[Mapping[str, Value]], seed: int
) -> PilotResult:
    """Try some points. Raises UsageError if the model cannot be run at one of them, or gives what
    is not a number.
    """
    spread = np.linspace(0, len(points) - 1, min(_POINTS, len(points))).round().astype(int)
    places = sorted(set(spread.tolist()))
    declared = model.fields()
    fields = declared
    costs = []
    for place in places:
        told = _try(model, name, points[place], seed)
        where = f"model {name} at {describe_point(points[place])}"
        if told.refused:
            raise UsageError(f"{where}: {told.refused}")
        if told.failed == told.tried:
            raise UsageError(f"{where}: all {told.tried} trials of the pilot fail: {told.message}")
        if not declared:
            fields = _joined(fields, told.fields, where)
        costs.append(
            PointCost(
                point=dict(points[place]),
                seconds=told.seconds,
                prepare=told.prepare,
                tried=told.tried,
                failed=told.failed,
                message=told.message,
            )
        )
    check_fields(fields, {name for point in points for name in point})
    return PilotResult(fields=fields, costs=tuple(costs), places=tuple(places))


def _joined(before: dict[str, str], now: dict[str, str], where: str) -> dict[str, str]:
    if before and before.keys() != now.keys():
        raise UsageError(
            f"{where} has the fields {', '.join(now)}; at other points they are {', '.join(before)}"
        )
    if not before:
        return now
    return {name: np.result_type(before[name], now[name]).str for name in before}


def _try(model: Model, name: str, point: Mapping[str, Value], seed: int) -> _Told:
    with Child(partial(_tell, model, name, point, seed)) as child:
        data, late = _read_all(child)
        status = child.end()
    # What was told before an end that nobody planned is good all the same.
    told = [msgspec.json.decode(line, type=_Told) for line in data.split(b"\n")[:-1]]
    if not told:
        why = (
            f"not even {_FEWEST} trials end within {_PATIENCE:g} s"
            if late
            else f"one of the first {_FEWEST} trials ends its process with {ending(status)}"
        )
        return _Told(refused=why)
    if late or status:
        how = f"did not end within {_PATIENCE:g} s" if late else f"crashed: {ending(status)}"
        return structs.replace(told[-1], failed=told[-1].failed + 1, message=f"a trial {how}")
    return told[-1]


def _read_all(child: Child) -> tuple[bytes, bool]:
    """What the child tells, and whether it took too long."""
    data, deadline = b"", time.monotonic() + _PATIENCE
    while part := child.read(max(0.0, deadline - time.monotonic())):
        data += part
        # It has told what the first trials were like, and will stop after _SECONDS.
        deadline = min(deadline, time.monotonic() + _PATIENCE / 6)
    return data, part is None


def _tell(model: Model, name: str, point: Mapping[str, Value], seed: int, write: int) -> int:
    try:
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in range(3):
            os.dup2(null, descriptor)
        for told in _measured(model, name, point, seed):
            os.write(write, msgspec.json.encode(told) + b"\n")
    except BaseException as error:  # noqa: BLE001  # the boundary to foreign code
        known = isinstance(error, RunnerError)
        said = f"{error}" if known else f"{type(error).__name__}: {error}"
        text = said.encode(errors="replace").decode()
        os.write(write, msgspec.json.encode(_Told(refused=text[:2000])) + b"\n")
    return 0


def _measured(model: Model, name: str, point: Mapping[str, Value], seed: int) -> Iterator[_Told]:
    began = time.perf_counter()
    sampler = model.sampler(point)
    prepare = time.perf_counter() - began
    declared = model.fields()
    if isinstance(sampler, BlockTrial):
        uniforms = trial_uniforms(
            seed=seed, model=name, point=point, first=0, count=_BLOCK, words=sampler.words
        )
        yield _measured_block(sampler, uniforms, prepare, declared)
    else:
        streams = TrialStreams(seed=seed, model=name, point=point)
        yield from _measured_single(sampler, streams, prepare, declared)


def _measured_single(
    trial: ScalarTrial, streams: TrialStreams, prepare: float, declared: Mapping[str, str]
) -> Iterator[_Told]:
    """What is known after the first few trials, and at the end."""
    results: list[Mapping[str, Any]] = []
    tried, message, first = 0, "", 0.0

    def told() -> _Told:
        seconds = (time.perf_counter() - began) / (tried - 1)
        good, wrong = _judged(results, declared)
        return _Told(
            fields=_types(good),
            seconds=seconds,
            prepare=prepare + max(0.0, first - seconds),
            tried=tried,
            failed=tried - len(good),
            message=message or wrong,
        )

    began = time.perf_counter()
    while tried < _FEWEST or (tried < _MOST and time.perf_counter() - began < _SECONDS):
        try:
            results.append(trial(streams.at(tried)))
        except (Exception, SystemExit) as error:  # noqa: BLE001  # a failed trial is data
            message = message or f"{type(error).__name__}: {error}"
        tried += 1
        if tried == 1:
            # The first one also warms up caches.
            first, began = time.perf_counter() - began, time.perf_counter()
        elif tried == _FEWEST:
            yield told()
    yield told()


def _judged(
    results: Sequence[Mapping[str, Any]], declared: Mapping[str, str]
) -> tuple[list[Mapping[str, Any]], str]:
    """Those that a batch would not take for failed, and what is wrong with the first other one."""
    good, message = [], ""
    for result in results:
        try:
            _check(result, declared)
        except (ValueError, TypeError, OverflowError, AttributeError) as error:
            message = message or str(error)
        else:
            good.append(result)
    return good, message


def _check(result: Mapping[str, Any], declared: Mapping[str, str]) -> None:
    for field, value in result.items():
        if np.ndim(value):
            raise ValueError(f"field {field!r} has shape {np.shape(value)}: give one number")
        if np.asarray(value).dtype.kind == "f" and np.isnan(value):
            raise ValueError(f"field {field!r} is NaN")
    if declared:
        check_names(result, declared)
        fill(np.zeros(1, table_type(declared)), 0, {key: [one] for key, one in result.items()})


def _measured_block(
    block: BlockTrial,
    uniforms: npt.NDArray[np.float64],
    prepare: float,
    declared: Mapping[str, str],
) -> _Told:
    began = time.perf_counter()
    block.run(uniforms[:_SMALLEST_BLOCK])
    first, began = time.perf_counter() - began, time.perf_counter()
    block.run(uniforms[:_SMALLEST_BLOCK])
    few = time.perf_counter() - began
    share = _SECONDS / 2 / max(few, 1e-9)
    tried = min(_BLOCK, max(_SMALLEST_BLOCK, int(_SMALLEST_BLOCK * share)))
    uniforms = uniforms[:tried]
    began = time.perf_counter()
    whole = {name: np.asarray(values) for name, values in block.run(uniforms).items()}
    # Many may need more than few do, once: files that only some trials read.
    first, began = first + time.perf_counter() - began, time.perf_counter()
    block.run(uniforms)
    again = time.perf_counter() - began
    failed = np.zeros(tried, bool)
    message = ""
    for field, column in whole.items():
        if column.shape != (tried,):
            raise UsageError(f"field {field!r} has shape {column.shape}, not ({tried},)")
        if column.dtype.kind == "f" and np.isnan(column).any():
            failed |= np.isnan(column)
            message = message or f"field {field!r} is NaN"
    if declared:
        check_names(whole, declared)
        fill(np.zeros(tried, table_type(declared)), 0, whole)
    _check_rows(block, uniforms, whole)
    return _Told(
        fields=_types([whole]),
        # What the numbers themselves cost comes on top.
        seconds=again / tried + block.words * 1e-8,
        prepare=prepare + max(0.0, first - few - again),
        tried=tried,
        failed=int(failed.sum()),
        message=message,
    )


def _check_rows(
    block: BlockTrial,
    uniforms: npt.NDArray[np.float64],
    whole: Mapping[str, npt.NDArray[Any]],
) -> None:
    cuts = (*_CUTS, len(uniforms) // 4 + 9, len(uniforms))
    parts = [block.run(uniforms[first:end]) for first, end in pairwise(cuts)]
    for field, column in whole.items():
        joined = np.concatenate([np.asarray(part[field]) for part in parts])
        if column.tobytes() != joined.tobytes():
            raise UsageError(
                f"field {field!r} depends on which trials are computed together: a vectorised "
                "model must treat each row by itself"
            )


def _types(results: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The dtype of each field, such that it holds all values of these trials, and what others may
    give: a Python integer is a number that happens to be whole.
    """
    if not results:
        return {}
    names = list(results[0])
    for result in results:
        if list(result) != names and set(result) != set(names):
            raise UsageError(f"trials have different fields: {sorted(names)} and {sorted(result)}")
    types = {}
    for field in names:
        column = np.asarray([_as_float(result[field]) for result in results])
        if column.dtype.kind not in "biuf":
            raise UsageError(f"field {field!r} is not a number: {results[0][field]!r:.80}")
        types[str(field)] = column.dtype.newbyteorder("<").str
    return types


def _as_float(value: Any) -> Any:
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
