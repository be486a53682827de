"""Runs for the tests of what the user reads: real manifests, with logs and outputs on disk."""

from pathlib import Path

from dask_runner.batch import (
    Batch,
    Failure,
    FailureKind,
    InputFile,
    InputRange,
    LogSlice,
    Outcome,
    OutcomeStatus,
    OutputFile,
    WorkloadSpec,
)
from dask_runner.files import path_to_text
from dask_runner.manifest import Done, Header, Intent, Manifest, Note, Started
from dask_runner.run_folder import LOG_NAME, RunFolder, attempt_name

FIRST = "20261120T225745Z"
SECOND = "20261121T010000Z"
EVENTS = 25


def create(
    runs: Path, number: int = 4, *, timestamp: str = FIRST, label: str = "", outputs=None
) -> Manifest:
    folder = RunFolder.at(runs / timestamp, outputs)
    folder.path.mkdir(parents=True)
    header = Header(
        timestamp=timestamp,
        workload=WorkloadSpec(name="demo", configuration={"steps": ["a"], "speed": 1.5}),
        seed=7,
        label=label,
        argv=("dask-runner", "run", "-b", "25"),
        created="2026-11-20T22:57:45.000Z",
        user="ada",
        host="tev1",
        settings={"run": {"batch_size": 25}, "storage": {"runs": str(runs)}},
    )
    file = InputFile(
        path="in.root", bytes=1000, mtime_ns=2, entries=number * EVENTS, fingerprint="0" * 64
    )
    batches = [
        Batch(
            index=index,
            workload="demo",
            count=EVENTS,
            inputs=(InputRange(path="in.root", first=index * EVENTS, count=EVENTS),),
            parameters={"seed": index},
        )
        for index in range(number)
    ]
    return Manifest.create(folder, header, [file], batches)


def cluster_note(**hosts: int) -> Note:
    data = {"name": "local", "address": "tls://127.0.0.1:1", "hosts": hosts}
    return Note(kind="cluster", text="cluster open", data=data)


def start(manifest: Manifest, *indices: int, attempt: int = 1, host: str = "tev1") -> None:
    attempts = tuple((index, attempt) for index in indices)
    manifest.record(Started(attempts=attempts, host=host, time="2026-11-20T22:58:00.000Z"))


def write_log(manifest: Manifest, index: int, text: bytes, attempt: int = 1) -> LogSlice:
    folder = manifest.folder.attempt(index, attempt)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / LOG_NAME).write_bytes(text)
    name = f"{attempt_name(index, attempt)}/{LOG_NAME}"
    return LogSlice(path=path_to_text(name), length=len(text))


def succeed(
    manifest: Manifest, index: int, *, attempt: int = 1, wall: float = 2.0, host: str = "tev1"
) -> None:
    """An attempt that runs, is published and is done, with a log and an output of 10 bytes."""
    log = write_log(manifest, index, b"all is well\n", attempt)
    name = f"{index}.root"
    manifest.folder.outputs.mkdir(exist_ok=True)
    manifest.folder.output(name).write_bytes(b"x" * 10)
    outcome = Outcome(
        batch=index,
        attempt=attempt,
        status=OutcomeStatus.DONE,
        host=host,
        started="2026-11-20T22:58:01.000Z",
        wall=wall,
        cpu=wall / 2,
        max_rss=50_000_000,
        log=log,
        outputs=(OutputFile(name=name, bytes=10, sha256="a" * 64, entries=EVENTS),),
        counters={"events": 25.0},
    )
    pairs = ((index, attempt),)
    manifest.record(outcome)
    manifest.record(Intent(attempts=pairs))
    manifest.record(Done(attempts=pairs, time="2026-11-20T22:59:45.000Z"))


def fail(
    manifest: Manifest,
    index: int,
    *,
    attempt: int = 1,
    message: str = "broke",
    fingerprint: str = "f00d",
    kind: FailureKind = FailureKind.EXCEPTION,
    host: str = "tev2",
    log: bytes | None = b"going\nbroke\n",
) -> None:
    """A failed attempt, with a log unless `log` is None."""
    manifest.record(
        Outcome(
            batch=index,
            attempt=attempt,
            status=OutcomeStatus.FAILED,
            host=host,
            started="2026-11-20T22:58:01.000Z",
            wall=1.0,
            cpu=0.5,
            log=None if log is None else write_log(manifest, index, log, attempt),
            failure=Failure(
                kind=kind, message=message, fingerprint=fingerprint, tail="going\nbroke\n"
            ),
        )
    )
