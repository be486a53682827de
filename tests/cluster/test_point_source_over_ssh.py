"""Point-source trials on hosts that see nothing of the user's: samples go there once."""

import sys
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).parent.parent)]
from sky_samples import write_samples  # noqa: E402

import dask_runner  # noqa: E402


def table(rig):
    trials = dask_runner.load_trials(runs=rig.runs)
    return np.sort(trials.flat(), order=("dec", "trial")).tobytes()


def test_trials_of_users_samples_on_hosts_without_the_folder(make_rig):
    """The same bits as here, with a host lost on the way, from files that the hosts never had."""
    rig = make_rig(3, node02={"shared": False}, node03={"shared": False})
    mine = rig.folder / "mine"
    mine.mkdir()
    words = ["trials", "--model", "point-source", "--config", f"{write_samples(mine)}", "-q"]
    words += ["--grid", "dec=-40,20", "--set", "n_sig=4", "--seed", "7"]
    rig.run(*words, "-n", "150", "--cluster", "local")
    reference = table(rig)
    content = rig.check(finished=True).content
    rig.up()
    rig.run(*words, "-n", "60", "-b", "5")
    used = {line["host"] for line in rig.lines("outcome")}
    assert len(used) == 3
    rig.department["node02"].kill()
    rig.run("trials", "--extend", "last", "-n", "150", "-b", "11", "-q")
    assert table(rig) == reference
    rig.check_while_up(finished=True, reference_hash=content)
