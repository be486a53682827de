"""Detectors, samples and files of a point-source search: what is in them, and errors that say where."""

from math import pi

import msgspec
import numpy as np
import pytest
import sky_example as example
import uproot
from scipy import stats

from dask_runner.errors import BadInputError, UsageError
from dask_runner.sky.config import SearchConfig, read_search
from dask_runner.sky.detector import SHIPPED, read_detector
from dask_runner.sky.events import EVENT_COLUMNS, TRUTH_COLUMNS, away
from dask_runner.sky.flux import PowerLaw
from dask_runner.sky.likelihood import Evaluator
from dask_runner.sky.samples import displaced, synthetic_experiment, synthetic_simulation
from dask_runner.sky.search import Search

DETECTOR = read_detector()


def table_of(events, names):
    table = np.zeros(len(events), [(name, "f8") for name in names])
    for name in names:
        table[name] = getattr(events, name)
    return table


@pytest.fixture(scope="module")
def users_folder(tmp_path_factory):
    """The samples of the example as a user's files."""
    folder = tmp_path_factory.mktemp("samples")
    search = example.search()
    data = table_of(search.experiment, EVENT_COLUMNS)
    mc = table_of(search.simulation, (*EVENT_COLUMNS, *TRUTH_COLUMNS))
    np.save(folder / "data.npy", data)
    np.save(folder / "mc.npy", mc)
    for name, table in (("data", data), ("mc", mc)):
        with uproot.recreate(folder / f"{name}.root") as file:
            file.mktree("events", {n: table[n] for n in table.dtype.names})
            file.mktree("other", {"ra": np.zeros(3)})
    return folder


def write(folder, text, name="search.toml"):
    path = folder / name
    path.write_text(text)
    return path


def test_the_synthetic_experiment_has_the_density_of_the_detector():
    events = synthetic_experiment(DETECTOR, 50_000, 3)
    surface = DETECTOR.background
    rows, columns = np.linspace(-1, 1, 11), np.linspace(1.5, 7.5, 25)
    fine = [np.linspace(a[0], a[-1], 20 * (len(a) - 1) + 1) for a in (rows, columns)]
    middle = [(a[1:] + a[:-1]) / 2 for a in fine]
    density = surface.at(middle[0][:, None], middle[1])
    expected = density.reshape(10, 20, 24, 20).sum(axis=(1, 3))
    expected *= 50_000 / expected.sum()
    found, _, _ = np.histogram2d(np.sin(events.dec), events.log10e, (rows, columns))
    enough = expected > 20
    pull = (found - expected)[enough] / np.sqrt(expected[enough])
    assert stats.chi2.sf((pull**2).sum(), enough.sum()) > 0.001
    assert stats.kstest(events.ra / (2 * pi), "uniform").pvalue > 0.01


def test_samples_depend_on_seed_and_index_alone():
    few, many = (synthetic_experiment(DETECTOR, n, 1) for n in (10, 1000))
    for name in EVENT_COLUMNS:
        assert getattr(few, name).tobytes() == getattr(many, name)[:10].tobytes()
    assert not np.any(few.ra == synthetic_experiment(DETECTOR, 10, 2).ra)
    assert not np.any(few.ra == synthetic_simulation(DETECTOR, 10, 1).ra)


@pytest.mark.parametrize("index", [2.0, 3.2])
@pytest.mark.parametrize("dec", [-50, -30, 0, 10, 75])
def test_acceptance_is_the_integral_of_effective_area_and_flux(index, dec):
    search = example.search(simulated=300_000)
    flux = PowerLaw(index=index, cutoff=3e5, pivot=1e3)
    energy = np.geomspace(1e2, 1e7, 20_001)
    area = 1e4 * DETECTOR.effective_area.at(np.sin(np.radians(dec)), np.log10(energy))
    rate = np.trapezoid(area * (energy / 1e3) ** -index * np.exp(-energy / 3e5), energy)
    expected = rate * 365.25 * 86_400
    mine = search.acceptance(np.radians(dec), flux)
    assert mine == pytest.approx(expected, rel=1e-4)
    # That of the simulated events around it, of which an own sample knows only these; beside a
    # kink of the tables at -30 degrees it is that of the surroundings.
    source = search.source(np.radians(dec), flux)
    band = source.total[-1] / (2 * pi * 2 * 0.02) * 365.25 * 86_400
    assert band == pytest.approx(expected, rel=0.2 if dec == -30 else 0.08)


