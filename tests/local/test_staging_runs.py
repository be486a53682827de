"""Whole runs whose batches work in another folder tree, with a real cluster: everything is copied."""

import os
from pathlib import Path
from typing import Any

import invariants
import pytest
from folder_hosts import FolderHost, FolderTransfer
from msgspec import structs

import dask_runner
from dask_runner import pipeline
from dask_runner.batch import OutcomeStatus
from dask_runner.cluster.local import LocalCluster
from dask_runner.control import Control
from dask_runner.files import path_to_text
from dask_runner.manifest import NoteKind
from dask_runner.opening import Target
from dask_runner.progress import QuietProgress

# Reads its input, which only the driver has at that path, and what was shipped beside it.
MODULE = """
import os
from pathlib import Path
from typing import ClassVar
from msgspec import Struct
from dask_runner.batch import Batch, InputFile, InputRange, PlannedOutput
from dask_runner.files import fingerprint, path_to_text, text_to_path
from dask_runner.workloads.interface import Plan

class Reads(Struct, frozen=True, kw_only=True):
    preload: ClassVar[tuple[str, ...]] = ("reads_for_staging",)
    uses_folder: ClassVar[bool] = True
    folder: str
    hidden: str
    number: int
    odd: tuple[int, ...] = ()

    def plan(self):
        paths = sorted(text_to_path(self.folder).iterdir())
        inputs = []
        for path in paths:
            state = path.stat()
            inputs.append(InputFile(path=path_to_text(path), bytes=state.st_size,
                entries=len(range(len(inputs), self.number, len(paths))), mtime_ns=state.st_mtime_ns,
                fingerprint=fingerprint(path)))
        batches = [
            Batch(index=i, workload="x",
                inputs=(InputRange(path=inputs[i % len(inputs)].path, first=i // len(inputs), count=1),),
                outputs=(PlannedOutput(name=f"{i}.txt"),) if self.uses_folder else ())
            for i in range(self.number)
        ]
        return Plan(batches=batches, inputs=tuple(inputs))

    def run(self, batch, folder):
        path = text_to_path(batch.inputs[0].path)
        print(f"reads {path.name!r}", flush=True)
        assert not str(path).startswith(self.hidden)
        if batch.index in self.odd:
            raise ValueError(f"batch {batch.index} is odd")
        if self.uses_folder:
            assert not str(folder).startswith(self.hidden)
            word = (Path(__file__).parent / "word.txt").read_text()
            (folder / f"{batch.index}.txt").write_bytes(word.encode() + path.read_bytes())
        return {}

    def merge(self, request):
        return []

class ReadsInGroups(Reads, frozen=True, kw_only=True):
    uses_folder: ClassVar[bool] = False
"""

HOSTILE = os.fsdecode(b"in put'\n\xff.dat")


class Far:
    """A driver's folder, and a host that does not see it."""

    def __init__(self, folder: Path, monkeypatch: Any) -> None:
        self.driver = folder / "driver"
        (self.driver / "inputs").mkdir(parents=True)
        for name in ("a.dat", HOSTILE):
            (self.driver / "inputs" / name).write_bytes(b" from " + os.fsencode(name))
        (self.driver / "reads_for_staging.py").write_text(MODULE)
        (self.driver / "word.txt").write_text("shipped")
        self.transfer: FolderTransfer | None = None
        far = self

        class FarCluster(LocalCluster):
            """The local cluster, whose batches may not see what the driver sees."""

            @property
            def transfer(self) -> FolderTransfer:
                if far.transfer is None:
                    (name,) = super().hosts()
                    far.host = FolderHost(name, folder / "host", (), 1_000_000)
                    far.transfer = FolderTransfer(far.host)
                return far.transfer

            def hosts(self) -> Any:
                return {n: structs.replace(s, local=False) for n, s in super().hosts().items()}

        opened = pipeline.open_cluster

        def open_far(*arguments: Any) -> Any:
            monkeypatch.setattr("dask_runner.opening.LocalCluster", FarCluster)
            return opened(*arguments)

        monkeypatch.setattr(pipeline, "open_cluster", open_far)
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "host" / "cache"))

    def start(self, kind: str = "Reads", **options: Any) -> dask_runner.Run:
        import reads_for_staging

        fields = {key: options.pop(key) for key in ("number", "odd") if key in options}
        workload = getattr(reads_for_staging, kind)(
            folder=path_to_text(self.driver / "inputs"), hidden=str(self.driver), **fields
        )
        return dask_runner.start(
            workload,
            runs=self.driver / "runs",
            ship=[self.driver / "reads_for_staging.py", self.driver / "word.txt"],
            slots=2,
            **options,
        )


