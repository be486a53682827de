"""Trials as data: by point, without counting anything twice."""

import numpy as np
import pytest

from dask_runner.errors import BadInputError, UsageError
from dask_runner.trials.loading import TrialData, TrialFile, read_tree
from dask_runner.trials.tables import table_type

FIELDS = {"ts": "<f8", "n": "<i4"}


def table(first, count, point):
    rows = np.zeros(count, table_type(FIELDS))
    rows["ts"] = np.arange(first, first + count) + 1000 * point["dec"]
    rows["n"] = point["n_sig"]
    return rows


def file(folder, point, first, count, seed=0):
    path = folder / f"{point['dec']}.{point['n_sig']}.{first}.{seed}.npy"
    np.save(path, table(first, count, point))
    return TrialFile(path=path, point=point, first=first, count=count, seed=seed)


@pytest.fixture
def files(tmp_path):
    points = [{"dec": dec, "n_sig": n} for dec in (-0.5, 5) for n in (0, 10)]
    return [file(tmp_path, point, first, 5) for point in points for first in (5, 0)]


def test_access_by_point(files):
    trials = TrialData(files)
    assert len(trials) == 40
    assert trials.fields == ["ts", "n"]
    assert trials.values("dec") == [-0.5, 5]
    assert trials.at(dec=5, n_sig=10).ts.tolist() == [5000.0 + k for k in range(10)]
    rest = trials.at(dec=-0.5)
    assert [point for point, _ in rest] == [{"dec": -0.5, "n_sig": 0}, {"dec": -0.5, "n_sig": 10}]
    assert rest.at(n_sig=10).n.tolist() == [10] * 10
    assert trials.nearest(dec=3.9, n_sig=1).ts[0] == 5000
    assert trials.first_trials(3).at(dec=5, n_sig=0).ts.tolist() == [5000, 5001, 5002]
    assert "40 trials at 4 points" in repr(trials)


def test_what_is_not_there(files):
    trials = TrialData(files)
    with pytest.raises(UsageError, match="no point has dec=4") as caught:
        trials.at(dec=4)
    assert "-0.5, 5" in caught.value.hint
    with pytest.raises(UsageError, match="no parameter 'mass'"):
        trials.at(mass=4)
    with pytest.raises(UsageError, match="no field 'limit'"):
        trials.column("limit")
    with pytest.raises(AttributeError, match="limit"):
        _ = trials.limit
    assert not hasattr(trials, "limit")


def test_failed_trials_are_in_the_table_but_in_no_column(tmp_path):
    point = {"dec": 1, "n_sig": 0}
    one = file(tmp_path, point, 0, 5)
    rows = table(0, 5, point)
    rows["failed"][2] = True
    np.save(one.path, rows)
    trials = TrialData([one])
    assert (len(trials), trials.failed, len(trials.ts), len(trials.table)) == (5, 1, 4, 5)


def test_overlap_is_refused_and_other_seeds_are_not(files, tmp_path):
    point = {"dec": 5, "n_sig": 0}
    again = file(tmp_path, point, 3, 1)
    with pytest.raises(UsageError, match="count twice"):
        TrialData([*files, again])
    both = TrialData([*files, file(tmp_path, point, 3, 1, seed=1)])
    assert len(both) == 41
    assert sorted(both.flat()["seed"]) == [0] * 40 + [1]


def test_the_flat_table(files):
    flat = TrialData(files).flat()
    assert flat.dtype.names == ("dec", "n_sig", "trial", "ts", "n", "failed")
    assert flat["trial"][:10].tolist() == list(range(10))
    cut = TrialData(files).first_trials(3).flat()
    assert (len(cut), cut["trial"].max()) == (12, 2)
    frame = pytest.importorskip("pandas") and TrialData(files).to_pandas()
    assert frame.groupby(["dec", "n_sig"]).size().tolist() == [10] * 4


def test_a_parameter_that_is_a_word_somewhere_is_a_column_of_words(tmp_path):
    points = [{"dec": 1, "n_sig": 0}, {"dec": 5, "n_sig": 0, "kind": "hard"}]
    odd = [{"dec": 7, "n_sig": 0, "kind": 2}]
    files = [file(tmp_path, point, 0, 2) for point in [*points, *odd]]
    flat = TrialData(files).flat()
    assert flat["kind"].tolist() == ["", "", "hard", "hard", "2", "2"]
    assert flat["dec"].tolist() == [1, 1, 5, 5, 7, 7]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda path: path.write_bytes(b"not numpy at all"), "not a table"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "ends too early"),
        (lambda path: np.save(path, np.zeros(4)), "not a table of trials"),
        (lambda path: np.save(path, table(0, 4, {"dec": 1, "n_sig": 0})), "4 trials"),
        (lambda path: path.unlink(), "No such file"),
    ],
)
def test_damaged_files_are_named(tmp_path, spoil, words):
    one = file(tmp_path, {"dec": 1, "n_sig": 0}, 0, 5)
    spoil(one.path)
    with pytest.raises(BadInputError, match=words) as caught:
        _ = TrialData([one]).ts
    assert str(one.path) in str(caught.value)


def test_trees_of_the_csky_tutorial(tmp_path):
    for dec in ("+005", "-030"):
        for n_sig in ("000.0", "010.0"):
            for seed in (0, 1):
                path = (
                    tmp_path
                    / "dec"
                    / dec
                    / "nsig"
                    / n_sig
                    / f"trials__N_000004_seed_{seed:04d}.npy"
                )
                path.parent.mkdir(parents=True, exist_ok=True)
                np.save(path, np.array([(1.5, 2.0)] * 4, [("ts", "f8"), ("ns", "f8")]))
    trials = read_tree(tmp_path)
    assert trials.at(dec=-30, nsig=10).ts.tolist() == [1.5] * 8
    assert (len(trials), trials.failed, trials.values("dec")) == (32, 0, [-30, 5])
    (tmp_path / "dec" / "trials__N_1_seed_1.npy").write_bytes(b"")
    with pytest.raises(BadInputError, match="NAME/VALUE"):
        read_tree(tmp_path)