def test_units_of_fluxes():
    # 1e-11 TeV^-1 cm^-2 s^-1 at 1 TeV is 1e-14 per GeV.
    flux = PowerLaw(index=2.5, pivot=1e3)
    assert flux.dnde(1e-14) == pytest.approx(1e-11)
    assert flux.e2dnde(1e-14) == pytest.approx(1e-11)
    assert flux.e2dnde(1e-14, unit="GeV") == pytest.approx(1e-8)
    # Falling with E^-0.5 in E^2 dN/dE.
    assert flux.e2dnde(1e-14, pivot=1e5) == pytest.approx(1e-12)
    assert flux.dnde(1e-14, pivot=1e5) == pytest.approx(1e-16)
    # A spectrum E^-2 has the same E^2 dN/dE wherever it is quoted.
    two = PowerLaw(pivot=1e5)
    assert two.e2dnde(1e-18, pivot=1) == pytest.approx(two.e2dnde(1e-18))
    with pytest.raises(UsageError, match="unknown unit of energy 'EeV'"):
        flux.e2dnde(1, unit="EeV")
    with pytest.raises(UsageError, match="index = -1 is not possible"):
        PowerLaw(index=-1).check("here")


def test_injected_events_lie_around_the_source_as_their_errors_say():
    search = example.search()
    rng = np.random.default_rng(1)
    for ra, dec, extension in [(1.0, 0.2, 0), (0.0, 1.5, 0), (6.28, -0.7, np.radians(2))]:
        events = search.injected(rng, dec, ra, 1500, search.flux(), extension=extension)
        assert np.all((events.ra >= 0) & (events.ra < 2 * pi))
        h = away(events.ra, events.dec, ra, dec)
        # -2 ln of the share beyond: a chi2 with two degrees, for small angles.
        pull = h / (events.sigma**2 + extension**2)
        assert stats.kstest(pull, "expon").pvalue > 0.01
        # On all sides alike.
        east = np.sin(events.ra - ra) * np.cos(events.dec)
        assert abs(np.mean(east > 0) - 0.5) < 4 * 0.5 / np.sqrt(1500)


def test_distances_and_bearings_close():
    rng = np.random.default_rng(2)
    ra, dec = rng.uniform(0, 2 * pi, 200), np.arcsin(rng.uniform(-1, 1, 200))
    far = rng.uniform(0, 2, 200)
    new = displaced(ra, dec, far, rng.uniform(0, 2 * pi, 200))
    np.testing.assert_allclose(away(*new, ra, dec), far, atol=1e-12)


def test_harder_spectra_give_more_energy_and_cutoffs_less():
    search = example.search()

    def energy(**spectrum):
        rng = np.random.default_rng(1)
        return search.injected(rng, 0.3, 0, 800, PowerLaw(**spectrum)).log10e.mean()

    assert energy(index=2) > energy(index=2, cutoff=1e4) + 0.2
    assert energy(index=2) > energy(index=3) + 0.4


def test_users_files_are_the_same_search(users_folder):
    """The same bits from .npy and ROOT files as from the events that they were made of."""
    fits = []
    for text in (
        "[experiment]\nevents = 20000\nseed = 1\n[simulation]\nevents = 60000\nseed = 2",
        'livetime = 365.25\n[experiment]\nfile = "data.npy"\n[simulation]\nfile = "mc.npy"',
        'livetime = 365.25\n[experiment]\nfile = "data.root:events"\n[simulation]\nfile = "mc.root"',
    ):
        config = read_search(write(users_folder, text))
        again = msgspec.json.decode(msgspec.json.encode(config), type=SearchConfig)
        assert again == config
        search = Search.load(config)
        events = search.scrambled(np.random.default_rng(1))
        fits.append(Evaluator(search, events).at(1.0, 0.1))
    assert fits[0] == fits[1] == fits[2]
    assert [file.local.name for file in config.files()] == ["data.root", "mc.root"]


