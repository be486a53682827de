"""Files of a model: part of the plan and of every batch, and never another one in their place."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from msgspec import Struct, structs

from dask_runner import model_files
from dask_runner.batch import BatchFailedError, FailureKind, InputRange
from dask_runner.errors import BadInputError
from dask_runner.model_files import ModelFile
from dask_runner.trials import models
from dask_runner.trials.model import BlockTrial, Parameters
from dask_runner.trials.points import Demand
from dask_runner.verify import changed_inputs, refused_inputs
from dask_runner.workloads.trials import Trials


class Reader(Struct, frozen=True, kw_only=True):
    """Gives the number that is in its file."""

    file: ModelFile

    def files(self) -> tuple[ModelFile, ...]:
        return (self.file,)

    def located(self, places: Mapping[str, Path]) -> "Reader":
        return structs.replace(self, file=model_files.located(self.file, places))

    def parameters(self) -> Parameters:
        return Parameters()

    def fields(self) -> dict[str, str]:
        return {"x": "<f8"}

    def sampler(self, point):
        value = float(self.file.local.read_text())
        return BlockTrial(words=1, run=lambda u: {"x": np.full(len(u), value)})


@pytest.fixture
def planned(tmp_path, monkeypatch):
    monkeypatch.setitem(models.MODELS, "reader", f"{__name__}:Reader")
    path = tmp_path / "50% \u00fc.txt"
    path.write_text("4.5")
    spec = models.spec_of("reader", Reader(file=model_files.model_file(path)))
    demands = (Demand(point={}, trials=10),)
    work = Trials(model=spec, seed=1, demands=demands, sizes=(5,), fields={"x": "<f8"})
    return path, work, work.plan()


def table(results):
    import io

    return np.load(io.BytesIO(next(iter(results.files.values()))))


def test_files_are_inputs_of_plan_and_batches(planned, tmp_path):
    _, work, plan = planned
    (file,) = plan.inputs
    assert file.fixed
    assert file.sha256 == work.model.files[0].sha256
    assert [batch.inputs for batch in plan.batches] == [(InputRange(path=file.path),)] * 2
    assert work.divide(plan.batches[0], 2, first_index=2)[0].inputs == plan.batches[0].inputs
    assert (table(work.run(plan.batches[0], tmp_path))["x"] == 4.5).all()


def test_the_file_is_read_where_the_batch_says(planned, tmp_path):
    path, work, plan = planned
    copy = tmp_path / "cache"
    path.rename(copy)
    batch = structs.replace(plan.batches[0], inputs=(InputRange(path=str(copy)),))
    assert (table(work.run(batch, tmp_path))["x"] == 4.5).all()


def test_another_content_is_refused_everywhere(planned, tmp_path):
    path, work, plan = planned
    path.write_text("5.5")
    with pytest.raises(BatchFailedError, match="not the file") as caught:
        work.run(plan.batches[0], tmp_path)
    assert caught.value.kind is FailureKind.BAD_INPUT
    assert caught.value.path == plan.inputs[0].path
    for step in (lambda: model_files.check(work.model.files), work.plan):
        with pytest.raises(BadInputError, match="not the file"):
            step()
    assert len(refused_inputs(plan.inputs)) == 1
    other = structs.replace(plan.inputs[0], fixed=False)
    assert not refused_inputs([other])
    assert len(changed_inputs([other], thorough=False)) == 1
    path.unlink()
    with pytest.raises(BadInputError, match="No such file"):
        model_files.check(work.model.files)


def test_a_change_in_the_middle_of_a_large_file_is_seen(tmp_path):
    path = tmp_path / "large"
    content = bytearray(300_000)
    path.write_bytes(content)
    plan = model_files.planned([model_files.model_file(path)])
    content[150_000] = 1
    path.write_bytes(content)
    assert len(refused_inputs(plan)) == 1


def test_another_content_is_another_model(planned):
    path, work, _ = planned
    path.write_text("5.5")
    other = models.spec_of("reader", Reader(file=model_files.model_file(path)))
    assert models.identity(other) != models.identity(work.model)


def test_what_is_no_file_is_named(tmp_path):
    with pytest.raises(BadInputError, match="nothing: No such file"):
        model_files.model_file(tmp_path / "nothing")
    with pytest.raises(BadInputError, match="not a regular file"):
        model_files.model_file(tmp_path)
