"""generate and reconstruct on real Pythia events, run as batches are: range by range, in a folder.

One sample of 12 events is made once; all tests read it.
"""

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from dask_runner import rootfiles
from dask_runner.batch import BatchFailedError, FailureKind
from dask_runner.chain import formats
from dask_runner.errors import BadInputError
from dask_runner.settings import Settings
from dask_runner.settings.schema import (
    DEFAULT_STEPS,
    GenerateSettings,
    RunDefaults,
    StepSettings,
)
from dask_runner.workloads.generate import Generate
from dask_runner.workloads.interface import MergeRequest, Part
from dask_runner.workloads.joining import join_events
from dask_runner.workloads.reconstruct import Reconstruct

STANDIN = Path(__file__).parent.parent / "standins" / "transform.py"
EVENTS = 12


def _generate(folder, size, files, **fields):
    folder.mkdir(exist_ok=True)
    settings = Settings(
        generate=GenerateSettings(batch_size=size, files=files, evnt_dir=str(folder)),
        run=RunDefaults(seed=2),
    )
    workload = Generate.from_settings(settings, **fields)
    return workload, _run_all(workload, folder)


def _run_all(workload, folder):
    """Every batch in a folder of its own; outputs moved to `folder` as publishing would."""
    batches = workload.plan().batches
    for batch in batches:
        attempt = folder / f"attempt{batch.index}"
        attempt.mkdir()
        workload.run(batch, attempt)
        for output in batch.outputs:
            (attempt / output.name).rename(folder / output.name)
        shutil.rmtree(attempt)
    return batches


def _merged(workload, batches, folder, *, missing=()):
    target = folder / "merged"
    target.mkdir()
    parts = [Part(batch=b, folder=folder) for b in batches if b.index not in missing]
    lost = [batch for batch in batches if batch.index in missing]
    request = MergeRequest(
        parts=parts, missing=lost, folder=target, metadata={"missing_batches": list(missing)}
    )
    return workload.merge(request)


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sample")
    _generate(folder, 5, 2)
    _generate(folder, 2, 1, extend=True)
    return folder


@pytest.fixture(scope="module")
def reference(sample, tmp_path_factory):
    """The content hashes of the built-in chain, by format."""
    folder = tmp_path_factory.mktemp("reference")
    return _hashes(_reconstruct(sample, 50), folder)


def _reconstruct(sample, size, **fields):
    return Reconstruct(evnt_dir=str(sample), batch_size=size, seed=2, run_number=304795, **fields)


def _hashes(workload, folder):
    merged = _merged(workload, _run_all(workload, folder), folder)
    assert [file.entries for file in merged] == [EVENTS] * len(merged)
    return {Path(file.path).name.split(".")[1]: file.content_hash for file in merged}


def test_the_same_events_whatever_the_size_and_number_of_files(sample, tmp_path):
    """Section 5: the same time-based seed for every batch; event numbers from batch counts."""
    one, batches = _generate(tmp_path / "one", EVENTS, 1)
    (whole,) = _merged(one, batches, tmp_path / "one")
    parts = sorted(sample.glob("*.EVNT.root"))
    assert [part.name for part in parts] == [
        "304795.2.2.EVNT.root", "304795.5.0.EVNT.root", "304795.5.1.EVNT.root"
    ]  # fmt: skip
    joined = join_events(parts, tmp_path / "joined.root", "events", {}, most=EVENTS)
    assert joined.content_hash == whole.content_hash
    assert whole.entries == EVENTS
    numbers = rootfiles.read(Path(whole.path), "events", columns=("event",))["event"]
    assert numbers.tolist() == list(range(1, EVENTS + 1))


@pytest.mark.parametrize("size", [1, 3, 5])
def test_the_same_bits_whatever_the_batch_size(sample, reference, tmp_path, size):
    assert _hashes(_reconstruct(sample, size), tmp_path) == reference


def test_intermediate_formats_are_written_only_if_kept(sample, reference, tmp_path):
    workload = _reconstruct(sample, 50, keep=("HITS", "AOD", "NTUP"))
    (batch, *_) = workload.plan().batches
    workload.run(batch, tmp_path)
    assert {path.name.split(".")[-2] for path in tmp_path.iterdir()} == {"HITS", "AOD", "NTUP"}
    assert len(list(tmp_path.iterdir())) == 3


