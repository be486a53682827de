"""From trials of coincidences to a table and p-values, without a run."""

import numpy as np
import pytest

from dask_runner.conclusions import coincidence_background as backgrounds
from dask_runner.conclusions import coincidences
from dask_runner.conclusions.coincidence_background import Background
from dask_runner.conclusions.results import Account
from dask_runner.errors import BadInputError, UsageError
from dask_runner.model_files import ModelFile
from dask_runner.reports import coincidence_text
from dask_runner.sky.odds import FLOOR, Window
from dask_runner.trials.models.coincidence import Coincidence, DetectorClass

RNG = np.random.default_rng(4)
FILE = ModelFile(path="/maps/a.fits", sha256="a", fingerprint="f")
OTHER = ModelFile(path="/maps/b.fits", sha256="b", fingerprint="f")


def model(*files):
    found = DetectorClass(maps=tuple(range(len(files))), lists=(), window=Window(), rate=0.1)
    return Coincidence(maps=files, lists=(), classes={"HL": found, "HLV": found})


def trials(odds, *, n_sig=0.0, detector=0, run=0, runs=("R1",), files=(FILE, OTHER)):
    from pathlib import Path

    rows = np.zeros(len(odds), coincidences._TYPE)
    rows["log10_odds"], rows["trial"], rows["n_sig"] = odds, np.arange(len(odds)), n_sig
    rows["detector"], rows["run"], rows["map"] = detector, run, np.arange(len(odds)) % 2
    return coincidences.Trials(
        paths=tuple(Path(name) for name in runs),
        model=model(*files),
        rows=rows,
        detectors=("HL", "HLV"),
        account=Account(trials=len(odds), failed=0, not_converged=0),
    )


def joined(*parts):
    return coincidences._with_rows(parts[0], np.concatenate([part.rows for part in parts]))


def chance(n):
    """Odds with a tail, and some trials without any event."""
    odds = RNG.exponential(size=n)
    odds[RNG.random(n) < 0.1] = FLOOR
    return odds


def test_the_table_has_the_highest_odds_first():
    found = coincidences.table(trials([1, 5, 3, 5]), top=3)
    assert [(row.log10_odds, row.trial, row.map) for row in found.rows] == [
        (5, 1, "/maps/b.fits"),
        (5, 3, "/maps/b.fits"),
        (3, 2, "/maps/a.fits"),
    ]
    assert len(coincidences.table(trials([1, 5, 3, 5]), top=0).rows) == 4
    whole = coincidences.full_table(trials([1, 5]))
    assert whole.dtype.names[:4] == ("log10_odds", "n_events", "map", "batch")
    assert whole["map"].tolist() == ["/maps/a.fits", "/maps/b.fits"]
    assert whole["detector"].tolist() == ["HL", "HL"]


def test_p_values_are_uniform_without_signal():
    background = coincidences.background_of(trials(chance(5000), runs=("B",)))
    whole = coincidences.full_table(trials(chance(4000)), background)
    p = np.sort(whole["p"])
    # Trials without any event have p = 1: P(p <= x) = x below that.
    below = p[p < 1]
    assert len(below) / len(p) == pytest.approx(0.9, abs=0.02)
    distance = np.abs(np.arange(1, len(below) + 1) / len(p) - below).max()
    assert distance < 1.6 * np.sqrt(1 / 4000 + 1 / 5000)
    assert whole["from_tail"].sum() < 40
    assert (whole["p"] > 0).all()


def test_p_values_of_signal_and_what_they_are_from():
    quiet, loud = trials(chance(5000)), trials(chance(300) + 8, n_sig=2.0)
    both = joined(quiet, loud)
    found = coincidences.pvalues(both, coincidences.background_of(both), top=5)
    (point,) = found.points
    assert (point.n_sig, point.trials, point.background) == (2, 300, 5000)
    assert point.above_3_sigma > 0.6
    assert "exponential tail of" in point.tail
    assert [row.p.source for row in found.rows] == ["exponential"] * 5
    assert found.background == ("R1",)


