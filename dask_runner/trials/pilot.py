"""A few trials of a model before anything is planned: what fields it has, how long a trial takes.

They run in a forked child, which a crash or an endless loop ends. Nothing of them is kept: the same
trials are run again by the batches. Refuses a model that no batch could run.
"""

import os
import select
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np
from msgspec import Struct, structs

from dask_runner.errors import RunnerError, UsageError
from dask_runner.seeds import TrialStreams, Value, trial_uniforms
from dask_runner.trials.isolated import ending
from dask_runner.trials.model import BlockTrial, Model, ScalarTrial, describe_point
from dask_runner.trials.tables import check_fields, table_type

# Points that are tried, spread over the grid; seconds and trials for each; the longest wait.
_POINTS: Final = 12
_SECONDS: Final = 0.4
_FEWEST: Final = 3
_MOST: Final = 2000
_PATIENCE: Final = 60.0
_BLOCK: Final = 4096


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
        if not self.costs:
            return 0.0
        nearest = int(np.argmin(np.abs(np.asarray(self.places) - place)))
        return self.costs[nearest].seconds


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
    fields: dict[str, str] = model.fields()
    costs = []
    for place in places:
        told = _try(model, name, points[place], seed)
        where = f"model {name} at {describe_point(points[place])}"
        if told.refused:
            raise UsageError(f"{where}: {told.refused}")
        if told.failed == told.tried:
            raise UsageError(f"{where}: all {told.tried} trials of the pilot fail: {told.message}")
        if model.fields() == {}:
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
    check_fields(fields)
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
    read, write = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        _in_child(model, name, point, seed, write)
    os.close(write)
    data, late = _read_all(read)
    if late:
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
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


def _read_all(read: int) -> tuple[bytes, bool]:
    """What the child tells, and whether it took too long."""
    data, deadline = b"", time.monotonic() + _PATIENCE
    try:
        while True:
            ready, _, _ = select.select([read], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                return data, True
            part = os.read(read, 1 << 16)
            if not part:
                return data, False
            data += part
            # It has told what the first trials were like, and will stop after _SECONDS.
            deadline = min(deadline, time.monotonic() + _PATIENCE / 6)
    finally:
        os.close(read)


def _in_child(model: Model, name: str, point: Mapping[str, Value], seed: int, write: int) -> None:
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        for told in _measured(model, name, point, seed):
            os.write(write, msgspec.json.encode(told) + b"\n")
    except BaseException as error:  # noqa: BLE001  # the boundary to foreign code
        known = isinstance(error, RunnerError)
        said = f"{error}" if known else f"{type(error).__name__}: {error}"
        text = said.encode(errors="replace").decode()
        os.write(write, msgspec.json.encode(_Told(refused=text[:2000])) + b"\n")
    finally:
        os._exit(0)


def _measured(model: Model, name: str, point: Mapping[str, Value], seed: int) -> Iterator[_Told]:
    began = time.perf_counter()
    sampler = model.sampler(point)
    prepare = time.perf_counter() - began
    if isinstance(sampler, BlockTrial):
        yield _measured_block(sampler, name, point, seed, prepare)
    else:
        yield from _measured_single(sampler, name, point, seed, prepare)


def _measured_single(
    trial: ScalarTrial, name: str, point: Mapping[str, Value], seed: int, prepare: float
) -> Iterator[_Told]:
    """What is known after the first few trials, and at the end."""
    streams = TrialStreams(seed=seed, model=name, point=point)
    results: list[Mapping[str, Any]] = []
    tried, message, first = 0, "", 0.0

    def told() -> _Told:
        seconds = (time.perf_counter() - began) / (tried - 1)
        return _Told(
            fields=_types(results),
            seconds=seconds,
            prepare=prepare + max(0.0, first - seconds),
            tried=tried,
            failed=tried - len(results),
            message=message,
        )

    began = time.perf_counter()
    while tried < _FEWEST or (tried < _MOST and time.perf_counter() - began < _SECONDS):
        try:
            result = trial(streams.at(tried))
            _check_shapes(result)
            results.append(result)
        except (Exception, SystemExit) as error:  # noqa: BLE001  # a failed trial is data
            message = message or f"{type(error).__name__}: {error}"
        tried += 1
        if tried == 1:
            # The first one also warms up caches.
            first, began = time.perf_counter() - began, time.perf_counter()
        elif tried == _FEWEST:
            yield told()
    yield told()


def _check_shapes(result: Mapping[str, Any]) -> None:
    for field, value in result.items():
        if np.ndim(value):
            raise ValueError(f"field {field!r} has shape {np.shape(value)}: give one number")


def _measured_block(
    block: BlockTrial, name: str, point: Mapping[str, Value], seed: int, prepare: float
) -> _Told:
    uniforms = trial_uniforms(
        seed=seed, model=name, point=point, first=0, count=_BLOCK, words=block.words
    )
    whole = dict(block.run(uniforms))
    began = time.perf_counter()
    half = _BLOCK // 2
    parts = [block.run(uniforms[:half]), block.run(uniforms[half:])]
    seconds = (time.perf_counter() - began) / _BLOCK
    for field, values in whole.items():
        column = np.asarray(values)
        if column.shape != (_BLOCK,):
            raise UsageError(f"field {field!r} has shape {column.shape}, not ({_BLOCK},)")
        joined = np.concatenate([np.asarray(part[field]) for part in parts])
        if column.tobytes() != joined.tobytes():
            raise UsageError(
                f"field {field!r} depends on which trials are computed together: a vectorised "
                "model must treat each row by itself"
            )
    # What the numbers themselves cost comes on top.
    seconds += block.words * 1e-8
    return _Told(fields=_types([whole]), seconds=seconds, prepare=prepare, tried=_BLOCK)


def _types(results: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The dtype of each field, such that it holds all values of these trials."""
    if not results:
        return {}
    names = list(results[0])
    for result in results:
        if list(result) != names and set(result) != set(names):
            raise UsageError(f"trials have different fields: {sorted(names)} and {sorted(result)}")
    types = {}
    for field in names:
        column = np.asarray([result[field] for result in results])
        if column.dtype.kind not in "biuf":
            raise UsageError(f"field {field!r} is not a number: {results[0][field]!r:.80}")
        types[str(field)] = column.dtype.newbyteorder("<").str
    return types