def test_steps_are_said_in_the_log_and_counted(sample, tmp_path, capfd):
    workload = _reconstruct(sample, 3)
    counters = workload.run(workload.plan().batches[1], tmp_path)
    said = capfd.readouterr().out
    for step in ("simulate", "digitize", "reconstruct", "ntuple"):
        assert f"step {step}: 3 events in " in said
        assert counters[f"{step}_s"] >= 0
    assert counters["events"] == 3


def test_external_and_built_in_steps_mix(sample, reference, tmp_path):
    """An external step in the middle: files to and from it, memory elsewhere. The outside program
    copies its input, so the format that it hands on is the one that it got.
    """
    copy = StepSettings(name="look", output="COPY", command="cp {input} {output}", tree="events")
    steps = (*DEFAULT_STEPS, copy)
    workload = _reconstruct(sample, 5, steps=steps, keep=("AOD", "NTUP", "COPY"))
    hashes = _hashes(workload, tmp_path)
    assert hashes["COPY"] == reference["NTUP"]
    assert {key: hashes[key] for key in reference} == reference


def test_the_range_goes_to_the_first_step_only(tmp_path):
    """Section 5: skipEvents was passed to every step, so all but the first batch failed."""
    evnt = tmp_path / "evnt"
    evnt.mkdir()
    table = rootfiles.Table(entries=10, columns={"event": np.arange(10)})
    rootfiles.write(evnt / "a.evnt.pool.root", {"CollectionTree": table}, {})
    steps = (
        _standin("sim", "HITS", tmp_path, available=10),
        _standin("reco", "AOD", tmp_path, available=4),
    )
    workload = _reconstruct(evnt, 4, steps=steps, keep=("AOD",))
    batches = workload.plan().batches
    counters = []
    for batch in batches:
        attempt = tmp_path / f"attempt{batch.index}"
        attempt.mkdir()
        counters.append(workload.run(batch, attempt))
        assert rootfiles.validate(attempt / batch.outputs[0].name, "CollectionTree") == batch.count
    calls = (tmp_path / "calls").read_text().splitlines()
    options = [dict(zip(c.split()[::2], c.split()[1::2], strict=True)) for c in calls]
    asked = [(o["--skipEvents"], o["--maxEvents"]) for o in options]
    assert asked == [("0", "4"), ("0", "4"), ("4", "4"), ("0", "4"), ("8", "2"), ("0", "2")]
    assert len({option["--randomSeed"] for option in options}) == 6


def _standin(name, form, folder, *, available):
    command = (
        f'bash -c \'echo "${{@:3}}" >> {folder}/calls; exec "$@"\' bash {{python}} {STANDIN}'
        " --maxEvents {max_events} --skipEvents {first} --randomSeed {seed}"
        f" --inputFile {{input}} --outputFile {{output}} --available {available}"
    )
    words = command.replace("${@:3}", "$${{@:3}}").replace('"$@"', '"$$@"')
    return StepSettings(name=name, output=form, command=words, tree="CollectionTree")


