"""The plan of `run`: real counts, exact ranges, named problems, and steps that fit together."""

import os

import msgspec
import numpy as np
import pytest

from dask_runner import rootfiles
from dask_runner.batch import WorkloadSpec
from dask_runner.errors import BadInputError, UsageError
from dask_runner.files import path_to_text, text_to_path
from dask_runner.rootfiles import Table
from dask_runner.settings import Settings
from dask_runner.settings.schema import (
    GenerateSettings,
    ReconstructSettings,
    RunDefaults,
    StepSettings,
)
from dask_runner.workloads import load, spec_of
from dask_runner.workloads.reconstruct import Reconstruct


def _root(path, entries, tree="events"):
    path.parent.mkdir(parents=True, exist_ok=True)
    table = Table(entries=entries, columns={"event": np.arange(entries, dtype=np.int64)})
    rootfiles.write(path, {tree: table}, {})


def _workload(folder, size=4, **fields):
    return Reconstruct(evnt_dir=path_to_text(folder), batch_size=size, seed=1, **fields)


def _ranges(plan):
    return [
        (text_to_path(part.path).name, part.first, part.count)
        for batch in plan.batches
        for part in batch.inputs
    ]


def test_real_counts_are_split_in_natural_order(tmp_path):
    """Section 5: batch sizes were believed from file names."""
    _root(tmp_path / "304795.500.10.EVNT.root", 3)
    _root(tmp_path / "304795.500.2.EVNT.root", 9)
    _root(tmp_path / "mc.evnt.pool.root", 5, tree="CollectionTree")
    plan = _workload(tmp_path).plan()
    assert plan.problems == ()
    assert _ranges(plan) == [
        ("304795.500.2.EVNT.root", 0, 4),
        ("304795.500.2.EVNT.root", 4, 4),
        ("304795.500.2.EVNT.root", 8, 1),
        ("304795.500.10.EVNT.root", 0, 3),
        ("mc.evnt.pool.root", 0, 4),
        ("mc.evnt.pool.root", 4, 1),
    ]
    assert [batch.index for batch in plan.batches] == list(range(6))
    assert [batch.count for batch in plan.batches] == [4, 4, 1, 3, 4, 1]
    first = plan.batches[0].outputs
    assert [output.name for output in first] == [
        "304795.500.2.0-3.AOD.root", "304795.500.2.0-3.NTUP.root"
    ]  # fmt: skip
    assert [(o.tree, o.entries, o.acceptance) for o in first] == [("events", 4, 1.0)] * 2


def test_inputs_are_recorded_as_they_were(tmp_path):
    path = tmp_path / "a.EVNT.root"
    _root(path, 9)
    (file,) = _workload(tmp_path).plan().inputs
    status = path.stat()
    assert (file.path, file.entries) == (str(path), 9)
    assert (file.bytes, file.mtime_ns) == (status.st_size, status.st_mtime_ns)
    assert len(file.fingerprint) == 64


