"""A scan of the sky on hosts that see nothing of the user's: the samples go there, the map comes
back, and it is the same one.
"""

import sys
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).parent.parent)]

from dask_runner.sky.config import read_search  # noqa: E402
from dask_runner.sky.events import EVENT_COLUMNS, TRUTH_COLUMNS  # noqa: E402
from dask_runner.sky.search import Search  # noqa: E402


def own_samples(folder):
    """A search with files of its own."""
    made = folder / "made.toml"
    made.write_text("[experiment]\nevents = 20000\n[simulation]\nevents = 20000\n")
    search = Search.load(read_search(made))
    for name, sample, columns in (
        ("experiment", search.experiment, EVENT_COLUMNS),
        ("simulation", search.simulation, (*EVENT_COLUMNS, *TRUTH_COLUMNS)),
    ):
        table = np.zeros(len(sample), [(column, "f8") for column in columns])
        for column in columns:
            table[column] = getattr(sample, column)
        np.save(folder / f"{name}.npy", table)
    path = folder / "search.toml"
    path.write_text(
        'livetime = 365.25\n[experiment]\nfile = "experiment.npy"\n'
        '[simulation]\nfile = "simulation.npy"\n'
    )
    return path


def content(rig):
    files = {Path(file["path"]).name: file for file in rig.json("merge", "last")["files"]}
    return files["skymap.fits"]["content_hash"]


def test_a_scan_on_hosts_without_the_folder(make_rig):
    """With a host lost on the way; each host gets the samples once."""
    rig = make_rig(3, node02={"shared": False}, node03={"shared": False})
    config = own_samples(rig.folder)
    words = ["skyscan", "--config", str(config), "--nside", "16", "-q", "--seed", "7"]
    rig.run(*words, "--cluster", "local")
    reference, whole = content(rig), rig.check(finished=True).content
    rig.up()
    rig.run(*words, "-b", "100", "--first", "12", expect=None)
    used = {line["host"] for line in rig.lines("outcome")}
    assert len(used) > 1
    rig.department["node02"].kill()
    rig.run("rerun", "last", "-q")
    rig.check_while_up(finished=True, reference_hash=whole)
    assert content(rig) == reference
    # The folder of the user is not there, and nothing but logs and the samples was written.
    found = [path.name for path in rig.department["node03"].path("/tmp").rglob("scan.*.npy")]
    assert not found
