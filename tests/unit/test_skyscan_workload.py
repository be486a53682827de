"""Scans of the sky: the same map however it is split, and what is refused."""

import csv
from types import SimpleNamespace

import healpy
import msgspec
import numpy as np
import pytest

from dask_runner import scan_runs, workloads
from dask_runner.batch import RETURNED_MAX
from dask_runner.errors import BadInputError, UsageError
from dask_runner.opening import Target
from dask_runner.settings import load_settings
from dask_runner.sky import pixels, scans
from dask_runner.sky.config import read_search
from dask_runner.sky.events import EVENT_COLUMNS
from dask_runner.sky.search import Search
from dask_runner.sky.significance import Significance
from dask_runner.sky.skymaps import UNSEEN, hottest_spots
from dask_runner.stats.distribution import Chi2TSD
from dask_runner.workloads.interface import MergeRequest, Part
from dask_runner.workloads.skyscan import InjectedSource, SkyScan

NSIDE = 4
SIGNIFICANCE = Significance(
    decs=(-1.5, 0.0, 1.5), eta=(0.3, 0.5, 0.5), ndof=(1.0, 1.2, 1.1), scale=(1.0, 1.0, 1.0)
)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("sky") / "search.toml"
    path.write_text("[experiment]\nevents = 2000\n[simulation]\nevents = 20000\n")
    return path


@pytest.fixture(scope="module")
def search(config):
    return read_search(config)


def scan(search, **changes):
    given = {"seed": 5, "nside": NSIDE, "first_pixel": 0, "pixels": 192, "size": 192, **changes}
    return SkyScan(search=search, **given)


def done(workload, folder, batches=None):
    """Run the batches, and what merge gets of them."""
    parts = []
    for batch in workload.plan().batches if batches is None else batches:
        results = workload.run(batch, folder)
        (name,) = (output.name for output in batch.outputs)
        (folder / name).write_bytes(results.files[name])
        assert results.counters["pixels"] == batch.count
        parts.append(Part(batch=batch, folder=folder))
    return parts


def pieces(parts):
    return [
        scans.Piece(
            path=part.folder / part.batch.outputs[0].name,
            first=part.batch.parameters["first"],
            count=part.batch.count,
        )
        for part in parts
    ]


def merged(workload, parts, folder, **more):
    folder.mkdir()
    request = MergeRequest(parts=parts, folder=folder, **more)
    return {file.path.rpartition("/")[2]: file for file in workload.merge(request)}


