"""Publication, verification and recovery on real manifests and files."""

import hashlib
import os
from pathlib import Path

import pytest

from dask_runner.batch import (
    Batch,
    InputFile,
    Outcome,
    OutcomeStatus,
    OutputFile,
    PlannedOutput,
    WorkloadSpec,
)
from dask_runner.errors import BadInputError
from dask_runner.files import fingerprint
from dask_runner.manifest import Header, Intent, Manifest, Started, Verdict, read_state
from dask_runner.publish import Publisher
from dask_runner.recovery import recover
from dask_runner.run_folder import RunFolder
from dask_runner.verify import verify

CONTENT = b"result of batch "


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    path = tmp_path / "runs" / "20261120T225745Z"
    path.mkdir(parents=True)
    return RunFolder.at(path)


def create(folder: RunFolder, batches: int = 3, inputs: tuple[InputFile, ...] = ()) -> Manifest:
    header = Header(
        timestamp=folder.timestamp,
        workload=WorkloadSpec(name="command", configuration={}),
        seed=1,
    )
    plan = [
        Batch(index=i, workload="command", outputs=(PlannedOutput(name=f"{i}.txt"),))
        for i in range(batches)
    ]
    return Manifest.create(folder, header, inputs, plan)


def attempt(
    manifest: Manifest, index: int, number: int = 1, content: bytes | None = None
) -> Outcome:
    """An accepted attempt with its file in its folder, recorded as started and ended."""
    content = CONTENT + str(index).encode() if content is None else content
    path = manifest.folder.attempt(index, number)
    path.mkdir(parents=True)
    file = path / f"{index}.txt"
    file.write_bytes(content)
    file.chmod(0o444)
    outcome = Outcome(
        batch=index,
        attempt=number,
        status=OutcomeStatus.DONE,
        outputs=(
            OutputFile(
                name=file.name,
                bytes=len(content),
                sha256=hashlib.sha256(content).hexdigest(),
                mtime_ns=file.stat().st_mtime_ns,
            ),
        ),
    )
    manifest.record(Started(attempts=((index, number),)), outcome)
    return outcome


def test_an_accepted_output_gets_its_final_name_once(folder):
    with create(folder) as manifest:
        refused = Publisher(folder, manifest).publish([attempt(manifest, i) for i in range(3)])
        assert refused == []
        assert manifest.state.done.batches == 3
    assert sorted(p.name for p in folder.outputs.iterdir()) == ["0.txt", "1.txt", "2.txt"]
    final = folder.output("1.txt")
    assert final.read_bytes() == CONTENT + b"1"
    assert final.stat().st_nlink == 1, "the attempt folder must not reach the published file"


def test_a_taken_name_is_never_overwritten(folder):
    folder.outputs.mkdir()
    folder.output("1.txt").write_bytes(b"somebody else's")
    with create(folder) as manifest:
        (refused,) = Publisher(folder, manifest).publish([attempt(manifest, i) for i in range(3)])
        assert refused.batch == 1
        assert "never overwritten" in refused.failure.message
        assert manifest.state.verdict(1) is Verdict.FAILED
    assert folder.output("1.txt").read_bytes() == b"somebody else's"
    state = read_state(folder.manifest)
    assert [state.verdict(i) for i in range(3)] == ["done", "failed", "done"]


def test_an_attempt_that_changed_after_its_check_is_refused(folder):
    with create(folder) as manifest:
        outcome = attempt(manifest, 0)
        path = folder.attempt(0, 1) / "0.txt"
        path.chmod(0o644)
        path.write_bytes(b"longer than what was hashed, by a zombie")
        (refused,) = Publisher(folder, manifest).publish([outcome])
        assert "changed after it was checked" in refused.failure.message
    assert not folder.output("0.txt").exists()


def test_publishing_twice_compares_and_agrees(folder):
    with create(folder) as manifest:
        outcome = attempt(manifest, 0)
        folder.outputs.mkdir()
        folder.output("0.txt").write_bytes(CONTENT + b"0")
        assert Publisher(folder, manifest).publish([outcome]) == []
        assert manifest.state.verdict(0) is Verdict.DONE


