"""Trials through the whole product: the same numbers whatever happens on the way."""

import json
import shutil
import subprocess

import numpy as np
import pytest
import trial_models
from product import wait_for

import dask_runner

MODEL = f"{trial_models.FOLDER}/trial_models.py"


def words(function, *more, n="200", grid="mass=1:3:1"):
    model = f"{MODEL}:{function}"
    return ["trials", "--model", model, "--grid", grid, "-n", n, "--slots", "2", "-q", *more]


def table(product, run="last"):
    trials = dask_runner.load_trials(run, runs=product.runs)
    return np.sort(trials.flat(), order=("mass", "trial")).tobytes()


def test_batch_size_extension_and_order_change_no_number(product):
    product.run(*words("simple", "--seed", "7", n="1000"))
    whole, content = table(product), product.check(finished=True).content
    assert len(product.lines("batch")) < 20
    product.run(*words("simple", "--seed", "7", "-b", "13", n="100"))
    product.run("trials", "--extend", "last", "-n", "+900", "-b", "171", "-q")
    assert table(product) == whole
    product.check(finished=True, reference_hash=content)
    assert len(product.lines("extension")) == 1
    # What there was is not done again.
    assert max(number for line in product.lines("started") for _, number in line["attempts"]) == 1
    (merged,) = product.json("merge", "last")["files"]
    assert merged["entries"] == 3000
    assert sum(line["counters"]["trials"] for line in product.lines("outcome")) == 3000


def test_the_same_from_python(product, monkeypatch):
    product.run(*words("simple", "--seed", "7", n="50"))
    whole = table(product)
    monkeypatch.chdir(product.folder)
    run = dask_runner.throw_trials(
        f"{MODEL}:simple", 50, grid={"mass": range(1, 4)}, seed=7, batch_size=9, slots=2
    )
    assert run.summary.verdict == "done"
    assert table(product, run.timestamp) == whole


def test_more_points_and_numbers_that_differ(product):
    product.run(*words("simple", "-n", "mass=3:50"))
    trials = dask_runner.load_trials(runs=product.runs)
    assert [len(there) for _, there in trials] == [200, 200, 50]
    product.run("trials", "--extend", "last", "--grid", "mass=3:4:1", "-n", "60", "-q")
    trials = dask_runner.load_trials(runs=product.runs)
    assert [(p["mass"], len(there)) for p, there in trials] == [
        (1, 200),
        (2, 200),
        (3, 60),
        (4, 60),
    ]
    done = product.run("trials", "--extend", "last", "-n", "60", "-q", expect=2)
    assert "has 200 trials already" in done.stderr
    product.check(finished=True)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--seed", "9"], "has seed 1, not 9"),
        (["--model", "counting"], "is of model trial_models:simple"),
    ],
)
def test_what_does_not_belong_together_is_refused(product, more, message):
    product.run(*words("simple", n="10"))
    before = product.lines("extension")
    done = product.run("trials", "--extend", "last", "-n", "20", *more, expect=2)
    assert message in done.stderr
    assert product.lines("extension") == before


def test_another_file_of_the_same_name_is_refused(product, tmp_path):
    product.run(*words("simple", n="10"))
    other = tmp_path / "trial_models.py"
    shutil.copy(MODEL, other)
    other.write_text(other.read_text() + "\n# changed\n")
    model = f"{other}:simple"
    done = product.run("trials", "--extend", "last", "-n", "20", "--model", model, expect=2)
    assert "is not the file that the run was planned with" in done.stderr


def test_another_numpy_is_refused(product):
    product.run(*words("simple", n="10"))
    manifest = product.last / "manifest.jsonl"
    lines = manifest.read_bytes().split(b"\n")
    # As if it had been made with another version: the checksum is part of the line.
    import zlib

    body = (
        lines[0]
        .rpartition(b',"crc":"')[0]
        .replace(f'"numpy":"{np.__version__}"'.encode(), b'"numpy":"1.0.0"')
    )
    lines[0] = body + b',"crc":"%08x"}' % zlib.crc32(body)
    manifest.write_bytes(b"\n".join(lines))
    done = product.run("trials", "--extend", "last", "-n", "20", expect=2)
    assert "was made with NumPy 1.0.0" in done.stderr


def test_killed_rerun_and_extended(product):
    product.environment["TEST_FOLDER"] = str(product.folder)
    (product.folder / "go").touch()
    product.run(*words("gated", "-b", "20"))
    whole = table(product)
    (product.folder / "go").unlink()
    shutil.rmtree(product.last)
    for path in product.folder.glob("waiting-*"):
        path.unlink()
    # The pilot waits too: it is let go, and then the run is held.
    driver = product.start(*words("gated", "-b", "20"))
    wait_for(lambda: list(product.folder.glob("waiting-*")), "the pilot")
    (product.folder / "go").touch()
    wait_for(lambda: product.timestamps and product.done() >= 2, "two batches")
    driver.kill()
    driver.wait()
    product.run("rerun", "last")
    assert table(product) == whole
    product.check(finished=True)


def test_a_poison_point_fails_alone(product):
    done = product.run(*words("poison", n="300"), expect=3)
    assert "no minimum found" in done.stdout
    result = product.check(finished=True)
    assert (len(result.failed), result.events_done) == (1, 600)
    (note,) = [line for line in product.lines("note") if line["kind"] == "poison"]
    assert note["data"]["batch"] in result.failed
    with pytest.raises(dask_runner.errors.FailedBatchesError):
        dask_runner.load_trials(runs=product.runs)
    assert len(dask_runner.load_trials(runs=product.runs, partial=True).points) == 2


