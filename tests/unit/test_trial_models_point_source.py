"""The trial model point-source: parameters, streams, and what belongs together."""

import msgspec
import numpy as np
import pytest
import sky_example as example

from dask_runner.errors import UsageError
from dask_runner.sky.flux import PowerLaw
from dask_runner.sky.search import Search
from dask_runner.trials import models, running
from dask_runner.trials.job import Job
from dask_runner.trials.model import Model
from dask_runner.trials.models.point_source import PointSource
from dask_runner.trials.pilot import check_points, measure

CONFIG = "[experiment]\nevents = 20000\n[simulation]\nevents = 60000\n[signal]\nindex = 2.2\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("search") / "search.toml"
    path.write_text(CONFIG)
    # Python's users give texts.
    made = PointSource.from_options(config=str(path))
    assert made == PointSource.from_options(config=path)
    return made


def test_it_is_a_model(model):
    assert isinstance(model, Model)
    spec = models.spec_of("point-source", model)
    again = msgspec.json.decode(msgspec.json.encode(spec), type=models.ModelSpec)
    assert models.load(again) == model
    assert spec.files == ()
    assert model.parameters().optional == {"n_sig": 0, "index": 2.2, "cutoff": 0, "extension": 0}
    assert "20000 events in 365.25 days at random right ascension" in model.notes[0]
    pilot = measure(model, "point-source", [{"dec": 5}, {"dec": 5, "n_sig": 3}], 1)
    assert pilot.fields == model.fields()
    assert [cost.failed for cost in pilot.costs] == [0, 0]


@pytest.mark.parametrize("point", [{"dec": -20}, {"dec": 5, "n_sig": 8, "extension": 1}])
def test_trials_do_not_depend_on_how_they_are_divided(model, point):
    def table(first, count):
        job = Job(
            model="point-source",
            seed=7,
            point=point,
            first=first,
            count=count,
            fields=model.fields(),
        )
        return running.run(model.sampler(point), job).table

    whole = table(0, 60)
    assert np.concatenate([table(0, 1), table(1, 30), table(31, 29)]).tobytes() == whole.tobytes()
    assert len(np.unique(whole["n_near"])) > 10
    assert whole["converged"].all()
    assert (whole["n_injected"].mean() > 4) == ("n_sig" in point)


def test_what_is_injected_follows_the_point(model):
    base = {"dec": 10, "n_sig": 20}

    def mean(name, **more):
        rows = example.rows(model.search, {**base, **more}, 60)
        return example.column(rows, name).mean()

    assert mean("gamma") == pytest.approx(2.2, abs=0.15)
    assert mean("gamma", index=3) == pytest.approx(3, abs=0.3)
    assert mean("ts") > 1.3 * mean("ts", cutoff=2e4) > 1.3 * mean("ts", cutoff=2e4, extension=4)
    assert model.flux({"index": 3, "cutoff": 1e4}) == PowerLaw(index=3, cutoff=1e4)
    # What a point says as the configuration does is the same source.
    assert model.flux({}) == model.flux({"index": 2.2, "cutoff": 0})


def test_points_that_make_no_sense(model):
    for point, message in [
        ({"dec": 91}, "dec=91 is not within -90 to 90 degrees"),
        ({"dec": "north"}, "dec='north' is not a number"),
        ({"dec": 0, "n_sig": -1}, "n_sig=-1 is not within 0 to 1e6"),
        ({"dec": 0, "index": -2}, "index = -2 is not possible"),
        ({"dec": 0, "index": 20}, "index = 20 is not possible"),
        ({"dec": 0, "n_sig": 1, "cutoff": -1}, "cutoff = -1 is not possible"),
        ({"dec": 0, "extension": 40}, "extension=40 is not within 0 to 30 degrees"),
    ]:
        with pytest.raises(UsageError, match=message):
            model.sampler(point)
    with pytest.raises(UsageError, match="has no dec"):
        check_points(model, "point-source", [{"n_sig": 1}])
    with pytest.raises(UsageError, match="has no parameter 'ra'"):
        check_points(model, "point-source", [{"dec": 1, "ra": 3}])
    with pytest.raises(UsageError, match="needs --config"):
        PointSource.from_options()


def test_the_poles(model):
    for dec in (-90, 90):
        rows = example.rows(model.search, {"dec": dec, "n_sig": 5}, 30)
        assert example.column(rows, "converged").all()
        assert example.column(rows, "ts").max() > 5


def test_trials_know_no_observed_right_ascension(model):
    """With the experiment turned and mixed up, all trials are the same."""
    search = Search.load(model.search)
    before = example.rows(model.search, {"dec": 5, "n_sig": 3}, 5)
    kept = search.experiment
    try:
        mixed = np.random.default_rng(1).permutation(kept.ra)
        search.experiment = msgspec.structs.replace(kept, ra=mixed)
        assert example.rows(model.search, {"dec": 5, "n_sig": 3}, 5) == before
    finally:
        search.experiment = kept


def test_identity_is_what_the_trials_depend_on(model, tmp_path):
    def identity(text):
        path = tmp_path / "search.toml"
        path.write_text(text)
        spec = models.spec_of("point-source", PointSource.from_options(config=path))
        return models.identity(spec)

    mine = models.identity(models.spec_of("point-source", model))
    assert identity(CONFIG) == mine
    assert identity(CONFIG + "pivot = 1000.0\n") == mine
    assert identity(CONFIG.replace("2.2", "2.3")) != mine
    assert identity(CONFIG.replace("20000", "20001")) != mine
    table = np.zeros(30, [(name, "f8") for name in ("ra", "dec", "sigma", "log10e")])
    table["sigma"], table["log10e"] = 0.02, 3
    found = []
    for name in ("a.npy", "b.npy"):
        np.save(tmp_path / name, table)
        found.append(
            identity(f'livetime = 9\n[experiment]\nfile = "{name}"\n[simulation]\nevents = 1000')
        )
    assert found[0] == found[1]
    np.save(tmp_path / "b.npy", table[:20])
    assert (
        identity('livetime = 9\n[experiment]\nfile = "b.npy"\n[simulation]\nevents = 1000')
        != found[0]
    )


def test_a_declination_without_background(tmp_path):
    table = np.zeros(200, [(name, "f8") for name in ("ra", "dec", "sigma", "log10e")])
    table["dec"] = np.linspace(0.2, 1.2, 200)
    table["sigma"], table["log10e"] = 0.02, 3
    np.save(tmp_path / "north.npy", table)
    path = tmp_path / "search.toml"
    path.write_text('livetime = 9\n[experiment]\nfile = "north.npy"\n[simulation]\nevents = 1000')
    model = PointSource.from_options(config=path)
    with pytest.raises(UsageError, match="no events near declination -30"):
        model.sampler({"dec": -30})
    rows = example.rows(model.search, {"dec": 30, "n_sig": 4}, 20)
    assert example.column(rows, "converged").all()
