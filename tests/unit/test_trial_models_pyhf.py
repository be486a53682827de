"""The model pyhf: the same numbers as pyhf itself, toys of our own streams, clear errors."""

import json
import sys
from math import exp

import numpy as np
import pytest

from dask_runner.errors import BadInputError, UsageError
from dask_runner.seeds import TrialStreams
from dask_runner.stats import hypotest
from dask_runner.trials import running
from dask_runner.trials.job import Job
from dask_runner.trials.models import load, spec_of
from dask_runner.trials.models.pyhf_fit import Bounds, Data, minimise
from dask_runner.trials.models.pyhf_likelihood import Likelihood
from dask_runner.trials.models.pyhf_model import Pyhf, _Toys, observed

pyhf = pytest.importorskip("pyhf")


def normfactor(name="mu"):
    return {"name": name, "type": "normfactor", "data": None}


def sample(name, data, *modifiers):
    return {"name": name, "data": data, "modifiers": list(modifiers)}


def workspace(channels, counts, parameters=(), poi="mu"):
    return {
        "version": "1.0.0",
        "channels": [{"name": name, "samples": list(s)} for name, s in channels.items()],
        "observations": [{"name": name, "data": data} for name, data in counts.items()],
        "measurements": [
            {"name": "main", "config": {"poi": poi, "parameters": list(parameters)}},
        ],
    }


SINGLE = workspace(
    {"c": [sample("s", [3.0], normfactor()), sample("b", [1.0])]},
    {"c": [0]},
)
README = workspace(
    {
        "c": [
            sample("s", [12.0, 11.0], normfactor()),
            sample("b", [50.0, 52.0], {"name": "u", "type": "shapesys", "data": [3.0, 7.0]}),
        ]
    },
    {"c": [51, 48]},
)


def everything():
    """Each kind of modifier, shared between samples and channels."""
    lumi = {"name": "lumi", "type": "lumi", "data": None}
    norm = {"name": "eff", "type": "normsys", "data": {"lo": 0.85, "hi": 1.2}}
    other = {"name": "xs", "type": "normsys", "data": {"lo": 0.7, "hi": 1.25}}

    def shape(*values):
        low, high = [0.9 * v for v in values], [1.15 * v + 0.3 for v in values]
        return {"name": "jes", "type": "histosys", "data": {"lo_data": low, "hi_data": high}}

    def stat(name, *values):
        return {"name": name, "type": "staterror", "data": list(values)}

    free = {"name": "free", "type": "shapefactor", "data": None}
    uncorrelated = {"name": "u", "type": "shapesys", "data": [2.0, 0.0, 1.5]}
    signal = sample("sig", [4.0, 9.0, 5.0], normfactor(), lumi, norm, shape(4, 9, 5))
    control = sample("bkg", [200.0, 150.0], normfactor("norm"), stat("c", 5, 4), other)
    main = sample(
        "bkg", [30.0, 25.0, 20.0], normfactor("norm"), lumi, shape(30, 25, 20), norm, other,
        stat("m", 2, 2, 1.5),
    )  # fmt: skip
    rest = sample("rest", [10.0, 0.0, 8.0], uncorrelated, stat("m", 1, 0.1, 1), norm)
    side = sample("qcd", [60.0, 80.0], free)
    lumi_parameter = {
        "name": "lumi", "auxdata": [1.0], "sigmas": [0.02], "bounds": [[0.5, 1.5]], "inits": [1.0],
    }  # fmt: skip
    fixed = {"name": "xs", "fixed": True, "inits": [0.4]}
    counts = {"zz_main": [42, 33, 25], "control": [210, 144], "aside": [63, 75]}
    channels = {"zz_main": [main, rest, signal], "control": [control], "aside": [side]}
    return workspace(channels, counts, [lumi_parameter, fixed])


ALL = everything()


@pytest.fixture
def made(tmp_path):
    def make(content, *, patches=(), **options):
        path = tmp_path / "ws.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        files = []
        for number, patch in enumerate(patches):
            files.append(tmp_path / f"patch{number}.json")
            files[-1].write_text(json.dumps(patch))
        return Pyhf.from_options(workspace=path, patches=files, **options)

    return make


def toys(model, mu, count):
    trial, streams = model.sampler({"mu": mu}), TrialStreams(seed=3, model="pyhf", point={"mu": mu})
    rows = [trial(streams.at(index)) for index in range(count)]
    return {name: np.array([row[name] for row in rows]) for name in model.fields()}


def cls(model, mu, count):
    """CLs of the observed data and its error."""
    found = toys(model, mu, count)
    assert found["converged"].all()
    result = hypotest.cls(found["q_sb"], found["q_b"], observed(model, mu)["q"])
    return result.value, result.error


