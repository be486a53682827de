"""What is concluded from scans and point-source trials: hottest spots, fluxes, pictures."""

import json

import msgspec
import numpy as np
import pytest
import trial_files

from dask_runner.conclusions import fluxes, skies, sky_background
from dask_runner.conclusions.results import (
    Account,
    Chi2Fit,
    Distributions,
    Passing,
    PointDistribution,
    Sensitivities,
    Strengths,
    Unreached,
)
from dask_runner.errors import BadInputError, UsageError
from dask_runner.manifest import Note, NoteKind
from dask_runner.reports import json as json_report
from dask_runner.reports import plots
from dask_runner.reports.sky_text import LAYOUTS
from dask_runner.sky import scans
from dask_runner.sky.config import read_search
from dask_runner.sky.flux import PowerLaw
from dask_runner.sky.pixels import centres
from dask_runner.sky.search import Search
from dask_runner.sky.significance import Significance
from dask_runner.stats.pvalues import post_trial_p
from dask_runner.stats.quantiles import Quantile
from dask_runner.trials.models.point_source import PointSource
from dask_runner.workloads.skyscan import InjectedSource, SkyScan

SIGNIFICANCE = Significance(decs=(0.0,), eta=(0.5,), ndof=(1.0,), scale=(1.0,), runs=("B",))
PIXELS = 1000


@pytest.fixture(scope="module")
def search(tmp_path_factory):
    path = tmp_path_factory.mktemp("sky") / "search.toml"
    path.write_text("[experiment]\nevents = 2000\n[simulation]\nevents = 20000\n")
    return read_search(path)


class Folder:
    def __init__(self, name):
        self.timestamp = name


class State:
    """As much of a run as conclusions look at."""

    def __init__(self, name, notes=()):
        self.folder = Folder(name)
        self.notes = notes


def hottest_file(folder, name, p_min):
    """A scan of PIXELS independent pixels that kept the hottest of each sky."""
    rows = np.zeros(len(p_min), scans.HOTTEST)
    rows["sky"], rows["mlog10p"] = np.arange(len(p_min)), -np.log10(p_min)
    rows["ts"] = 5 * rows["mlog10p"]
    rows["ra"], rows["dec"] = centres(8, 100)
    path = folder / f"{name}.npy"
    path.write_bytes(scans.encode(rows))
    return scans.Piece(path=path, first=0, count=len(p_min) * PIXELS)


def made(search, folder, name, p_min, *, notes=(), **changes):
    workload = SkyScan(
        search=search, nside=16, first_pixel=0, pixels=PIXELS, size=PIXELS, skies=len(p_min),
        keep="hottest", significance=SIGNIFICANCE, **{"seed": 1, **changes},
    )  # fmt: skip
    piece = hottest_file(folder, name, p_min)
    return skies.Scan(state=State(name, notes), workload=workload, pieces=(piece,))


def independent(number, seed=1):
    uniform = np.random.default_rng(seed).random(number)
    return -np.expm1(np.log1p(-uniform) / PIXELS)


def test_the_post_trial_p_of_independent_pixels(search, tmp_path):
    background = made(search, tmp_path, "background", independent(20_000))
    with pytest.raises(UsageError, match="no hottest spot has such a p-value"):
        skies.hottest([background], pre_trial=0.0)
    found = skies.hottest([background], pre_trial=1e-4)
    assert (found.skies, found.quantity, found.background) == (20_000, "mlog10p", ("B",))
    assert found.looks.number == pytest.approx(PIXELS, abs=3 * found.looks.error)
    seen = found.observed.post_trial
    assert seen.low < post_trial_p(1e-4, PIXELS) < seen.high
    source = made(search, tmp_path, "source", np.array([1e-9]), seed=2)
    judged = skies.hottest([background], observed=source).observed
    assert judged.heat == pytest.approx(9)
    assert judged.post_trial.value == pytest.approx(1e-6, rel=0.05)
    assert judged.post_trial.source == "looks"
    assert judged.spot.dec == pytest.approx(np.degrees(centres(8, 100)[1]))