def test_classes_are_compared_with_their_own():
    hl, hlv = trials(np.linspace(0, 1, 100)), trials(np.linspace(10, 11, 100), detector=1)
    background = coincidences.background_of(joined(hl, hlv))
    assert background.p_value("HL", 5).counted.k == 0
    assert background.p_value("HLV", 5).counted.k == 100
    with pytest.raises(UsageError, match="no trials of the class 'X'"):
        background.p_value("X", 5)
    with pytest.raises(UsageError, match="no trials of the class 'HLV'"):
        coincidences.pvalues(
            trials([1.0], n_sig=1, detector=1), coincidences.background_of(hl), top=1
        )


@pytest.mark.parametrize(("odds", "sigmas"), [(FLOOR, False), (0.5, True)])
def test_no_event_is_no_number_of_sigmas(odds, sigmas):
    background = coincidences.background_of(trials(chance(100)))
    text = coincidence_text.given(coincidences.given(background, "HL", odds))
    assert ("sigma" in "".join(map(str, text))) is sigmas


def test_nothing_is_compared_with_itself_or_with_another_model():
    quiet = trials(chance(100))
    background = coincidences.background_of(quiet)
    with pytest.raises(UsageError, match="are the background themselves"):
        coincidences.pvalues(quiet, background, top=1)
    # Of another run they may be.
    both = joined(quiet, trials(chance(50), run=1, runs=("R1", "R2")))
    both = coincidences.Trials(
        **{
            **{n: getattr(both, n) for n in both.__struct_fields__},
            "paths": trials([], runs=("R1", "R2")).paths,
        }
    )
    assert coincidences.pvalues(both, background, top=1).points[0].trials == 50
    other = trials(chance(10), runs=("R3",), files=(FILE,))
    with pytest.raises(UsageError, match="is of other maps, lists, window"):
        coincidences.pvalues(other, background, top=1)
    with pytest.raises(UsageError, match="no trials without signal"):
        coincidences.background_of(trials([1.0], n_sig=1))


@pytest.mark.parametrize("ending", [".npz", ".h5", ".hdf5"])
def test_a_distribution_file_gives_the_same_p_values(tmp_path, ending):
    odds = {"HL": chance(2000), "a/b ü": chance(100)}
    there = Background(odds, runs=("R1",), digests={"HL": "x"})
    path = tmp_path / f"background{ending}"
    if ending == ".npz":
        backgrounds.write(there, path)
        with np.load(path) as plain:
            assert plain["log10_odds/HL"].tolist() == sorted(odds["HL"])
    else:
        pytest.importorskip("h5py")
        backgrounds.write(there, path)
    found = backgrounds.read(path)
    assert (found.runs, found.digests, found.names) == (("R1",), {"HL": "x"}, (str(path),))
    for name in odds:
        assert found.p_value(name, 6.0) == there.p_value(name, 6.0)
    assert backgrounds.is_file(str(path))
    with pytest.raises(UsageError, match="exists already"):
        backgrounds.write(there, path)


def test_what_is_no_distribution_file_is_refused(tmp_path):
    with pytest.raises(UsageError, match="not a distribution file"):
        backgrounds.check_target(tmp_path / "a.txt")
    with pytest.raises(BadInputError, match="a.npz: No such file"):
        backgrounds.read(tmp_path / "a.npz")
    (tmp_path / "b.npz").write_text("nothing")
    (tmp_path / "b.h5").write_text("nothing")
    np.savez(tmp_path / "c.npz", x=np.ones(3))
    np.savez(tmp_path / "d.npz", about=np.array('{"format": "other"}'))
    for name in ("b.npz", "b.h5", "c.npz", "d.npz"):
        with pytest.raises(BadInputError, match=name):
            backgrounds.read(tmp_path / name)


def test_it_can_be_drawn(tmp_path):
    from dask_runner.reports.plots import save
    from dask_runner.reports.plots.coincidences import odds
    from dask_runner.stats.tails import Tailed

    known = Tailed(chance(3000))
    path = tmp_path / "p.png"
    save(odds(known, {"n_sig = 1": chance(300) + 5}, title="Class HL", marked=4.0), path)
    assert path.stat().st_size > 10_000
    save(odds(Tailed(np.full(20, FLOOR)), {}), path)
