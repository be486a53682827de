"""The settings files in examples/: the all-external chain gives the bits of the built-in one."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from dask_runner import rootfiles
from dask_runner.settings import Settings
from dask_runner.workloads.checks import checks
from dask_runner.workloads.generate import Generate
from dask_runner.workloads.interface import MergeRequest, Part
from dask_runner.workloads.reconstruct import Reconstruct

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


def _settings(name):
    return msgspec.toml.decode((EXAMPLES / name).read_bytes(), type=Settings)


def _small(settings, folder):
    replace = msgspec.structs.replace
    return replace(
        settings,
        generate=replace(settings.generate, batch_size=3, files=2, evnt_dir=str(folder / "evnt")),
        run=replace(settings.run, batch_size=2),
    )


def _run_all(workload, folder):
    folder.mkdir(parents=True)
    batches = workload.plan().batches
    for batch in batches:
        attempt = folder / f"attempt{batch.index}"
        attempt.mkdir()
        workload.run(batch, attempt)
        for output in batch.outputs:
            (attempt / output.name).rename(folder / output.name)
    (folder / "merged").mkdir()
    parts = [Part(batch=batch, folder=folder) for batch in batches]
    return workload.merge(MergeRequest(parts=parts, folder=folder / "merged"))


def test_the_all_external_chain_gives_the_bits_of_the_built_in_one(tmp_path):
    external = _small(_settings("all_external.toml"), tmp_path / "external")
    built_in = _small(Settings(), tmp_path / "built-in")
    found = {}
    for name, settings in (("external", external), ("built-in", built_in)):
        made = _run_all(Generate.from_settings(settings), tmp_path / name / "evnt")
        kept = _run_all(Reconstruct.from_settings(settings), tmp_path / name / "out")
        found[name] = [(file.entries, file.content_hash) for file in (*made, *kept)]
    assert found["external"] == found["built-in"]
    assert [entries for entries, _ in found["external"]] == [6, 6, 6]
    evnt = sorted((tmp_path / "built-in" / "evnt").glob("*.EVNT.root"))
    assert len({rootfiles.content_hash(path) for path in evnt}) == 2


def test_the_programs_of_the_example_are_found(tmp_path):
    settings = _small(_settings("all_external.toml"), tmp_path)
    assert checks(Generate.from_settings(settings)) == []
    assert checks(Reconstruct.from_settings(settings)) == []


def test_athena_is_planned_and_its_absence_is_found(tmp_path):
    settings = _small(_settings("athena.toml"), tmp_path)
    (tmp_path / "evnt").mkdir()
    table = rootfiles.Table(entries=5, columns={"event": np.arange(5)})
    path = tmp_path / "evnt" / "mc15.evnt.pool.root"
    rootfiles.write(path, {"CollectionTree": table}, {})
    workload = Reconstruct.from_settings(settings)
    plan = workload.plan()
    assert [batch.count for batch in plan.batches] == [2, 2, 1]
    outputs = plan.batches[0].outputs
    assert [output.name for output in outputs] == [
        "mc15.0-1.AOD.root", "mc15.0-1.DAOD_EXOT15.root"
    ]  # fmt: skip
    assert [output.acceptance for output in outputs] == pytest.approx([1.0, 0.01])
    if not Path("/cvmfs/atlas.cern.ch").exists():
        problems = checks(workload)
        assert len(problems) == 3
        assert all("atlasLocalSetup.sh" in problem for problem in problems)