def test_other_names_of_columns(users_folder, tmp_path):
    """As people write them, and as IceCube's samples have them."""
    found = []
    for names in (
        {"log10e": "log10E", "true_e": "true_E", "dec": "Dec"},
        {
            "log10e": "logE",
            "sigma": "angErr",
            "true_e": "trueE",
            "true_ra": "trueRa",
            "weight": "ow",
        },
    ):
        for name in ("data", "mc"):
            table = np.load(users_folder / f"{name}.npy")
            table.dtype.names = [names.get(one, one) for one in table.dtype.names]
            np.save(tmp_path / f"{name}.npy", table)
        text = 'livetime = 1\n[experiment]\nfile = "data.npy"\n[simulation]\nfile = "mc.npy"'
        found.append(Search.load(read_search(write(tmp_path, text))))
    mine = example.search()
    for other in found:
        assert other.experiment.log10e.tobytes() == mine.experiment.log10e.tobytes()
        assert other.simulation.weight.tobytes() == mine.simulation.weight.tobytes()
    table = np.zeros(3, [(one, "f8") for one in ("ra", "dec", "sigma", "log10E", "LOG10E")])
    np.save(tmp_path / "data.npy", table)
    with pytest.raises(BadInputError, match="which is the column log10e: log10E or LOG10E"):
        Search.load(read_search(tmp_path / "search.toml"))


@pytest.mark.parametrize("name", ["data", "mc"])
def test_errors_in_degrees_are_refused(users_folder, tmp_path, name):
    for one in ("data", "mc"):
        table = np.load(users_folder / f"{one}.npy")
        if one == name:
            table["sigma"] = np.degrees(table["sigma"])
        np.save(tmp_path / f"{one}.npy", table[table["sigma"] < pi])
    text = 'livetime = 1\n[experiment]\nfile = "data.npy"\n[simulation]\nfile = "mc.npy"'
    with pytest.raises(BadInputError, match=rf"{name}\.npy: column sigma: .*") as caught:
        Search.load(read_search(write(tmp_path, text)))
    assert "radians" in caught.value.hint


def test_right_ascensions_from_minus_pi(users_folder, tmp_path):
    table = np.load(users_folder / "data.npy")
    table["ra"] = np.where(table["ra"] > pi, table["ra"] - 2 * pi, table["ra"])
    np.save(tmp_path / "data.npy", table)
    text = 'livetime = 365.25\n[experiment]\nfile = "data.npy"\n[simulation]\nevents = 9000'
    found = Search.load(read_search(write(tmp_path, text))).observed()
    np.testing.assert_allclose(found.ra, example.search().experiment.ra, atol=1e-12)


def test_files_elsewhere(users_folder, tmp_path):
    """A host has its own copy."""
    text = 'livetime = 365.25\n[experiment]\nfile = "data.npy"\n[simulation]\nfile = "mc.npy"'
    config = read_search(write(users_folder, text))
    places = {}
    for file in config.files():
        places[file.path] = tmp_path / file.local.name
        places[file.path].write_bytes(file.local.read_bytes())
    there = config.located(places)
    assert {file.local.parent for file in there.files()} == {tmp_path}
    assert len(Search.load(there).experiment) == example.EVENTS