def test_two_runs_are_one_background_if_their_skies_differ(search, tmp_path):
    first = made(search, tmp_path, "first", independent(100, seed=1))
    second = made(search, tmp_path, "second", independent(100, seed=2), seed=2)
    assert skies.hottest([first, second]).skies == 200
    again = made(search, tmp_path, "again", independent(100, seed=1))
    with pytest.raises(UsageError, match="same seed"):
        skies.hottest([first, again])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"unblind": "yes"}, "observed sky: it is no background"),
        ({"source": InjectedSource(ra=0, dec=0, n_sig=3, index=2)}, "injected source"),
    ],
)
def test_what_is_no_background_is_refused(search, tmp_path, changes, message):
    scan = made(search, tmp_path, "scan", independent(1), **changes)
    with pytest.raises(UsageError, match=message):
        skies.hottest([scan])


@pytest.mark.parametrize(
    ("field", "value", "name"),
    [
        ("nside", 32, "nside"),
        ("first_pixel", 7, "declinations"),
        ("significance", None, "p-values"),
    ],
)
def test_skies_of_another_kind_are_not_compared(search, tmp_path, field, value, name):
    one = made(search, tmp_path, "one", independent(20))
    other = made(search, tmp_path, "other", independent(1), seed=3)
    workload = msgspec.structs.replace(other.workload, **{field: value})
    with pytest.raises(UsageError, match=f"differ in their {name}"):
        skies.hottest([one], observed=msgspec.structs.replace(other, workload=workload))


def test_without_p_values_the_largest_ts_counts(search, tmp_path):
    plain = made(search, tmp_path, "plain", independent(50))
    workload = msgspec.structs.replace(plain.workload, significance=None)
    plain = msgspec.structs.replace(plain, workload=workload)
    found = skies.hottest([plain])
    assert (found.quantity, found.looks) == ("ts", None)
    with pytest.raises(UsageError, match="no p-values"):
        skies.hottest([plain], pre_trial=0.1)


def test_an_observed_sky_without_a_record_is_shown_to_nobody(search, tmp_path):
    background = made(search, tmp_path, "background", independent(50))
    observed = made(search, tmp_path, "observed", independent(1), unblind="approved")
    with pytest.raises(BadInputError, match="without a record"):
        skies.hottest([background], observed=observed)
    note = Note(kind=NoteKind.UNBLINDED, text="", data={"reason": "approved"}, time="now", who="me")
    observed = made(search, tmp_path, "observed", independent(1), unblind="approved", notes=(note,))
    found = skies.hottest([background], observed=observed)
    assert found.observed.unblinded == skies.Seen(reason="approved", time="now", who="me")
    assert "approved" in text_of(found)


def text_of(view):
    return "\n".join(
        piece.plain if hasattr(piece, "plain") else str(piece)
        for piece in LAYOUTS[type(view)](view)
    )


@pytest.fixture(scope="module")
def mapped(search, tmp_path_factory):
    """A small map with a source."""
    folder = tmp_path_factory.mktemp("map")
    workload = SkyScan(
        search=search, seed=3, nside=8, first_pixel=0, pixels=768, size=768,
        significance=SIGNIFICANCE, source=InjectedSource(ra=80, dec=10, n_sig=30, index=2),
    )  # fmt: skip
    (batch,) = workload.plan().batches
    (name,) = (output.name for output in batch.outputs)
    (folder / name).write_bytes(workload.run(batch, folder).files[name])
    piece = scans.Piece(path=folder / name, first=0, count=768)
    return skies.Scan(state=State("M"), workload=workload, pieces=(piece,))


def test_a_map_in_words(mapped):
    found = skies.view(mapped, number=4, apart=10.0)
    assert (found.pixels, found.missing, found.quantity) == (768, 0, "mlog10p")
    assert len(found.spots) == 4
    assert "30 events expected at ra 80, dec 10 deg, index 2" in text_of(found)
    assert json.loads(json_report.encode(found))["spots"][0]["ts"] == found.spots[0].ts
    with pytest.raises(UsageError, match="no sky 1"):
        skies.view(mapped, 1)
    with pytest.raises(UsageError, match="not possible"):
        skies.view(mapped, number=0)