def pyhf_model(content):
    config = content["measurements"][0]["config"]
    spec = {"channels": content["channels"], "parameters": config["parameters"]}
    return pyhf.Model(spec, poi_name=config["poi"], validate=False)


def test_counts_alone_give_the_exact_cls(made):
    model = made(SINGLE)
    value, error = cls(model, 1, 4000)
    assert error < 0.009
    assert value == pytest.approx(exp(-3), abs=3 * error)
    found = toys(model, 1, 1000)
    # Without events q is that of the observed data, digit by digit: p-values use >=.
    none = found["q_b"] == observed(model, 1)["q"]
    assert none.mean() == pytest.approx(exp(-1), abs=0.05)
    assert observed(model, 1)["q"] == 6.0


def test_readme_model(made):
    value, error = cls(made(README), 1, 2500)
    # pyhf's own toys: .0577 +- .0057.
    assert value == pytest.approx(0.0577, abs=3 * np.hypot(error, 0.0057))
    fitted, error = cls(made(README, nuisance="observed"), 1, 1200)
    assert fitted == pytest.approx(0.0577, abs=3 * np.hypot(error, 0.0057))
    q = observed(made(README), 1)
    assert q["q"] == pytest.approx(3.93824492, abs=1e-6)
    assert q["mu_hat"] == 0
    q = observed(made(README, test_stat="q"), 1)
    assert q["q"] == pytest.approx(3.9549891, abs=1e-6)
    assert q["mu_hat"] == pytest.approx(-0.0668, abs=1e-4)


@pytest.mark.parametrize("test_stat", ["qtilde", "q0"])
@pytest.mark.filterwarnings("ignore:Values in x were outside bounds:RuntimeWarning")
def test_the_same_test_statistic_as_pyhf(made, test_stat):
    model, theirs = made(ALL, test_stat=test_stat), pyhf_model(ALL)
    mu = 1.5
    ours = _Toys(model, mu)
    config, compared = theirs.config, 0
    rng = np.random.default_rng(4)
    for _ in range(3):
        counts = rng.poisson(ours._rates[0][: model.layout.bins])
        found = ours.test(ours.data(counts))
        statistic = pyhf.infer.utils.get_test_stat(test_stat)
        try:
            q = statistic(
                0.0 if test_stat == "q0" else mu,
                [*counts.tolist(), *config.auxdata],
                theirs,
                config.suggested_init(),
                config.suggested_bounds(),
                config.suggested_fixed(),
            )
        except pyhf.exceptions.FailedMinimization:
            continue
        compared += 1
        assert found.converged
        assert found.q == pytest.approx(float(q), abs=2e-4)
    assert compared


@pytest.mark.parametrize("content", [SINGLE, README, ALL])
def test_gradient_and_expectation(made, content):
    model, theirs = made(content), pyhf_model(content)
    likelihood = Likelihood(content["channels"], model.layout)
    rng = np.random.default_rng(6)
    for spread in (0.05, 0.6, 1.6):
        theta = np.array(model.layout.start)
        theta = np.clip(theta + spread * rng.uniform(-1, 1, len(theta)), 0.05, None)
        expected = likelihood.expected(theta)
        assert expected[: model.layout.bins] == pytest.approx(
            theirs.expected_data(theta.tolist(), include_auxdata=False)
        )
        counts = rng.poisson(expected).astype(float)
        normals = likelihood.nominal_normals + rng.normal(size=len(likelihood.sigmas))
        here = likelihood.expand(theta, counts, normals)
        steps = 1e-6 * np.eye(len(theta))
        slopes = [
            (
                likelihood.value(theta + s, counts, normals)
                - likelihood.value(theta - s, counts, normals)
            )
            / 2e-6
            for s in steps
        ]
        assert here.gradient == pytest.approx(np.array(slopes), rel=1e-5, abs=1e-4)
        assert here.value == pytest.approx(likelihood.value(theta, counts, normals))


def test_toys_are_drawn_as_the_constraints_say(made):
    own = _Toys(made(ALL), 1.0)
    rng, likelihood = np.random.default_rng(8), own._likelihood
    main = np.zeros(likelihood.bins)
    drawn = [own._auxiliary(rng, main, own._signal, own._rates[0]) for _ in range(4000)]
    normals = np.array([data.normals for data in drawn])
    means = own._signal[likelihood.normal_parameters]
    assert (normals.mean(axis=0) - means) / likelihood.sigmas == pytest.approx(0, abs=0.08)
    assert normals.std(axis=0) == pytest.approx(likelihood.sigmas, rel=0.06)
    counts = np.array([data.counts[likelihood.bins :] for data in drawn])
    rates = own._rates[0][likelihood.bins :]
    assert len(rates) == 3
    assert (counts.mean(axis=0) - rates) / np.sqrt(rates) == pytest.approx(0, abs=0.08)


