"""The trial model coincidence: what is planned, and trials whose every number can be computed."""

import json

import msgspec
import numpy as np
import pytest
from coincidence_inputs import NSIDE, POOL, config, delta, events, flat, spot, write_maps
from msgspec import structs

from dask_runner.errors import BadInputError, UsageError
from dask_runner.seeds import trial_uniforms
from dask_runner.sky import lists, pixels
from dask_runner.sky.healpix import read_map
from dask_runner.sky.odds import FLOOR, EnergyWeight, Window
from dask_runner.sky.pairs import pairs_of
from dask_runner.stats.tails import Tailed
from dask_runner.trials import models
from dask_runner.trials.models.coincidence import Coincidence, observed
from dask_runner.trials.models.coincidence_trials import scattered


@pytest.fixture
def folder(tmp_path):
    write_maps(tmp_path, [spot(1, 0.4, 0.3), flat(), delta(1234)], ["H1,L1", "L1,H1,V1", "H1L1"])
    lists.write_list(tmp_path / "pool.csv", events(50))
    for number, size in enumerate((0, 1, 3)):
        lists.write_list(tmp_path / f"list{number}.json", events(size, seed=number))
    (tmp_path / "lists.txt").write_text("list0.json\nlist1.json\n\nlist2.json\n")
    return tmp_path


def model(folder, text=POOL, items="maps.txt"):
    return Coincidence.from_options(config=config(folder, text), items=folder / items)


def trials(made, number=2000, **point):
    sampler = made.sampler(point)
    uniforms = trial_uniforms(
        seed=3, model="coincidence", point=point, first=0, count=number, words=sampler.words
    )
    return sampler.run(uniforms)


def test_what_is_planned(folder):
    made = model(folder)
    assert [file.local.name for file in made.maps] == ["map0.fits", "map1.fits", "map2.fits"]
    assert made.files() == (*made.maps, *made.lists)
    assert made.classes["all"].rate == 0.005
    assert made.notes == ("class all: 3 maps, each trial has 5 events",)
    spec = models.spec_of("coincidence", made)
    assert spec.files == made.files()
    assert (
        models.load(msgspec.json.decode(msgspec.json.encode(spec), type=models.ModelSpec)) == made
    )
    assert made.parameters().optional == {"detector": "all", "n_sig": 0}


def test_the_rate_is_that_of_the_pool_unless_it_is_given(folder):
    made = model(folder, '[background]\nevents = ["pool.csv"]\n')
    assert made.classes["all"].rate == pytest.approx(50 / (0.49 * 86400))


def test_classes_have_what_the_file_says_but_for_their_own(folder):
    text = POOL + (
        "[window]\nbegin = -10\nend = 10\n[detector.HL]\ninstruments = 'L1,H1'\n"
        "[detector.HLV]\ninstruments = 'H1,L1,V1'\nprior = 0.5\nwindow = {begin = 0, end = 4}\n"
        "background = {lists = 'lists.txt', keep_ra = true}\n"
    )
    made = model(folder, "prior = 0.1\nnside = 8\n" + text)
    assert made.classes["HL"].maps == (0, 2)
    assert made.classes["HLV"].maps == (1,)
    assert (made.classes["HL"].prior, made.classes["HLV"].prior) == (0.1, 0.5)
    assert (made.classes["HL"].window.width, made.classes["HLV"].window.width) == (20, 4)
    assert (made.classes["HL"].rate, made.classes["HLV"].rate) == (0.005, 0)
    assert made.classes["HLV"].keep_ra
    assert made.parameters().required == ("detector",)
    with pytest.raises(UsageError, match="no class of detectors 'X'") as caught:
        made.sampler({"detector": "X"})
    assert "--grid detector=HL,HLV" in caught.value.hint
    found = trials(made, detector="HL")
    assert set(found["map"].tolist()) == {0, 2}
    assert (found["list"] == -1).all()
    whole = trials(made, detector="HLV")
    assert set(whole["list"].tolist()) == {1, 2, 3}
    sizes = dict(zip((1, 2, 3), (0, 1, 3), strict=True))
    assert whole["n_events"].tolist() == [sizes[place] for place in whole["list"].tolist()]