@pytest.fixture(scope="module")
def whole(search, tmp_path_factory):
    """Two skies in one batch."""
    workload = scan(search, skies=2, size=10_000)
    return workload, done(workload, tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("size", [1, 7, 100, 191, 200])
def test_splitting_never_changes_a_value(search, whole, tmp_path, size):
    workload = scan(search, skies=2, size=size)
    batches = workload.plan().batches
    assert sum(batch.count for batch in batches) == 384
    assert max(batch.count for batch in batches) <= size
    if size == 1:
        batches = batches[::37]
    parts = done(workload, tmp_path, batches)
    reference, there = whole
    for sky in (0, 1):
        expected = scans.read_sky(pieces(there), sky, 192)
        found = scans.read_sky(pieces(parts), sky, 192)
        known = np.isfinite(found["ts"])
        assert known.sum() == sum(
            number
            for part in batches
            for k, _, number in scans.sky_ranges(part.parameters["first"], part.count, 192)
            if k == sky
        )
        assert found[known].tobytes() == expected[known].tobytes()
    assert reference.seed == workload.seed


def test_divided_batches_are_the_same_pixels(search, whole, tmp_path):
    workload, _ = whole
    (batch,) = workload.plan().batches
    parts = workload.divide(batch, 50, first_index=1)
    assert [part.index for part in parts] == list(range(1, 9))
    assert sum(part.count for part in parts) == batch.count
    assert all(part.count <= 50 for part in parts)
    # Whole skies cost the same; parts of a sky cost what events there are in their band.
    assert workload.cost_key(batch) == "skies"
    keys = {workload.cost_key(part) for part in parts}
    assert len(keys) > 2
    again = workload.divide(parts[0], 7, first_index=20)
    found = scans.read_sky(pieces(done(workload, tmp_path, again)), 0, 192)
    expected = scans.read_sky(pieces(whole[1]), 0, 192)
    assert found[:40].tobytes() == expected[:40].tobytes()


def test_skies_differ_and_depend_on_seed_and_number_alone(search, whole, tmp_path):
    _, there = whole
    first, second = (scans.read_sky(pieces(there), sky, 192) for sky in (0, 1))
    assert first.tobytes() != second.tobytes()
    more = scan(search, skies=9, size=192)
    batch = more.plan().batches[1]
    found = scans.read_sky(pieces(done(more, tmp_path, [batch])), 1, 192)
    assert found.tobytes() == second.tobytes()
    events = {seed: scan(search, seed=seed).events(Search.load(search), 0) for seed in (5, 6)}
    assert not np.array_equal(events[5].ra, events[6].ra)
    # Declination and energy stay with the event.
    assert np.array_equal(events[5].dec, events[6].dec)


@pytest.mark.parametrize("significance", [None, SIGNIFICANCE])
def test_the_hottest_pixels_are_those_of_the_maps(search, whole, tmp_path, significance):
    maps = msgspec.structs.replace(whole[0], significance=significance)
    hottest = scan(search, skies=2, size=77, keep="hottest", significance=significance)
    kept = done(hottest, tmp_path)
    # A batch keeps a row for each sky that it has seen.
    assert [len(np.load(piece.path)) for piece in pieces(kept)] == [1, 1, 2, 1, 1]
    files = merged(hottest, kept, tmp_path / "merged")
    reference = merged(maps, whole[1], tmp_path / "maps")
    assert files["hottest.npy"].content_hash == reference["hottest.npy"].content_hash
    assert set(reference) == {"skymap.000000.fits", "skymap.000001.fits", "hottest.npy"}
    rows = np.load(tmp_path / "merged" / "hottest.npy")
    assert rows["sky"].tolist() == [0, 1]
    for row in rows:
        sky = scans.read_sky(pieces(whole[1]), int(row["sky"]), 192)
        if significance is None:
            assert row["ts"] == sky["ts"].max()
            assert np.isnan(row["mlog10p"])
        else:
            _, dec = pixels.centres(NSIDE, np.arange(192))
            assert row["mlog10p"] == significance.mlog10p(dec, sky["ts"]).max()
        assert sky["ts"][row["pixel"]] == row["ts"]


def test_a_sky_that_is_not_complete_has_no_hottest_spot(search, tmp_path):
    workload = scan(search, skies=2, size=77, keep="hottest")
    parts = done(workload, tmp_path)
    files = merged(workload, parts[:-1], tmp_path / "merged")
    assert files["hottest.npy"].entries == 1
    with pytest.raises(UsageError, match="no sky is complete"):
        merged(workload, parts[:1], tmp_path / "none")


def test_a_map_is_one_that_healpy_reads(search, tmp_path):
    workload = scan(search, significance=SIGNIFICANCE, size=100)
    parts = done(workload, tmp_path)
    files = merged(workload, parts, tmp_path / "merged", metadata={"run": "R"})
    assert set(files) == {"skymap.fits", "spots.csv"}
    path = tmp_path / "merged" / "skymap.fits"
    (mlog10p, ts, n_s, gamma), header = healpy.read_map(path, field=None, h=True)
    rows = scans.read_sky(pieces(parts), 0, 192)
    for column, name in ((ts, "ts"), (n_s, "n_s"), (gamma, "gamma")):
        assert column.tolist() == rows[name].tolist()
    assert mlog10p.max() > 1
    header = dict(header)
    assert (header["RUN"], header["SKY"], header["COORDSYS"]) == ("R", 0, "C")
    spots = list(csv.DictReader((tmp_path / "merged" / "spots.csv").read_text().splitlines()))
    best = int(np.argmax(mlog10p))
    assert int(spots[0]["pixel"]) == best
    assert float(spots[0]["mlog10p"]) == mlog10p[best]
    theta, phi = healpy.pix2ang(NSIDE, best)
    assert float(spots[0]["ra"]) == pytest.approx(np.degrees(phi))
    assert float(spots[0]["dec"]) == pytest.approx(90 - np.degrees(theta))
    # What is missing is not 0.
    files = merged(workload, parts[:1], tmp_path / "part")
    assert files["skymap.fits"].entries == 96
    ts = healpy.read_map(tmp_path / "part" / "skymap.fits", field=1)
    assert (ts[96:] == UNSEEN).all()
    assert (ts[:96] >= 0).all()


def test_a_source_is_found_where_it_was_injected(search, tmp_path):
    source = InjectedSource(ra=150.0, dec=20.0, n_sig=40.0, index=2.0)
    first, count = pixels.band(16, 0.0, 0.7)
    workload = scan(
        search, nside=16, first_pixel=first, pixels=count, size=count, source=source,
        significance=SIGNIFICANCE,
    )  # fmt: skip
    found = workload.map_of(pieces(done(workload, tmp_path)), 0)
    spots = hottest_spots(found, 5, np.radians(8.0))
    apart = pixels.separation(
        np.radians(spots[0].ra), np.radians(spots[0].dec), np.radians(150), np.radians(20)
    )
    assert np.degrees(apart) < 3
    assert spots[0].mlog10p > 8 > spots[1].mlog10p
    heats = [spot.mlog10p for spot in spots]
    assert heats == sorted(heats, reverse=True)
    for k, spot in enumerate(spots):
        for other in spots[:k]:
            angle = pixels.separation(*np.radians([spot.ra, spot.dec, other.ra, other.dec]))
            assert np.degrees(angle) >= 8
    # Without the source it is another stream, not the same sky.
    plain = scan(search).events(Search.load(search), 0)
    with_source = workload.events(Search.load(search), 0)
    assert len(with_source) > len(plain)
    assert not np.array_equal(with_source.ra[:2000], plain.ra)


def test_the_observed_sky_is_that_of_the_experiment(search):
    observed = scan(search, unblind="approved").events(Search.load(search), 0)
    assert np.array_equal(observed.ra, Search.load(search).observed().ra)
    for wrong in ({"skies": 2}, {"source": InjectedSource(ra=0, dec=0, n_sig=1, index=2)}):
        with pytest.raises(UsageError, match="one observed sky"):
            scan(search, unblind="approved", **wrong).plan()


def test_more_batches_than_anybody_waits_for_are_refused(search):
    with pytest.raises(UsageError, match="too many batches"):
        scan(search, skies=1_000_000, size=1).plan()


def test_p_values_by_declination():
    """The grid's own distributions at the grid, linear in between, the ends beyond."""
    fits = [Chi2TSD(eta=e, ndof=k) for e, k in ((0.3, 1.0), (0.5, 1.2), (0.5, 1.1))]
    for dec, fit in zip(SIGNIFICANCE.decs, fits, strict=True):
        assert SIGNIFICANCE.mlog10p(dec, 9.0) == pytest.approx(-np.log10(fit.p(9.0)))
    middle = (fits[0].p(9.0) + fits[1].p(9.0)) / 2
    assert SIGNIFICANCE.mlog10p(-0.75, 9.0) == pytest.approx(-np.log10(middle))
    assert SIGNIFICANCE.mlog10p(-1.57, 9.0) == SIGNIFICANCE.mlog10p(-1.5, 9.0)
    found = SIGNIFICANCE.mlog10p([0.0, 0.1], [0.0, 0.0])
    assert found.tolist() == [0, 0]
    assert not np.signbit(found).any()
    assert SIGNIFICANCE.mlog10p(0.0, 1e5) == 300
    with pytest.raises(UsageError, match="no fit"):
        Significance.of({0.1: Chi2TSD.fit(np.zeros(100))})


def test_the_workload_comes_back_from_json(search):
    workload = scan(
        search,
        significance=SIGNIFICANCE,
        source=InjectedSource(ra=1, dec=2, n_sig=3, index=2.5, cutoff=1e5),
    )
    spec = workloads.spec_of(workload)
    assert spec.name == "skyscan"
    assert workloads.load(msgspec.convert(msgspec.to_builtins(spec), type(spec))) == workload
    assert workloads.counted("skyscan") == "pixels"


def settings(tmp_path):
    return load_settings(None, {}, {"storage.runs": str(tmp_path)}).settings


def planned(config, tmp_path, **request):
    return scan_runs.plan(
        scan_runs.ScanRequest(config=config, **request),
        settings(tmp_path),
        Target(cluster="local"),
    )


def test_what_the_user_says_becomes_a_scan(config, tmp_path):
    found = planned(
        config, tmp_path, nside=8, min_dec=-5, max_dec=60, inject="dec=10,ra=20,n_sig=5"
    ).workload
    assert (found.skies, found.keep, found.unblind) == (1, "maps", "")
    assert (found.source.dec, found.source.index) == (10, 2.0)
    _, dec = pixels.centres(8, found.first_pixel + np.arange(found.pixels))
    assert -5 <= np.degrees(dec.min()) < np.degrees(dec.max()) <= 60
    assert "pixels/s" in found.notes[1]
    many = planned(config, tmp_path, nside=2, skies=100, batch_size=11)
    assert (many.workload.keep, many.workload.size, many.notes) == ("hottest", 11, ())
    assert planned(config, tmp_path, nside=2, skies=3, keep="maps").workload.keep == "maps"


def test_pixels_without_events_are_said(search, tmp_path):
    """As of a detector that sees one half of the sky."""
    events = Search.load(search).experiment
    north = events.take(events.dec > 0.3)
    table = np.zeros(len(north), [(name, "f8") for name in EVENT_COLUMNS])
    for name in EVENT_COLUMNS:
        table[name] = getattr(north, name)
    np.save(tmp_path / "north.npy", table)
    config = tmp_path / "north.toml"
    config.write_text('livetime = 365.25\n[experiment]\nfile = "north.npy"\n')
    note = planned(config, tmp_path, nside=4).workload.notes[2]
    assert "the experiment has no events there" in note
    assert "between -78.3 and" in note
    assert len(planned(config, tmp_path, nside=4, min_dec=20).workload.notes) == 2


def test_samples_that_have_changed_get_no_more_skies(search, tmp_path, monkeypatch):
    events = Search.load(search).experiment
    table = np.zeros(len(events), [(name, "f8") for name in EVENT_COLUMNS])
    for name in EVENT_COLUMNS:
        table[name] = getattr(events, name)
    np.save(tmp_path / "mine.npy", table)
    config = tmp_path / "mine.toml"
    config.write_text('livetime = 365.25\n[experiment]\nfile = "mine.npy"\n')
    scan = planned(config, tmp_path, nside=2, batch_size=48).workload
    monkeypatch.setattr(scan_runs, "scan_of", lambda _: scan)
    state = SimpleNamespace(batches=scan.plan().batches)
    assert [batch.count for batch in scan_runs.more_skies(state, 3).batches] == [48, 48]
    table["dec"][0] += 1e-9
    np.save(tmp_path / "mine.npy", table)
    with pytest.raises(BadInputError, match=r"mine\.npy: is not the file that the run was planned"):
        scan_runs.more_skies(state, 3)


def test_whoever_looks_at_the_observed_sky_is_recorded(config, tmp_path):
    found = planned(config, tmp_path, nside=2, unblind=" approved ")
    assert found.workload.unblind == "approved"
    (note,) = found.notes
    assert (note.kind, note.data["reason"]) == ("unblinded", "approved")
    assert note.who
    assert note.time


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"nside": 48}, "power of 2"),
        ({"min_dec": -100}, "--min-dec"),
        ({"min_dec": 10, "max_dec": 10}, "nothing is between"),
        ({"unblind": " "}, "needs a reason"),
        ({"unblind": "yes", "skies": 2}, "one observed sky"),
        ({"unblind": "yes", "inject": "dec=1,ra=1,n_sig=1"}, "one observed sky"),
        ({"inject": "dec=1,ra=1"}, "n_sig"),
        ({"inject": "dec=1,ra=1,n_sig=x"}, "no number"),
        ({"inject": "dec=1,ra=1,n_sig=1,energy=3"}, "no 'energy'"),
        ({"inject": "dec=91,ra=1,n_sig=1"}, "no such source"),
        ({"inject": "dec=1,ra=900,n_sig=1"}, "no such source"),
        ({"inject": "dec=1,ra=1,n_sig=-1"}, "no such source"),
        ({"inject": "dec=1,ra=1,n_sig=nan"}, "no such source"),
        ({"inject": "dec=1,ra=inf,n_sig=1"}, "no such source"),
        ({"inject": "dec=1,ra=1,n_sig=1e9"}, "no such source"),
        ({"inject": "dec=1,ra=1,n_sig=1,n_sig=2"}, "there twice"),
        ({"keep": "all"}, "--keep"),
        ({"skies": 0}, "at least one"),
        ({"fit": "gauss"}, "no fit"),
        ({"fit": "scale"}, "there are none"),
        ({"nside": 8192}, "up to 4096"),
    ],
)
def test_what_makes_no_sense_is_refused_at_once(config, tmp_path, request_, message):
    with pytest.raises(UsageError, match=message):
        planned(config, tmp_path, **request_)


def test_batches_are_sized_by_time(search):
    cost = scan_runs.Cost(pixel=1e-3, sky=0.1)

    def size(pixels_, skies=1, slots=2, fixed=0, cost=cost):
        workload = scan(search, pixels=pixels_, skies=skies)
        return scan_runs.batch_size(workload, cost, slots=slots, fixed=fixed, target=30.0)

    # A large sky: parts of about 30 s, equal ones.
    large = size(1_000_000)
    assert 25_000 < large <= 30_000
    # A short run is for all slots, but not in parts shorter than what each prepares.
    assert size(4000) == 400
    loading = scan_runs.Cost(pixel=1e-3, sky=0.1, batch=0.9)
    assert size(4000, cost=loading) == 1000
    assert size(400) == 400
    # Whole skies, where they are short.
    assert size(1000, skies=1000) == 27_000
    assert size(1000, skies=1000, fixed=10) == 10
    most = size(10_000_000, cost=scan_runs.Cost(pixel=1e-9, sky=0.0))
    assert most * scans.PIXEL.itemsize < RETURNED_MAX