def test_toys_without_signal_have_nominal_parameters(made):
    model = made(ALL)
    own = _Toys(model, 2.0)
    nominal = np.array(model.layout.start)
    nominal[model.layout.poi] = 0
    assert own._background == pytest.approx(nominal)
    assert own._signal[model.layout.poi] == 2
    # Less background where the signal would be, as in a fit to data without any.
    assert (
        own._rates[0].sum() < own._likelihood.expected(np.where(nominal == 0, 2.0, nominal)).sum()
    )
    fitted = _Toys(made(ALL, nuisance="observed"), 2.0)
    assert not np.allclose(fitted._background, own._background)


def test_observed_data_enter_only_when_asked_for(made):
    other = json.loads(json.dumps(ALL))
    for observation in other["observations"]:
        observation["data"] = [2 * n + 7 for n in observation["data"]]
    first, second = toys(made(ALL), 1, 5), toys(made(other), 1, 5)
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert observed(made(ALL), 1)["q"] != observed(made(other), 1)["q"]


def test_a_trial_depends_on_its_index_alone(made):
    model = load(spec_of("pyhf", made(README)))
    point = {"mu": 1.5}
    whole = running.run(model.sampler(point), job(model, point, 0, 30))
    part = running.run(model.sampler(point), job(model, point, 20, 10))
    assert whole.failed == part.failed == 0
    assert part.table.tobytes() == whole.table[20:].tobytes()
    assert len(set(whole.table["data_crc"])) > 28


def job(model, point, first, count):
    return Job(model="pyhf", seed=1, point=point, first=first, count=count, fields=model.fields())


def test_hosts_need_no_pyhf(made, monkeypatch):
    spec = spec_of("pyhf", made(ALL))
    monkeypatch.setitem(sys.modules, "pyhf", None)
    found = toys(load(spec), 1, 20)
    assert found["converged"].all()
    with pytest.raises(UsageError, match="pyhf is not installed") as caught:
        made(ALL)
    assert "dask-runner[stats]" in caught.value.hint


def test_discovery(made):
    found = toys(made(README, test_stat="q0"), 1, 1500)
    # Half of the toys without signal have a negative best one: q0 = 0; the others follow chi2.
    assert (found["q_b"] > 1e-6).mean() == pytest.approx(0.5, abs=0.06)
    assert (found["q_b"] > 1).mean() == pytest.approx(0.1587, abs=0.035)
    assert np.median(found["q_sb"]) > 2
    assert np.array_equal(found["q_b"] == 0, found["mu_hat_b"] == 0)


def test_counts_where_the_hypothesis_expects_none(made):
    empty = workspace({"c": [sample("s", [2.0], normfactor())]}, {"c": [1]})
    found = toys(made(empty, test_stat="q0"), 1, 200)
    assert np.isinf(found["q_sb"]).mean() == pytest.approx(1 - exp(-2), abs=0.08)
    assert np.all(found["q_b"] == 0)


def test_signal_that_takes_events_away(made):
    content = workspace(
        {"c": [sample("s", [-6.0, 9.0], normfactor()), sample("b", [4.0, 9.0])]}, {"c": [4, 9]}
    )
    found = toys(made(content), 0.5, 300)
    assert np.isfinite(found["q_sb"]).all()
    # Beyond 2/3 the first bin would expect less than nothing: the likelihood ends there without
    # having a maximum, and that is said.
    at_the_edge = np.maximum(found["mu_hat_sb"], found["mu_hat_b"]) > 0.666
    assert at_the_edge.any()
    assert found["converged"][~at_the_edge].all()
    assert found["mu_hat_sb"].max() == pytest.approx(2 / 3, abs=1e-4)
    with pytest.raises(UsageError, match="negative number"):
        made(content).sampler({"mu": 1})


def test_a_fit_that_cannot_start_says_so(made):
    model = made(SINGLE)
    likelihood = Likelihood(SINGLE["channels"], model.layout)
    bounds = Bounds(np.array([-5.0]), np.array([5.0]), np.array([True]))
    fit = minimise(likelihood, Data(np.array([2.0]), np.empty(0)), np.array([-2.0]), bounds)
    assert not fit.converged
    assert fit.value == np.inf


