"""The plan of `generate`, and where a folder goes on."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_runner import rootfiles
from dask_runner.batch import WorkloadSpec
from dask_runner.chain.hidden_valley import make_sample
from dask_runner.errors import BadInputError, UsageError
from dask_runner.rootfiles import Table
from dask_runner.settings import Settings
from dask_runner.settings.schema import GenerateSettings, RunDefaults
from dask_runner.workloads import load, spec_of
from dask_runner.workloads.generate import Generate

RUN = 304795


def _settings(folder, **generate):
    return Settings(
        generate=GenerateSettings(run_number=RUN, evnt_dir=str(folder), **generate),
        run=RunDefaults(seed=3),
    )


def _workload(folder, **fields):
    values = {"batch_size": 10, "files": 3, "seed": 3, "evnt_dir": str(folder)} | fields
    return Generate(sample=make_sample(RUN), **values)


def _evnt(path, events, *, run=RUN, **metadata):
    sample = make_sample(RUN)
    about = {"format": "EVNT", "run_number": RUN, "seed": 3, "mh": sample.mh, "ms": sample.ms}
    about |= {"ctau": sample.ctau, "process": sample.process} | metadata
    numbers = np.asarray(events, dtype=np.int64)
    columns = {"run": np.full(len(numbers), run, dtype=np.int32), "event": numbers}
    rootfiles.write(path, {"events": Table(entries=len(numbers), columns=columns)}, about)


@given(st.integers(1, 400), st.integers(1, 60), st.integers(0, 1000), st.integers(0, 50))
def test_event_numbers_are_contiguous_and_unique(size, files, first_event, first_file):
    """Section 5: event numbers came from the number of batches; 100 000 events had 5 380."""
    workload = _workload(
        "/nowhere", batch_size=size, files=files, first_event=first_event, first_file=first_file
    )
    batches = workload.plan().batches
    numbers = [
        event
        for batch in batches
        for event in range(
            batch.parameters["first_event"], batch.parameters["first_event"] + batch.count
        )
    ]
    assert numbers == list(range(first_event, first_event + size * files))
    assert [batch.index for batch in batches] == list(range(files))


def test_files_are_named_by_run_number_size_and_position(tmp_path):
    batches = _workload(tmp_path).plan().batches
    assert [b.outputs[0].name for b in batches] == [f"{RUN}.10.{k}.EVNT.root" for k in range(3)]
    assert all((b.outputs[0].tree, b.outputs[0].entries) == ("events", 10) for b in batches)


def test_the_manifest_alone_makes_the_same_plan(tmp_path):
    workload = Generate.from_settings(_settings(tmp_path))
    spec = msgspec.json.decode(msgspec.json.encode(spec_of(workload)), type=WorkloadSpec)
    assert spec.name == "generate"
    assert load(spec) == workload
    assert load(spec).plan() == workload.plan()


def test_a_pythia_card_is_part_of_the_manifest(tmp_path):
    card = tmp_path / "my.cmnd"
    card.write_text("HardQCD:all = on\n")
    workload = Generate.from_settings(_settings(tmp_path, pythia_card=str(card)))
    card.unlink()
    assert "HardQCD:all = on" in workload.sample.pythia


def test_files_that_are_there_are_not_planned_again(tmp_path):
    (tmp_path / f"{RUN}.10.1.EVNT.root").touch()
    with pytest.raises(UsageError, match=r"10\.1\.EVNT\.root exists already") as caught:
        _workload(tmp_path).plan()
    assert "--extend" in caught.value.hint


def test_events_without_random_numbers_are_refused_when_planned(tmp_path):
    with pytest.raises(UsageError, match="has no random seed"):
        _workload(tmp_path, batch_size=1000, files=1001).plan()


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("gen {output} {first_event} {maxevents}", "unknown placeholder {maxevents}"),
        ("gen {output} {max_events}", "does not use {first_event}"),
        ("gen {input}", "unknown placeholder {input}"),
    ],
)
def test_an_external_command_is_checked_when_planned(tmp_path, command, said):
    workload = Generate.from_settings(_settings(tmp_path, command=command))
    with pytest.raises(UsageError) as caught:
        workload.plan()
    assert said in caught.value.message


class TestExtend:
    def test_events_and_files_go_on(self, tmp_path):
        _evnt(tmp_path / f"{RUN}.10.0.EVNT.root", range(1, 11))
        _evnt(tmp_path / f"{RUN}.7.12.EVNT.root", range(11, 18))
        settings = _settings(tmp_path, batch_size=5, files=2)
        batches = Generate.from_settings(settings, extend=True).plan().batches
        assert [b.parameters["first_event"] for b in batches] == [18, 23]
        assert [b.outputs[0].name for b in batches] == [f"{RUN}.5.{k}.EVNT.root" for k in (13, 14)]

    def test_numbers_are_read_from_the_file_and_not_from_its_name(self, tmp_path):
        """Section 5: batch sizes were believed from file names."""
        _evnt(tmp_path / f"{RUN}.5000.0.EVNT.root", range(40, 43))
        assert Generate.from_settings(_settings(tmp_path), extend=True).first_event == 43

    def test_an_empty_or_missing_folder_begins(self, tmp_path):
        for folder in (tmp_path, tmp_path / "none"):
            workload = Generate.from_settings(_settings(folder), extend=True)
            assert (workload.first_event, workload.first_file) == (1, 0)

    @pytest.mark.parametrize(
        ("metadata", "said"),
        [
            ({"seed": 4}, "has seed 4, not 3"),
            ({"run_number": 1}, "has run_number 1"),
            ({"ms": 40.0}, "has ms 40.0, not 25.0"),
            ({"format": "AOD"}, "not written by the embedded generator"),
        ],
    )
    def test_another_sample_is_refused(self, tmp_path, metadata, said):
        _evnt(tmp_path / f"{RUN}.10.0.EVNT.root", range(1, 11), **metadata)
        with pytest.raises(UsageError) as caught:
            Generate.from_settings(_settings(tmp_path), extend=True)
        assert said in caught.value.message
        assert f"{RUN}.10.0.EVNT.root" in caught.value.message

    def test_events_of_another_run_number_are_refused(self, tmp_path):
        _evnt(tmp_path / f"{RUN}.10.0.EVNT.root", range(1, 11), run=5)
        with pytest.raises(BadInputError, match="events of another run number"):
            Generate.from_settings(_settings(tmp_path), extend=True)

    def test_an_event_that_is_there_twice_is_refused(self, tmp_path):
        _evnt(tmp_path / f"{RUN}.10.0.EVNT.root", range(1, 11))
        _evnt(tmp_path / f"{RUN}.10.1.EVNT.root", range(10, 20))
        with pytest.raises(BadInputError, match="1 events are there twice, the first is 10"):
            Generate.from_settings(_settings(tmp_path), extend=True)

    def test_a_damaged_or_foreign_file_is_named(self, tmp_path):
        (tmp_path / "x.EVNT.root").write_bytes(b"root, not really")
        with pytest.raises(BadInputError, match=r"x\.EVNT\.root"):
            Generate.from_settings(_settings(tmp_path), extend=True)
