"""Trials on hosts that see nothing of the user's: the model goes there, the numbers come back."""

import shutil
import sys
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).parent.parent)]
import trial_models  # noqa: E402

import dask_runner  # noqa: E402


def table(rig):
    trials = dask_runner.load_trials(runs=rig.runs)
    return np.sort(trials.flat(), order=("mass", "trial")).tobytes()


def test_trials_of_a_file_on_hosts_without_the_folder(make_rig):
    """The same bits as here, with a host lost on the way, from a file that the hosts never had."""
    rig = make_rig(3, node02={"shared": False}, node03={"shared": False})
    model = rig.folder / "mine" / "own_trials.py"
    model.parent.mkdir()
    shutil.copy(f"{trial_models.FOLDER}/trial_models.py", model)
    words = ["trials", "--model", f"{model}:simple", "--grid", "mass=1:3:1", "-q", "--seed", "7"]
    rig.run(*words, "-n", "300", "--cluster", "local")
    reference = table(rig)
    content = rig.check(finished=True).content
    rig.up()
    rig.run(*words, "-n", "100", "-b", "7")
    used = {line["host"] for line in rig.lines("outcome")}
    assert len(used) == 3
    rig.department["node02"].kill()
    rig.run("trials", "--extend", "last", "-n", "300", "-b", "11", "-q")
    assert table(rig) == reference
    rig.check_while_up(finished=True, reference_hash=content)
    # Nothing but logs was written on a host that does not see the folder.
    left = rig.department["node03"].path("/tmp").rglob("*.npy")
    assert not [path for path in left if "mass=" in path.name]
