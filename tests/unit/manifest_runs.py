"""Small runs for the tests of the manifest: made in a few lines, without dispatching anything."""

from collections.abc import Iterable
from pathlib import Path

from dask_runner.batch import (
    Batch,
    Failure,
    FailureKind,
    InputFile,
    InputRange,
    Outcome,
    OutcomeStatus,
    OutputFile,
    WorkloadSpec,
)
from dask_runner.manifest import Done, Header, Manifest, Started
from dask_runner.run_folder import RunFolder

STAMP = "20261120T225745Z"
EVENTS = 10


def batches(number: int) -> list[Batch]:
    return [
        Batch(
            index=index,
            workload="demo",
            count=EVENTS,
            inputs=(InputRange(path="in.root", first=index * EVENTS, count=EVENTS),),
            parameters={"seed": index},
        )
        for index in range(number)
    ]


def create(runs: Path, number: int = 3, **header: object) -> Manifest:
    folder = RunFolder.at(runs / STAMP)
    folder.path.mkdir(parents=True)
    file = InputFile(
        path="in.root", bytes=1, mtime_ns=2, entries=number * EVENTS, fingerprint="0" * 64
    )
    spec = WorkloadSpec(name="demo", configuration={"speed": 1})
    top = Header(timestamp=STAMP, workload=spec, seed=7, **header)  # type: ignore[arg-type]
    return Manifest.create(folder, top, [file], batches(number))


def started(*indices: int, attempt: int = 1) -> Started:
    return Started(attempts=tuple((index, attempt) for index in indices), group="g", host="tev1")


def done(*indices: int, attempt: int = 1) -> Done:
    return Done(attempts=tuple((index, attempt) for index in indices))


def good(index: int, attempt: int = 1, outputs: Iterable[OutputFile] = ()) -> Outcome:
    return Outcome(
        batch=index,
        attempt=attempt,
        status=OutcomeStatus.DONE,
        host="tev1",
        wall=2.0,
        cpu=1.5,
        max_rss=1000 + index,
        outputs=tuple(outputs),
    )


def bad(index: int, attempt: int = 1, message: str = "broke") -> Outcome:
    return Outcome(
        batch=index,
        attempt=attempt,
        status=OutcomeStatus.FAILED,
        host="tev2",
        wall=1.0,
        failure=Failure(kind=FailureKind.EXCEPTION, message=message, fingerprint="f" * 8),
    )


def output(name: str = "0.txt") -> OutputFile:
    return OutputFile(name=name, bytes=3, sha256="a" * 64)