def test_every_bad_input_is_named(tmp_path):
    good = tmp_path / "good.EVNT.root"
    _root(good, 4)
    content = good.read_bytes()
    (tmp_path / "cut.EVNT.root").write_bytes(content[: len(content) * 9 // 10])
    (tmp_path / "text.EVNT.root").write_text("this is no ROOT file")
    (tmp_path / "nothing.EVNT.root").touch()
    (tmp_path / "gone.EVNT.root").symlink_to(tmp_path / "no such file")
    _root(tmp_path / "none.EVNT.root", 0)
    _root(tmp_path / "other.EVNT.root", 4, tree="wrong")
    _root(tmp_path / "pool.evnt.pool.root", 4)
    (tmp_path / "link.EVNT.root").symlink_to(good)
    os.mkfifo(tmp_path / "pipe.EVNT.root")
    plan = _workload(tmp_path).plan()
    said = "\n".join(plan.problems)
    for name, reason in {
        "cut.EVNT.root": "truncated",
        "text.EVNT.root": "not a ROOT file",
        "nothing.EVNT.root": "empty file",
        "gone.EVNT.root": "No such file",
        "none.EVNT.root": "has no events",
        "other.EVNT.root": "has no tree 'events'",
        "pool.evnt.pool.root": "has no tree 'CollectionTree'",
        "link.EVNT.root": "is the same file as",
        "pipe.EVNT.root": "is not a regular file",
    }.items():
        (line,) = [line for line in plan.problems if f"/{name}: " in line]
        assert reason in line
    assert said.count("\n") == 8
    assert _ranges(plan) == [("good.EVNT.root", 0, 4)]


def test_pool_files_of_production_are_counted_in_their_tree(tmp_path):
    _root(tmp_path / "EVNT.123._000001.pool.root.1", 3, tree="CollectionTree")
    plan = _workload(tmp_path, patterns=("EVNT.*",)).plan()
    assert (plan.problems, len(plan.batches)) == ((), 1)


def test_hidden_files_are_not_inputs(tmp_path):
    _root(tmp_path / ".a.EVNT.root.part", 2)
    _root(tmp_path / ".dask-runner" / "a.EVNT.root", 2)
    _root(tmp_path / "b.EVNT.root", 2)
    plan = _workload(tmp_path, patterns=("**/*.EVNT.root", "**/*.part", "*.EVNT.root")).plan()
    assert _ranges(plan) == [("b.EVNT.root", 0, 2)]


def test_an_empty_folder_says_what_to_do(tmp_path):
    with pytest.raises(BadInputError, match=r"matches \*\.EVNT\.root") as caught:
        _workload(tmp_path).plan()
    assert "generate" in caught.value.hint


def test_inputs_of_the_same_name_do_not_collide(tmp_path):
    """Section 5: batches wrote the same output name and overwrote each other."""
    _root(tmp_path / "x" / "a.EVNT.root", 4)
    _root(tmp_path / "y" / "a.EVNT.root", 4)
    _root(tmp_path / "a.evnt.pool.root", 4, tree="CollectionTree")
    plan = _workload(tmp_path, patterns=("**/*.root",)).plan()
    names = [output.name for batch in plan.batches for output in batch.outputs]
    assert len(set(names)) == len(names) == 6


def test_hostile_names_are_inputs_like_others(tmp_path):
    names = ["a b", "a'b\"", "$(x)", "a\nb", "-rf", "100%", "[red]", "a\udcff"]
    for name in names:
        _root(tmp_path / f"{name}.EVNT.root", 2)
    workload = _workload(tmp_path)
    spec = msgspec.json.decode(msgspec.json.encode(spec_of(workload)), type=WorkloadSpec)
    plan = load(spec).plan()
    assert msgspec.json.encode(plan)
    assert {name for name, _, _ in _ranges(plan)} == {f"{name}.EVNT.root" for name in names}


def test_settings_give_the_workload(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "setup.sh").touch()
    step = StepSettings(
        name="sim", output="HITS", command="x {input} {output} {first} {max_events}",
        setup="setup.sh",
    )  # fmt: skip
    settings = Settings(
        generate=GenerateSettings(evnt_dir="evnt"),
        run=RunDefaults(batch_size=7, seed=5),
        reconstruct=ReconstructSettings(steps=(step,), keep=("HITS",)),
    )
    workload = Reconstruct.from_settings(settings)
    assert workload.evnt_dir == os.fspath(tmp_path / "evnt")
    assert (workload.batch_size, workload.seed) == (7, 5)
    assert workload.steps[0].setup == f"source {tmp_path}/setup.sh"


_EXTERNAL = "sim {input} {output} {first} {max_events}"


@pytest.mark.parametrize(
    ("steps", "keep", "said"),
    [
        ([("simulate", "HITS", "")], ("AOD",), "no step writes 'AOD'"),
        ([("simulate", "HITS", "")], (), "keep is empty"),
        ([("simulate", "RDO", "")], ("RDO",), "makes HITS from EVNT, but is set to make RDO"),
        (
            [("digitize", "RDO", "")],
            ("RDO",),
            "makes RDO from HITS, but is set to make RDO from EV",
        ),
        ([("magic", "RDO", "")], ("RDO",), "has no command and is not built in"),
        ([("a", "EVNT", _EXTERNAL)], ("EVNT",), "an earlier step has the output EVNT"),
        (
            [("a", "X", _EXTERNAL), ("b", "X", _EXTERNAL)],
            ("X",),
            "an earlier step has the output X",
        ),
        ([("a", "X", _EXTERNAL), ("a", "Y", _EXTERNAL)], ("X",), "two steps are called 'a'"),
        ([("a", "X", "sim {inptu}")], ("X",), "unknown placeholder {inptu}"),
        ([("a", "X", "sim {input}")], ("X",), "does not use {output}, {first}, {max_events}"),
        ([("a", "X", "sim {input} {output}")], ("X",), "does not use {first}, {max_events}"),
        (
            [("a", "X", _EXTERNAL), ("b", "Y", "reco {output}")],
            ("Y",),
            "does not use {input}",
        ),
    ],
)
def test_steps_that_do_not_fit_together_are_refused_when_planned(tmp_path, steps, keep, said):
    _root(tmp_path / "a.EVNT.root", 4)
    made = tuple(StepSettings(name=n, output=o, command=c) for n, o, c in steps)
    with pytest.raises(UsageError) as caught:
        _workload(tmp_path, steps=made, keep=keep).plan()
    assert said in caught.value.message


def test_the_acceptance_of_an_output_is_the_product_of_its_steps(tmp_path):
    _root(tmp_path / "a.EVNT.root", 4)
    steps = (
        StepSettings(name="a", output="X", command=_EXTERNAL, tree="t", acceptance=0.5),
        StepSettings(name="b", output="Y", command="r {input} {output}", tree="t", acceptance=0.5),
        StepSettings(name="c", output="Z", command="r {input} {output}"),
    )
    (batch,) = _workload(tmp_path, steps=steps, keep=("X", "Y", "Z")).plan().batches
    assert [(o.tree, o.entries, o.acceptance) for o in batch.outputs] == [
        ("t", 4, 0.5),
        ("t", 4, 0.25),
        ("", None, 0.25),
    ]
