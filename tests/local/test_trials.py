"""Trials through the whole product: the same numbers whatever happens on the way."""

import json
import re
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

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
    # Values stay what they are: a text that looks like a number is none.
    values = [2, 2.5, "5", "a,b"]
    odd = dask_runner.throw_trials(f"{MODEL}:anything", 2, grid={"mass": values}, slots=2)
    process = [*sys.path], {**sys.modules}
    assert [p["mass"] for p in dask_runner.load_trials(odd.timestamp).points] == values
    assert ([*sys.path], {**sys.modules}) == process
    for grid, message in [
        ({"mass": [True]}, "number or a text"),
        ({"mass": [float("nan")]}, "not a finite"),
        ({"mass": [1, 1.0]}, "twice"),
        ({"a b": [1]}, "no name"),
    ]:
        with pytest.raises(dask_runner.errors.UsageError, match=message):
            dask_runner.throw_trials(f"{MODEL}:anything", 2, grid=grid)


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


def test_what_does_not_belong_together_is_refused(product, tmp_path):
    product.run(*words("simple", n="10"))
    before = (product.last / "manifest.jsonl").read_bytes()
    other = tmp_path / "trial_models.py"
    other.write_text(Path(MODEL).read_text() + "\n# changed\n")
    condition = ["--until", "error(x, 0.5) < 0.1"]
    for more, message in [
        (["--seed", "9"], "has seed 1, not 9"),
        (["--seed", "9", *condition], "has seed 1, not 9"),
        (["--model", "counting", *condition], "is of model trial_models:simple"),
        (["--model", f"{other}:simple"], "is not the file that the run was planned with"),
        (["--until", "error(y, 0.5) < 0.1"], "no field 'y'"),
        (["--trial-timeout", "5"], "--trial-timeout stays as the run was made with"),
    ]:
        done = product.run("trials", "--extend", "last", "-n", "20", *more, expect=2)
        assert message in done.stderr
    assert (product.last / "manifest.jsonl").read_bytes() == before
    pretend(product, numpy="1.0.0")
    done = product.run("trials", "--extend", "last", *condition, expect=2)
    assert "was made with NumPy 1.0.0" in done.stderr
    pretend(product, numpy=np.__version__, scipy="1.0.0")
    done = product.run("trials", "--extend", "last", "-n", "20", "-t")
    assert "was made with SciPy 1.0.0" in done.stderr
    assert "would get 3 batches" in done.stderr


def pretend(product, **made_with):
    """As if the run had been made with other versions: the checksum is part of the line."""
    manifest = product.last / "manifest.jsonl"
    lines = manifest.read_bytes().split(b"\n")
    body = lines[0].rpartition(b',"crc":"')[0]
    for name, version in made_with.items():
        body = re.sub(rb'"%s":"[^"]*"' % name.encode(), f'"{name}":"{version}"'.encode(), body)
    lines[0] = body + b',"crc":"%08x"}' % zlib.crc32(body)
    manifest.write_bytes(b"\n".join(lines))


def test_killed_extended_and_killed_while_extended(product):
    product.environment["TEST_FOLDER"] = str(product.folder)
    go = product.folder / "go"
    go.touch()
    product.run(*words("gated", "-b", "20", n="300", grid="mass=1:2:1"))
    whole = table(product)
    shutil.rmtree(product.last)

    def held(*more):
        """A driver whose pilot waits."""
        go.unlink(missing_ok=True)
        for path in product.folder.glob("waiting-*"):
            path.unlink()
        driver = product.start(*more)
        wait_for(lambda: list(product.folder.glob("waiting-*")), "the pilot")
        return driver

    def kill(driver):
        driver.kill()
        driver.wait()

    driver = held(*words("gated", "-b", "20", n="200", grid="mass=1:2:1"))
    go.touch()
    wait_for(lambda: product.timestamps and product.done() >= 2, "two batches")
    kill(driver)
    product.run("rerun", "last")
    extend = ["trials", "--extend", "last", "-n", "300", "-b", "20", "--slots", "1"]
    # The pilot of an extension holds no lock, not even if it is all that is left.
    kill(held(*extend))
    assert not product.lines("extension")
    assert "done" in product.run("rerun", "last").stdout
    driver = held(*extend)
    go.touch()
    wait_for(lambda: product.done() >= 22, "two batches of the extension")
    kill(driver)
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
    told = product.json("status", "last")["summary"]["failed_trials"]
    worst = {"point": {"mass": 2}, "trials": 200, "failed": len(cause["trials"])}
    assert told == {"failed": len(cause["trials"]), "points": 1, "worst": [worst]}
    assert "failed trials at 1 point" in product.run("status", "last").stdout
    trials = dask_runner.load_trials(runs=product.runs)
    assert trials.at(mass=2).failed == len(cause["trials"])
    product.check(finished=True)


def test_batches_that_take_too_long_are_divided(product):
    """Point 2 costs a hundred times more than the pilot is made to believe."""
    (product.folder / "settings.toml").write_text("[trials]\nbatch_seconds = 0.2\n")
    product.run(*words("slow", "-b", "200", n="200", grid="mass=1,2"))
    assert product.check(finished=True).events_done == 400
    whole = dask_runner.load_trials(runs=product.runs).at(mass=2)
    product.run(*words("slow", "-b", "50", n="200", grid="mass=2"))
    assert product.lines("split")
    product.check(finished=True)
    assert dask_runner.load_trials(runs=product.runs).table.tobytes() == whole.table.tobytes()


def test_floods_and_leaks(product):
    product.run(*words("noisy", n="2000"))
    assert sum(path.stat().st_size for path in product.last.rglob("*.log")) < 40e6
    product.check(finished=True)
    done = product.run(
        *words("leaks", "-b", "200", "--memory", "300", "--attempts", "2", grid="mass=1"), expect=3
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
        ("leaves.py:trial", "mass=1", "SystemExit: 0"),
        ("lacks.py:trial", "mass=1", "No module named 'helper'"),
        ("helper:trial", "mass=1", "No module named 'helper'"),
    ],
)
def test_bad_models_are_refused_before_anything_starts(product, model, grid, message):
    (product.folder / "helper.py").write_text("def trial(rng, mass): return mass\n")
    (product.folder / "lacks.py").write_text("from helper import trial\n")
    (product.folder / "leaves.py").write_text("raise SystemExit(0)\n")
    done = product.run("trials", "--model", model, "--grid", *grid.split(), "-n", "10", expect=2)
    assert message in done.stderr
    assert not product.timestamps


def test_until_is_looked_at_at_fixed_numbers(product):
    condition = "relative_error(x, 0.5) < 0.002"
    done = product.run(*words("simple", "--until", condition, n="16000", grid="mass=1;width=0.1"))
    assert "points need more" in done.stderr
    trials = dask_runner.load_trials(runs=product.runs)
    # 1.2533 * 0.1 / sqrt(N) < 0.002 needs N > 3927: 4000 is the first of 1000, 2000, 4000 ...
    assert len(trials) == 4000
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