@pytest.fixture
def far(tmp_path, monkeypatch):
    thing = Far(tmp_path, monkeypatch)
    monkeypatch.syspath_prepend(thing.driver)
    yield thing
    if thing.transfer is not None:
        thing.transfer.close()


def test_a_run_on_a_host_without_our_folders_is_as_good_as_one_with_them(far):
    run = far.start(number=24, odd=(5,), attempts=1)
    assert (run.summary.done, [outcome.batch for outcome in run.failed]) == (23, [5])
    invariants.check(run.path)
    contents = [path.read_bytes() for path in run.outputs()]
    expected = [b" from " + os.fsencode(name) for name in sorted(os.listdir(far.driver / "inputs"))]
    assert contents == [b"shipped" + expected[i % 2] for i in range(24) if i != 5]
    assert run.verify().good
    # Each input and the shipment once; and of the attempts nothing is left there.
    assert sorted(far.host.pushed.values()) == [1, 1, 1]
    assert not any((far.host.folder / "attempts").iterdir())
    (note,) = [note for note in run.state.notes if note.kind == NoteKind.STAGING]
    assert note.data == {"host": far.host.name, "outputs": "copied", "inputs": "copied"}
    for outcome in run.outcomes():
        log = run.state.folder.attempts / outcome.log.path
        assert b"reads " in log.read_bytes()


def test_logs_of_groups_come_home(far):
    run = far.start("ReadsInGroups", number=40, odd=(7, 31), attempts=1)
    assert sorted(outcome.batch for outcome in run.failed) == [7, 31]
    for outcome in run.failed:
        log = outcome.log
        data = (run.state.folder.attempts / log.path).read_bytes()
        part = data[log.offset : log.offset + log.length]
        assert f"batch {outcome.batch} is odd".encode() in part


def test_an_output_that_does_not_arrive_is_tried_again_elsewhere_or_lost(far):
    damaged = []

    def spoil(path: Path) -> None:
        if path.suffix == ".part" and path.read_bytes().startswith(b"shipped") and not damaged:
            damaged.append(path)
            path.write_bytes(b"other bytes")

    far.spoil = spoil
    original = FolderTransfer.fetch

    def fetch(self: FolderTransfer, host: str, source: str, target: Path, limit: int) -> Any:
        self.hosts[host].spoil = spoil
        return original(self, host, source, target, limit)

    FolderTransfer.fetch = fetch
    try:
        run = far.start(number=3)
    finally:
        FolderTransfer.fetch = original
    assert len(damaged) == 1
    assert run.summary.done == 3
    lost = [outcome for outcome in run.outcomes() if outcome.attempt == 2]
    assert [outcome.status for outcome in lost] == [OutcomeStatus.DONE]
    assert all(path.read_bytes().startswith(b"shipped from ") for path in run.outputs())


def test_how_files_come_to_hosts_is_what_the_user_says_now(far):
    run = far.start(number=4, first=2)
    assert far.host.asked["look"] > 0
    looked = far.host.asked["look"]
    request = pipeline.RerunRequest(target=Target(staging="sftp"))
    pipeline.rerun(run.path, request, control=Control(), progress=QuietProgress())
    assert run.summary.done == 4
    assert far.host.asked["look"] == looked, "copied without a look"