def test_pictures_of_skies(mapped, search, tmp_path):
    view, sky = skies.view(mapped), mapped.map(0)
    background = made(search, tmp_path, "background", independent(200))
    found = skies.hottest([background], pre_trial=1e-7)
    for name, figure in {
        "map": plots.mollweide(view, sky),
        "index": plots.mollweide(view, sky, "gamma"),
        "p": plots.ts_against_p(view, sky),
        "hottest": plots.hottest(found),
    }.items():
        path = plots.save(figure, tmp_path / f"{name}.png")
        assert path.stat().st_size > 10_000
    with pytest.raises(UsageError, match="has no flux"):
        plots.mollweide(view, sky, "flux")


def trials_at(dec, sensitivity=5.0):
    """As conclusions give them."""
    account = Account(trials=100, failed=0, not_converged=0)
    passing = Passing(
        value=sensitivity, error=0.5, low=4, high=6, beta=0.9,
        threshold=Quantile(q=0.5, value=0.0, low=0.0, high=0.0, source="trials"),
        points=(), curve=(), fit_p=0.5, method="",
    )  # fmt: skip
    return Strengths(
        point={"dec": dec}, account=account, sensitivity=passing, discovery=Unreached(reason="few")
    )


def sensitivities(*strengths, model="point-source"):
    return Sensitivities(
        account=Account(trials=1, failed=0, not_converged=0), model=model, signal="n_sig",
        field="ts", beta=0.9, sigma=5.0, discovery_beta=0.5, strengths=strengths,
    )  # fmt: skip


def test_strengths_as_fluxes(search, tmp_path):
    model = PointSource(search=search)
    result = sensitivities(trials_at(-30), trials_at(30))
    found = fluxes.with_fluxes(result, [model])
    assert (found.flux.kind, found.flux.unit) == ("E^2 dN/dE", "TeV cm^-2 s^-1")
    acceptance = Search.load(search).acceptance(np.radians(30), PowerLaw(index=2.0, pivot=1e5))
    # n_sig = acceptance x dN/dE at the pivot; E^2 of it in TeV: 1e5^2 GeV / 1000.
    there = found.strengths[1].flux
    assert there.sensitivity == pytest.approx(5.0 / acceptance * 1e10 / 1e3)
    assert there.sensitivity_error == pytest.approx(there.sensitivity / 10)
    assert there.discovery is None
    # E^-2: E^2 dN/dE is the same at every energy.
    other = fluxes.with_fluxes(result, [model], fluxes.wished("1 TeV", ""))
    assert other.strengths[1].flux.sensitivity == pytest.approx(there.sensitivity)
    density = fluxes.with_fluxes(result, [model], fluxes.wished("10 TeV", "GeV-1 cm-2 s-1"))
    assert density.flux.unit == "GeV^-1 cm^-2 s^-1"
    assert density.strengths[1].flux.sensitivity == pytest.approx(there.sensitivity * 1e3 / 1e8)
    path = plots.save(plots.fluxes(found), tmp_path / "flux.png")
    assert path.stat().st_size > 10_000
    with pytest.raises(UsageError, match="no parameter 'mass'"):
        plots.fluxes(found, "mass")
    with pytest.raises(UsageError, match="a flux is known for"):
        fluxes.with_fluxes(sensitivities(trials_at(0), model="gaussian"), [model])


def test_no_flux_from_another_simulation_than_that_of_the_trials(search, tmp_path):
    simulation = Search.load(search).simulation
    table = np.zeros(len(simulation), [(name, "f8") for name in simulation.__struct_fields__])
    for name in table.dtype.names:
        table[name] = getattr(simulation, name)
    np.save(tmp_path / "mc.npy", table)
    path = tmp_path / "search.toml"
    path.write_text('[experiment]\nevents = 2000\n[simulation]\nfile = "mc.npy"\n')
    model, result = PointSource(search=read_search(path)), sensitivities(trials_at(30))
    assert fluxes.with_fluxes(result, [model]).strengths[0].flux.sensitivity > 0
    table["weight"] *= 2
    np.save(tmp_path / "mc.npy", table)
    with pytest.raises(BadInputError, match=r"mc\.npy: is not the file that the run was planned"):
        fluxes.with_fluxes(result, [model])


def test_a_softer_spectrum_depends_on_the_pivot(search):
    soft = msgspec.structs.replace(trials_at(30), point={"dec": 30, "index": 3.0})
    model = PointSource(search=search)
    low, high = (
        fluxes.with_fluxes(sensitivities(soft), [model], fluxes.wished(pivot, "")).strengths[0]
        for pivot in ("1 TeV", "100TeV")
    )
    assert low.flux.sensitivity == pytest.approx(100 * high.flux.sensitivity)