def test_failed_trials_are_told_and_the_run_is_done(product):
    done = product.run(*words("poison", "--max-failed-share", "1"))
    assert "warning: mass=2: 1" in done.stderr
    assert "biases" in done.stderr
    (path,) = (product.last / "outputs").glob("*.failed.json")
    (cause,) = json.loads(path.read_text())
    assert cause["cause"] == "RuntimeError: no minimum found from #"
    assert 150 < len(cause["trials"]) < 200
    trials = dask_runner.load_trials(runs=product.runs)
    assert trials.at(mass=2).failed == len(cause["trials"])
    product.check(finished=True)


def test_batches_that_take_too_long_are_divided(product):
    """Point 2 costs a hundred times more than the pilot is made to believe."""
    (product.folder / "settings.toml").write_text("[trials]\nbatch_seconds = 0.5\n")
    product.run(*words("slow", "-b", "400", n="400", grid="mass=1,2"))
    whole = product.check(finished=True)
    product.run(*words("slow", "-b", "100", n="400", grid="mass=2"))
    assert product.lines("split")
    product.check(finished=True)
    assert whole.events_done == 800


def test_floods_and_leaks(product):
    product.run(*words("noisy", n="2000"))
    assert sum(path.stat().st_size for path in product.last.rglob("*.log")) < 40e6
    product.check(finished=True)
    done = product.run(
        *words("leaks", "--memory", "300", "--attempts", "2", grid="mass=1"), expect=3
    )
    assert "memory" in done.stdout
    product.check(finished=True)


def test_every_trouble_of_single_trials_in_one_run(product):
    """Raises, hangs, crashes, gives NaN, text or nothing: each is a failed trial with its cause."""
    product.run(
        *words(
            "troubled",
            "--trial-timeout",
            "1",
            "--max-failed-share",
            "0.5",
            grid="mass=1,2",
            n="150",
        )
    )
    causes = {}
    for path in (product.last / "outputs").glob("*.failed.json"):
        for one in json.loads(path.read_text()):
            causes[one["cause"]] = causes.get(one["cause"], 0) + len(one["trials"])
    assert causes.keys() == {
        "ValueError: no fit",
        "crashed: SIGSEGV",
        "took longer than # s (--trial-timeout)",
        "field 'value' is NaN",
        "field 'value' is not a number: 'text'",
        "field 'value' is not a number: None",
    }
    trials = dask_runner.load_trials(runs=product.runs)
    assert trials.failed == sum(causes.values()) < 60
    assert trials.value.min() >= 0.12
    product.check(finished=True)


def test_a_dry_test_tells_the_cost(product):
    done = product.run(*words("simple", "-t", n="1000"))
    assert "3000 trials at 3 points; fields x, n" in done.stdout
    assert "expected:" in done.stdout
    assert not product.timestamps


@pytest.mark.parametrize(
    ("model", "grid", "message"),
    [
        ("nowhere:trial", "mass=1", "cannot be imported"),
        (f"{MODEL}:nothing", "mass=1", "cannot be imported"),
        ("/nowhere/file.py:trial", "mass=1", "does not exist"),
        (f"{MODEL}:simple", "width=1", "has no mass"),
        (f"{MODEL}:simple", "mass=1 --grid other=1", "has no parameter 'other'"),
        ("nothing", "mass=1", "no model 'nothing'"),
    ],
)
def test_bad_models_are_refused_before_anything_starts(product, model, grid, message):
    done = product.run("trials", "--model", model, "--grid", *grid.split(), "-n", "10", expect=2)
    assert message in done.stderr
    assert not product.timestamps


def test_until_is_looked_at_at_fixed_numbers(product):
    condition = "relative_error(x, 0.5) < 0.002"
    done = product.run(*words("simple", "--until", condition, n="16000", grid="mass=1;width=0.1"))
    assert "points need more" in done.stderr
    trials = dask_runner.load_trials(runs=product.runs)
    # 1.2533 * 0.1 / sqrt(N) < 0.002 needs N > 3927: 4000 is the first of 1000, 2000, 4000 ...
    assert len(trials) in {4000, 8000}
    product.check(finished=True)
    again = product.run("trials", "--extend", "last", "--until", condition, "-n", "16000", "-q")
    assert "need more" not in again.stderr
    finer = ["--until", "relative_error(x, 0.5) < 0.0015", "-n", "16000", "--detach", "-q"]
    product.run("trials", "--extend", "last", *finer)
    product.run("wait", "last")
    more = dask_runner.load_trials(runs=product.runs)
    assert len(more) > len(trials)
    product.check(finished=True)
    told = product.run(*words("simple", "-t", "--until", "exceedances(x, 5sigma) >= 10", n="1000"))
    assert "takes 3.5e+07 trials" in told.stderr
    assert "will not be reached" in told.stderr


def test_a_full_disk(product, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", small], check=True)
    try:
        runs = ["--runs", str(small / "runs")]
        done = product.run(*words("simple", "-b", "20000", n="40000"), *runs, expect=7)
        assert "make space" in done.stderr
        subprocess.run(["mount", "-o", "remount,size=20m", small], check=True)
        product.run("rerun", "last", "-q", *runs)
        assert len(dask_runner.load_trials(runs=small / "runs")) == 120000
    finally:
        subprocess.run(["umount", small], check=True)