def test_the_same_maps_and_lists_elsewhere_are_the_same_model(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    for path in folder.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    one, two = (models.spec_of("coincidence", model(place)) for place in (folder, other))
    assert one != two
    assert models.identity(one) == models.identity(two)
    lists.write_list(other / "pool.csv", events(51))
    three = models.spec_of("coincidence", model(other))
    assert models.identity(one) != models.identity(three)
    assert model(folder).digest("all") != model(other).digest("all")
    lists.write_list(other / "pool.csv", events(50))
    assert model(folder).digest("all") == model(other).digest("all")
    window = "[window]\nbegin = -1\nend = 1\n"
    assert model(folder, POOL + window).digest("all") != model(other).digest("all")
    located = model(folder).located({f.path: other / f.local.name for f in model(folder).files()})
    assert located.maps[0].local == other / "map0.fits"


@pytest.mark.parametrize(
    ("text", "items", "message"),
    [
        ("", "maps.txt", r"\[background\] has either events or lists"),
        ("x = 1\n" + POOL, "maps.txt", "unknown field `x`"),
        ("[background]\nevnts = 'a'\n", "maps.txt", "unknown field `evnts`"),
        (POOL + "[window]\nbegin = 5\nend = 1\n", "maps.txt", "window: from 5 s to 1 s"),
        (POOL + "[window]\nshape = 'box'\n", "maps.txt", "Invalid enum value 'box'"),
        (POOL + "[energy]\nlowest = 1e9\n", "maps.txt", "no range of energies"),
        ("prior = inf\n" + POOL, "maps.txt", "prior = inf is not a finite number"),
        ("[background]\nevents = 'no.csv'\n", "maps.txt", "no.csv: No such file"),
        ("[background]\nevents = 'list1.json'\n", "maps.txt", "what is their rate"),
        ("[background]\nevents = 'list0.json'\n", "maps.txt", "no events to draw from"),
        (
            "[background]\nevents = 'pool.csv'\nrate = 1e9\n",
            "maps.txt",
            "1e.12 events are expected",
        ),
        ("[background]\nlists = 'bad.txt'\n", "maps.txt", "bad.txt line 2: no.json: there is no"),
        (POOL, "nothing.txt", "nothing.txt: No such file"),
        (POOL, "bad.txt", "bad.txt line 2: no.json: there is no such file"),
        (POOL, "twice.txt", "twice.txt line 3: map0.fits is in line 1 already"),
        (POOL, "empty.txt", "empty.txt: names no file"),
        (POOL, "wrong.txt", "pool.csv"),
        (POOL + "[detector.K]\ninstruments = 'K1'\n", "maps.txt", "no map is of instruments K1"),
    ],
)
def test_what_is_wrong_is_said_before_anything_starts(folder, text, items, message):
    for name, content in {
        "bad": "map0.fits\nno.json\n",
        "twice": "map0.fits\n\nmap0.fits\n",
        "empty": "# nothing\n",
        "wrong": "pool.csv\n",
    }.items():
        (folder / f"{name}.txt").write_text(content)
    with pytest.raises((BadInputError, UsageError), match=message):
        model(folder, text, items)


def test_a_hint_for_a_wrong_key(folder):
    with pytest.raises(BadInputError) as caught:
        model(folder, "[background]\nevnts = 'a'\n")
    assert caught.value.hint == "did you mean events?"


def test_a_flat_map_gives_exactly_the_other_factors(tmp_path):
    lists.write_list(tmp_path / "one.csv", events(1, energy=5e4))
    (tmp_path / "lists.txt").write_text("one.csv\n")
    write_maps(tmp_path, [flat()])
    text = (
        "[background]\nlists = 'lists.txt'\n[window]\nshape = 'triangle'\n"
        "[energy]\nsignal_index = 2\nbackground_index = 3\nlowest = 1e2\nhighest = 1e6\n"
    )
    found = trials(model(tmp_path, text), detector="all")
    assert (found["space"] == 1).all()
    energy = EnergyWeight(signal_index=2, background_index=3, lowest=1e2, highest=1e6)
    weight = float(energy.factor(np.array([5e4]))[0])
    assert found["energy"] == pytest.approx(weight)
    assert (found["log10_odds"] == np.log10(found["time"] * found["energy"])).all()
    assert found["ts"] == pytest.approx(2 * np.log(1 + found["time"] * found["energy"]))
    assert found["time"].mean() == pytest.approx(1, abs=0.05)


def test_a_flat_map_with_many_events_is_their_number(tmp_path):
    lists.write_list(tmp_path / "pool.csv", events(50))
    write_maps(tmp_path, [flat()])
    found = trials(model(tmp_path))
    some = found["n_events"] > 0
    assert (found["log10_odds"][some] == np.log10(found["n_events"][some])).all()
    assert (found["space"][some] == 1).all()


def test_no_event_has_a_defined_value(tmp_path):
    lists.write_list(tmp_path / "pool.csv", events(5))
    write_maps(tmp_path, [flat()])
    found = trials(model(tmp_path, POOL.replace("0.005", "1e-4")), 4000)
    none = found["n_events"] == 0
    assert none.mean() == pytest.approx(np.exp(-0.1), abs=0.02)
    assert (found["log10_odds"][none] == FLOOR).all()
    for name in ("space", "time", "energy", "ts"):
        assert (found[name][none] == 0).all()
    assert not any(np.isnan(column).any() for column in found.values())


def test_a_delta_map_has_odds_by_hand(tmp_path):
    """Injected events scatter around the one pixel: odds 2 / sigma^2 exp(-r^2 / 2) at r sigma, so
    that ln(800) - ln(odds) is exponential with mean 1; chance adds nothing far away.
    """
    nside, sigma = 128, 0.05
    p = np.zeros(pixels.pixel_number(nside))
    p[70_000] = 1
    write_maps(tmp_path, [p])
    lists.write_list(tmp_path / "pool.csv", events(1, sigma=sigma))
    text = POOL.replace("0.005", "1e-9")
    made = model(tmp_path, text)
    found = trials(made, 3000, n_sig=0.2)
    one = found["n_injected"] == 1
    assert one.mean() == pytest.approx(0.2 * np.exp(-0.2), abs=0.02)
    assert (found["n_events"] == found["n_injected"]).all()
    wait = np.log(2 / sigma**2) - np.log(10) * found["log10_odds"][one & (found["space"] > 0)]
    assert wait.min() > -1e-3
    assert wait.mean() == pytest.approx(1, abs=4 / np.sqrt(len(wait)))
    assert np.log10(found["space"][one]) == pytest.approx(found["log10_odds"][one])


def test_odds_add_up_and_the_best_event_is_named(folder):
    """By the slow way: each event of a trial by itself, from the same words."""
    text = POOL + "[energy]\n" + "[window]\nshape = 'gaussian'\n"
    made = model(folder, text)
    sampler = made.sampler({})
    uniforms = trial_uniforms(
        seed=9, model="coincidence", point={}, first=0, count=60, words=sampler.words
    )
    found = sampler.run(uniforms)
    pool = lists.read_list(folder / "pool.csv")
    window, energy = Window(shape="gaussian"), EnergyWeight()
    ra, dec = pixels.centres(NSIDE, np.arange(12 * NSIDE**2))
    for row, words in enumerate(uniforms):
        sky = read_map(made.maps[int(words[0] * 3)].local)
        total, best = 0.0, (0.0, 0.0, 0.0, 0.0)
        for k in range(found["n_events"][row]):
            place, turn, when = words[4 + 3 * k : 7 + 3 * k]
            event = int(place * 50)
            psi = pixels.separation(ra, dec, 2 * np.pi * turn, pool.dec[event])
            weight = np.exp((np.cos(psi) - 1) / 0.05**2) * (psi < 0.25)
            space = (weight * sky.density).sum() / weight.sum()
            time = float(window.factor(np.array([-500 + 1000 * when]))[0])
            strong = float(energy.factor(pool.energy[event : event + 1])[0])
            value = space * time * strong
            total += value
            best = max(best, (value, space, time, strong))
        assert 10.0 ** found["log10_odds"][row] == pytest.approx(total, rel=1e-5, abs=1e-90)
        if total:
            names = ("space", "time", "energy")
            assert [found[n][row] for n in names] == pytest.approx(best[1:], rel=1e-5)


def test_trials_do_not_depend_on_which_are_computed_together(folder):
    sampler = model(folder).sampler({"n_sig": 1})
    uniforms = trial_uniforms(
        seed=1, model="coincidence", point={}, first=0, count=300, words=sampler.words
    )
    whole = sampler.run(uniforms)
    parts = [sampler.run(uniforms[a:b]) for a, b in ((0, 1), (1, 7), (7, 300))]
    for name, column in whole.items():
        assert np.concatenate([part[name] for part in parts]).tobytes() == column.tobytes()
    assert list(whole) == list(model(folder).fields())


def test_numbers_of_events_are_those_that_are_expected(folder):
    found = trials(model(folder), 20_000, n_sig=2)
    background = found["n_events"] - found["n_injected"]
    for column, mean in ((background, 5), (found["n_injected"], 2)):
        assert column.mean() == pytest.approx(mean, abs=4 * np.sqrt(mean / 20_000))
        assert column.var() == pytest.approx(mean, rel=0.06)
    shares = np.bincount(found["map"]) / 20_000
    assert shares == pytest.approx([1 / 3] * 3, abs=0.015)


def test_injected_events_are_found(folder):
    (folder / "maps.txt").write_text("map0.fits\n")
    made = model(folder)
    quiet, loud = trials(made, 4000), trials(made, 4000, n_sig=3)
    assert np.median(loud["log10_odds"]) > np.quantile(quiet["log10_odds"], 0.9)
    assert (loud["log10_odds"] > np.quantile(quiet["log10_odds"], 0.99)).mean() > 0.3


def test_a_signal_that_is_no_number_of_events(folder):
    for wrong in (-1, "x", 1e9, float("nan")):
        with pytest.raises(UsageError, match="n_sig="):
            model(folder).sampler({"n_sig": wrong})
    (folder / "lists.txt").write_text("list0.json\n")
    empty = model(folder, "[background]\nlists = 'lists.txt'\n")
    assert (trials(empty)["log10_odds"] == FLOOR).all()
    with pytest.raises(UsageError, match="no event whose error"):
        empty.sampler({"n_sig": 1})


def test_scattered_directions_are_a_von_mises_fisher_function():
    rng = np.random.default_rng(2)
    n = 50_000
    for sigma, at in ((0.02, 1.5), (0.8, -0.3)):
        ra, dec = scattered(
            np.full(n, 6.2), np.full(n, at), np.full(n, sigma), rng.random(n), rng.random(n)
        )
        assert ((ra >= 0) & (ra < 2 * np.pi)).all()
        cosine = np.cos(pixels.separation(ra, dec, 6.2, at))
        kappa = sigma**-2
        assert (1 - cosine).mean() == pytest.approx(1 - 1 / np.tanh(kappa) + 1 / kappa, rel=0.02)
        # As many to the north as to the south, to the east as to the west.
        east = np.sin(ra - 6.2) > 0
        assert east.mean() == pytest.approx(0.5, abs=0.01)


def test_an_observed_pair_has_the_odds_of_a_trial(folder):
    made = model(folder, POOL + "[energy]\n")
    sky = read_map(folder / "map1.fits")
    pair = events(3, time=58000.0)
    inside = structs.replace(pair, time=pair.time + np.array([0, 400, 600]) / 86400)
    row = observed(made, "all", sky, inside, 58000.0)
    assert row["n_events"] == 2
    weight = float(EnergyWeight().factor(np.array([1000.0]))[0])
    assert row["log10_odds"] == pytest.approx(np.log10(2 * weight))
    nobody = observed(made, "all", sky, inside, 50000.0)
    assert (nobody["n_events"], nobody["log10_odds"], nobody["space"]) == (0, FLOOR, 0)
    assert json.loads(json.dumps(row)) == row


def test_options_of_other_models_are_refused(folder):
    from dask_runner.trial_runs import TrialRequest, plan

    request = TrialRequest(model="spectrum", options={"items": folder / "maps.txt"}, counts=("1",))
    with pytest.raises(UsageError, match="model spectrum takes no --items"):
        plan(request, None, None)
    with pytest.raises(UsageError, match="needs --config"):
        Coincidence.from_options()


def test_all_classes_are_meant_unless_some_are_named(folder):
    text = POOL + "[detector.HL]\ninstruments = 'H1,L1'\n[detector.HLV]\ninstruments = 'H1L1V1'\n"
    made = model(folder, text)
    assert made.spread([{"n_sig": 1}, {}]) == [
        {"detector": "HL", "n_sig": 1},
        {"detector": "HL"},
        {"detector": "HLV", "n_sig": 1},
        {"detector": "HLV"},
    ]
    named = [{"detector": "HLV"}]
    assert made.spread(named) == named
    assert model(folder).spread([{}]) == [{}]


def test_p_values_are_uniform_without_signal(folder):
    """Trials of one seed against those of another: P(p <= x) = x, where odds are defined."""
    sampler = model(folder, POOL + "[energy]\n[window]\nshape = 'triangle'\n").sampler({})
    odds = []
    for seed, number in ((1, 8000), (2, 4000)):
        uniforms = trial_uniforms(
            seed=seed, model="coincidence", point={}, first=0, count=number, words=sampler.words
        )
        odds.append(sampler.run(uniforms)["log10_odds"])
    p, _ = Tailed(odds[0]).p_values(odds[1])
    defined = np.sort(p[odds[1] > FLOOR])
    assert (p[odds[1] == FLOOR] == 1).all()
    distance = np.abs(np.arange(1, len(defined) + 1) / len(p) - defined).max()
    # 1.63 is the 1 % point of Kolmogorov's distance, of two samples.
    assert distance < 1.63 * np.sqrt(1 / 8000 + 1 / 4000)


def test_two_events_of_one_source(folder):
    """On a flat map the pair's term is the overlap of its two events, times prior squared."""
    lists.write_list(folder / "two.csv", events(2, sigma=1.5))
    (folder / "lists.txt").write_text("two.csv\n")
    (folder / "maps.txt").write_text("map1.fits\n")
    text = "prior = 0.01\npairs = true\n[background]\nlists = 'lists.txt'\nkeep_ra = true\n"
    found = trials(model(folder, text), 50)
    pair = lists.read_list(folder / "two.csv")
    overlap = pairs_of(pair.ra, pair.dec, pair.sigma, np.array([2])).overlap[0]
    assert overlap > 0.1
    assert found["log10_odds"] == pytest.approx(np.log10(0.01 * 2 + 1e-4 * overlap))
    single = trials(model(folder, text.replace("true\n[", "false\n[")), 50)
    assert single["log10_odds"] == pytest.approx(np.log10(0.02))
    row = observed(model(folder, text), "all", read_map(folder / "map1.fits"), pair, pair.time[0])
    assert row["n_events"] == 1
    close = structs.replace(pair, time=np.full(2, 58000.0))
    row = observed(model(folder, text), "all", read_map(folder / "map1.fits"), close, 58000.0)
    assert row["log10_odds"] == pytest.approx(found["log10_odds"][0])
    with pytest.raises(BadInputError, match="pairs need the prior"):
        model(folder, text.replace("prior = 0.01\n", ""))


def test_pairs_find_several_injected_events(folder):
    (folder / "maps.txt").write_text("map0.fits\n")
    found = {}
    for pairs in ("false", "true"):
        made = model(folder, f"prior = 0.1\npairs = {pairs}\n" + POOL)
        chance = Tailed(trials(made, 8000)["log10_odds"])
        p, _ = chance.p_values(trials(made, 2000, n_sig=4)["log10_odds"])
        found[pairs] = np.median(p)
        sampler = made.sampler({"n_sig": 3})
        uniforms = trial_uniforms(
            seed=1, model="coincidence", point={}, first=0, count=200, words=sampler.words
        )
        whole = sampler.run(uniforms)["log10_odds"]
        parts = [sampler.run(uniforms[a:b])["log10_odds"] for a, b in ((0, 3), (3, 200))]
        assert np.concatenate(parts).tobytes() == whole.tobytes()
    assert found["true"] < 0.7 * found["false"]