class TestBadInput:
    def test_a_file_damaged_after_the_plan_is_named(self, sample, tmp_path):
        evnt = tmp_path / "evnt"
        shutil.copytree(sample, evnt)
        workload = _reconstruct(evnt, 50)
        batch = workload.plan().batches[0]
        path = Path(batch.inputs[0].path)
        os.truncate(path, path.stat().st_size // 2)
        failure = self._failure(workload, batch, tmp_path)
        assert (failure.kind, failure.path) == (FailureKind.BAD_INPUT, str(path))
        assert "truncated" in failure.message
        assert str(path) in failure.message

    def test_a_file_that_is_gone(self, sample, tmp_path):
        evnt = tmp_path / "evnt"
        shutil.copytree(sample, evnt)
        workload = _reconstruct(evnt, 50)
        batch = workload.plan().batches[0]
        Path(batch.inputs[0].path).unlink()
        assert self._failure(workload, batch, tmp_path).kind is FailureKind.BAD_INPUT

    def test_another_format_under_the_name_of_events(self, sample, tmp_path):
        workload = _reconstruct(sample, 50, keep=("AOD",))
        batch = workload.plan().batches[0]
        workload.run(batch, tmp_path)
        evnt = tmp_path / "evnt"
        evnt.mkdir()
        (tmp_path / batch.outputs[0].name).rename(evnt / "fake.EVNT.root")
        other = _reconstruct(evnt, 50)
        failure = self._failure(other, other.plan().batches[0], tmp_path)
        assert failure.kind is FailureKind.BAD_INPUT
        assert "it holds AOD, not EVNT" in failure.message

    def test_the_input_is_looked_at_when_an_external_program_fails(self, sample, tmp_path):
        evnt = tmp_path / "evnt"
        shutil.copytree(sample, evnt)
        command = "bash -c 'exit 1' bash {input} {output} {first} {max_events}"
        steps = (StepSettings(name="sim", output="HITS", command=command),)
        workload = _reconstruct(evnt, 50, steps=steps, keep=("HITS",))
        batch = workload.plan().batches[0]
        assert self._failure(workload, batch, tmp_path).kind is FailureKind.EXIT_CODE
        path = Path(batch.inputs[0].path)
        os.truncate(path, path.stat().st_size // 2)
        failure = self._failure(workload, batch, tmp_path)
        assert (failure.kind, failure.path) == (FailureKind.BAD_INPUT, str(path))

    def test_what_an_external_step_spoils_is_not_blamed_on_the_input(self, sample, tmp_path):
        command = "cp /dev/null {output}"
        steps = (
            *DEFAULT_STEPS[:1],
            StepSettings(name="bad", output="BAD", command=f"{command} {{input}}"),
        )
        workload = _reconstruct(sample, 50, steps=steps, keep=("BAD",))
        batch = workload.plan().batches[0]
        assert self._failure(workload, batch, tmp_path).kind is FailureKind.EXIT_CODE

    @staticmethod
    def _failure(workload, batch, folder):
        attempt = folder / "attempt"
        shutil.rmtree(attempt, ignore_errors=True)
        attempt.mkdir()
        with pytest.raises(BatchFailedError) as caught:
            workload.run(batch, attempt)
        return caught.value


class TestMerge:
    def test_parts_in_any_order_give_the_same_file(self, sample, reference, tmp_path):
        workload = _reconstruct(sample, 4)
        batches = _run_all(workload, tmp_path)
        merged = _merged(workload, batches[::-1], tmp_path)
        assert [file.content_hash for file in merged] == [reference["AOD"], reference["NTUP"]]

    def test_missing_ranges_are_in_the_file(self, sample, tmp_path):
        workload = _reconstruct(sample, 4)
        merged = _merged(workload, _run_all(workload, tmp_path), tmp_path, missing=(1,))
        for file in merged:
            assert file.entries == EVENTS - 4
            metadata = rootfiles.read_metadata(Path(file.path))
            assert metadata["missing_batches"] == [1]

    def test_a_part_with_fewer_events_is_refused(self, sample, tmp_path):
        workload = _reconstruct(sample, 4)
        batches = _run_all(workload, tmp_path)
        short, other = (tmp_path / batches[k].outputs[0].name for k in (1, 0))
        short.unlink()
        data = formats.read(other, first=0, count=1)
        formats.write(short, data)
        other.unlink()
        formats.write(other, formats.EventData(
            format="AOD", events=data.events.slice(0, 0), metadata=data.metadata
        ))  # fmt: skip
        with pytest.raises(BadInputError):
            _merged(workload, batches, tmp_path)


def test_generate_with_an_external_program(tmp_path):
    command = (
        f"{sys.executable} {STANDIN} --outputFile {{output}} --maxEvents {{max_events}}"
        f" --randomSeed {{seed}} --skipEvents 0 --record {tmp_path}/{{first_event}}"
    )
    settings = Settings(
        generate=GenerateSettings(
            run_number=5, batch_size=6, files=2, evnt_dir=str(tmp_path), command=command
        )
    )
    workload = Generate.from_settings(settings)
    batches = _run_all(workload, tmp_path)
    names = ["5.6.0.evnt.pool.root", "5.6.1.evnt.pool.root"]
    assert [batch.outputs[0].name for batch in batches] == names
    assert {"1", "7"} < {path.name for path in tmp_path.iterdir()}
    # What it wrote is input for the next step, with its own tree.
    plan = _reconstruct(tmp_path, 4).plan()
    assert [batch.count for batch in plan.batches] == [4, 2, 4, 2]
    (merged,) = _merged(workload, batches, tmp_path)
    assert merged.entries == 12


def test_two_external_batches_never_share_a_seed(tmp_path):
    """Section 5: 20 launches, one seed."""
    command = "bash -c 'echo $1 >> ../seeds; cp ../f $2' bash {seed} {output}"
    settings = Settings(
        generate=GenerateSettings(
            run_number=5,
            files=20,
            evnt_dir=str(tmp_path),
            command=f"{command} {{first_event}} {{max_events}}",
            tree="",
        )
    )
    (tmp_path / "f").touch()
    _run_all(Generate.from_settings(settings), tmp_path)
    assert len(set((tmp_path / "seeds").read_text().split())) == 20