def test_patches(made):
    patch = [{"op": "replace", "path": "/channels/0/samples/0/data", "value": [6.0]}]
    again = [{"op": "replace", "path": "/channels/0/samples/0/data/0", "value": 9.0}]
    model = made(SINGLE, patches=[patch, again])
    assert _Toys(model, 1)._rates[0] == pytest.approx([10.0])
    assert observed(model, 1)["q"] == pytest.approx(18)


def test_notes_and_measurements(made):
    content = json.loads(json.dumps(README))
    content["measurements"].append({"name": "second", "config": {"poi": "mu", "parameters": []}})
    assert made(content).measurement == "main"
    assert made(content, measurement="second").measurement == "second"
    assert "'main' of 2" in " ".join(made(content).notes)
    with pytest.raises(UsageError, match="no measurement 'third'") as caught:
        made(content, measurement="third")
    assert "main, second" in caught.value.hint


def without_name(content):
    del content["channels"][0]["samples"][1]["name"]


def text_for_number(content):
    content["channels"][0]["samples"][1]["data"][1] = "many"


def no_observation(content):
    content["observations"] = [{"name": "other", "data": [1, 2]}]


def short_observation(content):
    content["observations"][0]["data"] = [51]


def short_sample(content):
    content["channels"][0]["samples"][1]["data"] = [50.0]


def short_modifier(content):
    content["channels"][0]["samples"][1]["modifiers"][0]["data"] = [3.0]


def unknown_poi(content):
    content["measurements"][0]["config"]["poi"] = "nu"


def no_poi(content):
    content["measurements"][0]["config"]["poi"] = ""


def other_version(content):
    content["version"] = "7.0.0"


def no_version(content):
    del content["version"]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (without_name, r"channels\[0\]\.samples\[1\].*name"),
        (text_for_number, r"channels\[0\]\.samples\[1\]\.data\[1\].*'many'"),
        (no_observation, r"channels\[0\]: channel 'c' has no observation"),
        (short_observation, r"channels\[0\]: channel 'c' has 2 bins, its observation 1"),
        (short_sample, r"samples\[1\]\.data: 1 bins"),
        (short_modifier, "measurement 'main'.*'u'"),
        (unknown_poi, "measurement 'main'.*'nu'"),
        (no_poi, "no parameter of interest"),
        (other_version, "version '7.0.0'"),
        (no_version, "no version"),
    ],
)
def test_bad_workspaces_are_named_with_the_place(made, spoil, words):
    content = json.loads(json.dumps(README))
    spoil(content)
    with pytest.raises(BadInputError, match=words) as caught:
        made(content)
    assert "ws.json" in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("text", "words"),
    [("{", "not JSON.*line 1"), ("[NaN]", "NaN is not a number"), ("[]", "no version")],
)
def test_files_that_are_no_workspace(made, text, words):
    with pytest.raises(BadInputError, match=words):
        made(text)


@pytest.mark.parametrize(
    ("patch", "words"),
    [
        ([{"op": "replace", "path": "/channels/7/name", "value": "x"}], "operation 0 at '/chan"),
        ([{"op": "fly", "path": "/channels"}], "operation 0"),
        ([7], "operation 0"),
        ({"metadata": {}, "patches": []}, "a set of patches"),
        ([{"op": "remove", "path": "/observations"}], "observations.*patch0.json|patch0.json"),
    ],
)
def test_bad_patches_are_named(made, patch, words):
    with pytest.raises(BadInputError, match=words) as caught:
        made(README, patches=[patch])
    assert "patch0.json" in str(caught.value)


@pytest.mark.parametrize("mu", [-0.5, 11, "x", float("nan")])
def test_strengths_out_of_bounds_are_refused_at_planning(made, mu):
    with pytest.raises(UsageError, match="mu="):
        made(README, points=[{"mu": 1}, {"mu": mu}])


def test_options(made, tmp_path):
    with pytest.raises(UsageError, match="'qmu'"):
        made(README, test_stat="qmu")
    with pytest.raises(UsageError, match="--config"):
        made(README, config="x.toml")
    with pytest.raises(UsageError, match="--workspace"):
        Pyhf.from_options()
    with pytest.raises(BadInputError, match="No such file"):
        Pyhf.from_options(workspace=tmp_path / "none.json")


def test_another_likelihood_is_noticed(made, monkeypatch):
    from dask_runner.trials.models import pyhf_likelihood

    right = pyhf_likelihood._polynomials
    monkeypatch.setattr(pyhf_likelihood, "_polynomials", lambda low, high: right(low, 1.01 * high))
    with pytest.raises(UsageError, match="not that of pyhf"):
        made(ALL)