def test_wrong_samples_are_named(users_folder, tmp_path):
    good = np.load(users_folder / "mc.npy")[:50]

    def refused(table, name="mc.npy", section="simulation"):
        np.save(tmp_path / name, table)
        path = write(tmp_path, f'livetime = 1\n[{section}]\nfile = "{name}"')
        with pytest.raises(BadInputError) as caught:
            Search.load(read_search(path))
        assert str(tmp_path / name) in caught.value.message
        return caught.value.message

    names = [name for name in good.dtype.names if name != "true_e"]
    assert "no column true_e; there are ra, dec" in refused(good[names])
    assert "no column ra; there are none" in refused(np.zeros(3))
    assert "has no events" in refused(good[:0])
    for column, value, message in [
        ("sigma", 0, "column sigma is not above 0 in 1 events, the first is event 7"),
        ("dec", 30, "column dec is not within -pi/2 to pi/2 (radians)"),
        ("ra", 200, "column ra is not within 0 to 2 pi (radians)"),
        ("true_ra", 200, "column true_ra is not within 0 to 2 pi (radians)"),
        ("log10e", 2000, "column log10e is not the logarithm of an energy in GeV"),
        ("log10e", np.nan, "column log10e is not finite"),
        ("weight", -1, "column weight is not 0 or more"),
        ("true_e", 0, "column true_e is not above 0"),
    ]:
        wrong = good.copy()
        wrong[column][7] = value
        assert message in refused(wrong)
    for column, value, message in [
        ("weight", 0, "column weight is 0 in all events"),
        ("true_e", 3, "column true_E has no energy above 15 GeV"),
    ]:
        wrong = good.copy()
        wrong[column] = value
        assert message in refused(wrong)
    with (tmp_path / "mc.npz").open("wb") as file:
        np.savez(file, events=good)
    path = write(tmp_path, '[simulation]\nfile = "mc.npz"')
    with pytest.raises(BadInputError, match=r"mc\.npz: a \.npz archive; a structured \.npy"):
        Search.load(read_search(path))
    text = good.astype([(n, "U8" if n == "ra" else "f8") for n in good.dtype.names])
    assert "column ra is not one number for each event" in refused(text)
    (tmp_path / "junk.npy").write_bytes(b"\x93NUMPY nonsense")
    path = write(tmp_path, 'livetime = 365.25\n[experiment]\nfile = "junk.npy"')
    with pytest.raises(BadInputError, match=r"junk\.npy: not a \.npy file"):
        Search.load(read_search(path))
    with pytest.raises(BadInputError, match=r"experiment\.file: .*missing\.npy: No such file"):
        read_search(write(tmp_path, 'livetime = 365.25\n[experiment]\nfile = "missing.npy"'))
    path = write(
        tmp_path, f'livetime = 365.25\n[experiment]\nfile = "{users_folder}/data.root:other"'
    )
    with pytest.raises(BadInputError, match="no column dec; there are ra"):
        Search.load(read_search(path))


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("livetimes = 3", "unknown key livetimes", "did you mean livetime?"),
        ("[fit]\nindx = 2", "unknown key fit.indx", "did you mean index?"),
        ("[fit]\nindex = [3, 2]", "3 is not below 2", "index = 2"),
        ("[fit]\nindex = 11", "fit.index is not within 0 to 10", ""),
        ("[fit]\nlog10e = [3, 3]", "fit.log10e: 3 is not below 3", ""),
        ("[experiment]\nevents = 0", "Expected `int` >= 1", ""),
        ('[experiment]\nfile = "a.npy"', "has a livetime of its own", "livetime = DAYS"),
        ("livetime = 0", "Expected `float` > 0.0", ""),
        ("[signal]\nindex = -1", "Expected `float` >= 0.0 - at `$.signal.index`", ""),
        ("nonsense", "not a TOML file", ""),
        ('[detector]\nfile = "none.toml"', "none.toml: No such file", ""),
        ("livetime = inf", "livetime = inf is not a finite number", ""),
        ("[signal]\ncutoff = inf", "signal.cutoff = inf is not a finite number", ""),
        ("[fit]\nlog10e = [nan, 7]", "fit.log10e[0] = nan is not a finite number", ""),
    ],
)
def test_wrong_configurations(tmp_path, text, message, hint):
    with pytest.raises(BadInputError) as caught:
        read_search(write(tmp_path, text))
    assert message in caught.value.message
    assert str(tmp_path) in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("livetime", "lifetime", "unknown key lifetime"),
        ("sin_dec = [-1.0, -0.5", "sin_dec = [-0.5, -1.0", "effective_area.sin_dec: two or more"),
        ("sin_dec = [-1.0, ", "sin_dec = [-1.5, ", "effective_area.sin_dec goes beyond -1 to 1"),
        ("sin_dec = [-1.0, ", "sin_dec = [", "effective_area.values has 10 rows for 9 of sin_dec"),
        ("-3.4, -1.8", "-3.4", "effective_area.values, row 10: 11 finite numbers"),
        ("median = [1.9, ", "median = [", "point_spread.median: 6 numbers for 7 of log10e"),
        ("least = 0.2", "least = 4.0", "point_spread.least is above point_spread.most"),
        ("deviation = [0.25", "deviation = [0", "Expected `float` > 0.0"),
    ],
)
def test_wrong_detectors(tmp_path, old, new, message):
    text = SHIPPED.read_text()
    assert old in text
    path = write(tmp_path, text.replace(old, new, 1), "own.toml")
    with pytest.raises(BadInputError) as caught:
        read_search(write(tmp_path, '[detector]\nfile = "own.toml"'))
    assert message in caught.value.message
    assert str(path) in caught.value.message


def test_a_source_where_nothing_was_simulated(users_folder, tmp_path):
    table = np.load(users_folder / "mc.npy")
    np.save(tmp_path / "north.npy", table[table["true_dec"] > 0.2])
    config = read_search(write(tmp_path, '[simulation]\nfile = "north.npy"'))
    with pytest.raises(UsageError, match=r"no simulated event could come from declination -30\.00"):
        Search.load(config).acceptance(np.radians(-30), PowerLaw())