@pytest.mark.parametrize(
    ("pivot", "unit"), [("1", ""), ("x TeV", ""), ("-1 TeV", ""), ("", "Jy"), ("", "TeV s-1")]
)
def test_what_is_no_flux_is_refused(pivot, unit):
    with pytest.raises(UsageError):
        fluxes.wished(pivot, unit)


def distribution_at(dec, scale_error=0.0, **more):
    fit = Chi2Fit(
        eta=0.5, eta_error=0.01, ndof=1.1, ndof_error=0.05, scale=1.0, scale_error=scale_error,
        quality=None, curve=((0.0, 1.0), (1.0, 0.2)),
    )  # fmt: skip
    account = Account(trials=100, failed=0, not_converged=0)
    return PointDistribution(
        point={"dec": dec, **more}, account=account, mean=0.5, deviation=1.0, quantiles=(), fit=fit
    )


def test_parameters_of_fits_against_the_declination(tmp_path):
    account = Account(trials=100, failed=0, not_converged=0)

    def result(*points):
        return Distributions(account=account, field="ts", points=points)

    for name, error in (("fixed", 0.0), ("free", 0.05)):
        figure = plots.parameters(result(*(distribution_at(d, error) for d in (-60, 0, 60))))
        x = figure.axes[0].lines[-2].get_xdata()
        assert np.allclose(x, np.sin(np.radians([-60, 0, 60])))
        assert plots.save(figure, tmp_path / f"{name}.png").stat().st_size > 10_000
    with pytest.raises(UsageError, match="extension varies too"):
        plots.parameters(
            result(distribution_at(0, extension=0), distribution_at(9, extension=1)), "dec"
        )
    with pytest.raises(UsageError, match="no chi2"):
        plots.parameters(result())


def test_the_same_search_wherever_its_files_are(search):
    same = msgspec.structs.replace(search, signal=msgspec.structs.replace(search.signal, index=3.0))
    assert sky_background.identity_of(same) == sky_background.identity_of(search)
    other = msgspec.structs.replace(search, livetime=search.livetime * 2)
    assert sky_background.identity_of(other) != sky_background.identity_of(search)
    assert sky_background.background([], search).significance is None
    # What of the simulation is injected says nothing of skies without signal.
    band = msgspec.structs.replace(search, fit=msgspec.structs.replace(search.fit, band=0.1))
    assert sky_background.identity_of(band) == sky_background.identity_of(search)
    there, here = sky_background._plain(other), sky_background._plain(search)
    assert sky_background._differences(there, here) == ["livetime is 730.5 there, 365.25 here"]


def test_which_trials_are_background(tmp_path):
    def trials(*points):
        return trial_files.trials_at(
            tmp_path, points, lambda point, rng: {"ts": rng.random(20)}, {"ts": "<f8"}
        )

    found = sky_background.by_declination(
        trials({"dec": 0}, {"dec": 0, "n_sig": 5}, {"dec": 30, "n_sig": 0, "index": 3.0}), 0.0
    )
    assert {dec: len(ts) for dec, ts in found.items()} == {0: 20, 30: 20}
    # Without signal the spectrum says nothing: more trials of the same.
    same = trials({"dec": 0, "index": 2.0}, {"dec": 0, "index": 3.0})
    assert len(np.unique(sky_background.by_declination(same, 0.0)[0])) == 40
    for points, message in [
        ([{"dec": 0, "n_sig": 5}], "no trials with n_sig=0"),
        ([{"dec": 0, "extension": 1.0}], "an extension of 0 deg"),
    ]:
        with pytest.raises(UsageError, match=message):
            sky_background.by_declination(trials(*points), 0.0)


def test_numbers_of_numpy_are_numbers_in_json():
    point = Strengths(
        point={"dec": np.float64(5), "n": np.int64(3)},
        account=Account(trials=1, failed=0, not_converged=0),
        sensitivity=Unreached(reason=""),
        discovery=Unreached(reason=""),
    )
    assert json.loads(json_report.encode(point))["point"] == {"dec": 5.0, "n": 3}
    with pytest.raises(TypeError, match="no JSON"):
        json_report.encode({"what": object()})
