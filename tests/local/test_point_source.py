"""Point-source trials through the whole product, with a user's own samples."""

import numpy as np
from product import wait_for
from sky_samples import write_samples

import dask_runner

GRID = ["--grid", "dec=-30,10", "--grid", "n_sig=0,6"]


def words(*more, n):
    search = ["trials", "--model", "point-source", "--config", "search.toml", *GRID]
    return [*search, "-n", n, "--slots", "2", "--seed", "5", "-q", *more]


def table(product):
    trials = dask_runner.load_trials(runs=product.runs)
    return np.sort(trials.flat(), order=("dec", "n_sig", "trial"))


def test_killed_continued_and_extended_trials_are_those_of_one_run(product):
    write_samples(product.folder)
    product.run(*words(n="120"))
    whole, content = table(product), product.check(finished=True).content
    assert whole["converged"].all()
    assert whole["ts"][whole["n_sig"] == 6].mean() > 5 * whole["ts"][whole["n_sig"] == 0].mean()
    driver = product.start(*words("-b", "10", n="60"))
    wait_for(lambda: len(product.timestamps) == 2 and product.done() >= 2, "two batches")
    driver.kill()
    driver.wait()
    assert product.done() < 24
    product.run("rerun", "last")
    product.run("trials", "--extend", "last", "-n", "120", "-b", "37", "-q")
    assert table(product).tobytes() == whole.tobytes()
    product.check(finished=True, reference_hash=content)
    # Of other samples there are no more trials in this run.
    write_samples(product.folder, events=5001)
    done = product.run("trials", "--extend", "last", "-n", "130", "-q", expect=4)
    assert "data.npy" in done.stderr


def test_what_is_wrong_is_said_before_anything_is_started(product):
    path = write_samples(product.folder)
    for text, more, code, message in [
        ('[simulation]\nfile = "mc.root"', [], 4, "mc.root"),
        ("[fit]\nindeks = 2", [], 4, "did you mean index?"),
        ("", ["--set", "extension=99"], 2, "extension=99 is not within 0 to 30 degrees"),
        ("", ["--set", "energy=99"], 2, "has no parameter 'energy'"),
    ]:
        path.write_text(text)
        done = product.run(*words(*more, n="10"), expect=code)
        assert message in done.stderr
    assert not product.timestamps
    path.write_text("[experiment]\nevents = 3000\n[simulation]\nevents = 9000")
    done = product.run(*words("-t", n="1000"))
    assert "3000 events in 365.25 days at random right ascension" in done.stdout
    assert "4000 trials at 4 points" in done.stdout
    assert not product.timestamps