@pytest.mark.parametrize("moment", ["outcome", "intent", "linked", "unlinked"])
def test_recovery_completes_a_publication_from_every_moment(folder, moment):
    with create(folder) as manifest:
        outcome = attempt(manifest, 0)
        if moment != "outcome":
            manifest.record(Intent(attempts=((0, 1),)), durable=True)
        source, target = folder.attempt(0, 1) / "0.txt", folder.output("0.txt")
        if moment in {"linked", "unlinked"}:
            folder.outputs.mkdir()
            target.hardlink_to(source)
        if moment == "unlinked":
            source.unlink()
    with Manifest.open(folder) as manifest:
        assert manifest.state.verdict(0) is Verdict.PENDING
        recover(manifest, folder)
        assert manifest.state.verdict(0) is Verdict.DONE
        assert manifest.state.outputs(0) == outcome.outputs
    assert folder.output("0.txt").read_bytes() == CONTENT + b"0"


def test_recovery_does_not_publish_what_a_loss_of_power_has_spoiled(folder):
    with create(folder) as manifest:
        for index in range(3):
            attempt(manifest, index)
        spoiled = folder.attempt(1, 1) / "1.txt"
        spoiled.chmod(0o644)
        spoiled.write_bytes(bytes(len(CONTENT + b"1")))
    with Manifest.open(folder) as manifest:
        recover(manifest, folder)
        state = manifest.state
        assert [state.verdict(i) for i in range(3)] == ["done", "failed", "done"]
        assert not folder.output("1.txt").exists()
        assert Publisher(folder, manifest).publish([attempt(manifest, 1, 2)]) == []
    assert (folder.attempts / "damaged" / "1.txt.1").is_file()
    assert verify(read_state(folder.manifest), folder, thorough=True).good


@pytest.mark.parametrize("damage", ["deleted", "truncated", "rewritten"])
def test_verify_and_recovery_find_a_lost_output_and_redo_just_that_batch(folder, damage):
    with create(folder) as manifest:
        Publisher(folder, manifest).publish([attempt(manifest, i) for i in range(3)])
    final = folder.output("1.txt")
    final.chmod(0o644)
    if damage == "deleted":
        final.unlink()
    elif damage == "truncated":
        final.write_bytes(b"")
    else:
        final.write_bytes(b"x" * len(CONTENT + b"1"))
    found = verify(read_state(folder.manifest), folder, thorough=True)
    assert [item.batch for item in found.lost] == [1]
    assert not found.good
    with Manifest.open(folder) as manifest:
        recover(manifest, folder)
        assert list(manifest.state.indices(Verdict.PENDING)) == [1]
        assert not final.exists(), "its name is needed for the new attempt"
        assert Publisher(folder, manifest).publish([attempt(manifest, 1, 2)]) == []
    state = read_state(folder.manifest)
    assert state.done.batches == 3
    assert verify(state, folder, thorough=True).good


def test_only_a_thorough_look_sees_a_change_that_kept_size_and_time(folder):
    with create(folder) as manifest:
        Publisher(folder, manifest).publish([attempt(manifest, 0)])
    final = folder.output("0.txt")
    times = final.stat()
    final.chmod(0o644)
    final.write_bytes(b"x" * times.st_size)
    os.utime(final, ns=(times.st_atime_ns, times.st_mtime_ns))
    state = read_state(folder.manifest)
    assert verify(state, folder, thorough=False).good
    assert not verify(state, folder, thorough=True).good


def test_changed_inputs_are_refused_unless_accepted_and_then_recorded(folder, tmp_path):
    source = tmp_path / "in.root"
    source.write_bytes(b"events")
    status = source.stat()
    listed = InputFile(
        path=str(source),
        bytes=status.st_size,
        mtime_ns=status.st_mtime_ns,
        entries=1,
        fingerprint=fingerprint(source),
    )
    create(folder, inputs=(listed,)).close()
    source.write_bytes(b"other!")
    with Manifest.open(folder) as manifest:
        with pytest.raises(BadInputError, match=r"in\.root: its content has changed"):
            recover(manifest, folder)
        recover(manifest, folder, accept_changed_inputs=True)
        assert manifest.state.notes[-1].kind == "changed-inputs"


def test_an_input_that_was_only_touched_is_the_same(folder, tmp_path):
    source = tmp_path / "in.root"
    source.write_bytes(b"events")
    listed = InputFile(
        path=str(source), bytes=6, mtime_ns=1, entries=1, fingerprint=fingerprint(source)
    )
    create(folder, inputs=(listed,)).close()
    os.utime(source, ns=(5, 5))
    with Manifest.open(folder) as manifest:
        recover(manifest, folder)
