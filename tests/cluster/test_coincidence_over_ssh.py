"""Coincidences on hosts that see nothing of the user's: maps and lists go there once each."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from dask_runner.conclusions.coincidences import full_table, load

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "coincidence"
CACHE = str(Path("~root/.cache/dask-runner").expanduser())


def table(run):
    """All trials in a fixed order, without the names of runs and batches."""
    rows = full_table(load([run]))
    names = [name for name in rows.dtype.names if name not in {"run", "batch"}]
    rows = rows[names]
    return rows[rows["trial"].argsort(kind="stable")].tobytes()


def cached(host):
    """Name -> inode and time of change of each file in a host's cache."""
    found = {}
    for path in host.path(CACHE).glob("??/*/*"):
        assert path.name not in found
        state = os.stat(path)
        found[path.name] = state.st_ino, state.st_mtime_ns
    return found


def test_maps_are_pushed_once_to_each_host_without_the_folder(make_rig):
    rig = make_rig(3, node02={"shared": False}, node03={"shared": False})
    script, small = EXAMPLE / "make_inputs.py", ["--maps", "3", "--nside", "16", "--events", "200"]
    subprocess.run([sys.executable, script, rig.folder, *small], check=True, capture_output=True)
    shutil.copy(EXAMPLE / "coincidence.toml", rig.folder)
    files = ["--config", "coincidence.toml", "--items", "maps.txt"]
    words = ["trials", "--model", "coincidence", *files, "--set", "detector=HLV", "-q"]
    rig.run(*words, "-n", "300", "--cluster", "local")
    reference, content = table(rig.last), rig.check(finished=True).content
    rig.up()
    rig.run(*words, "-n", "150", "-b", "8")
    names = {host.address: host.name for host in rig.department.hosts}
    decisions = {
        names[note["data"]["host"]]: note["data"]["inputs"]
        for note in rig.notes("staging")
        if "inputs" in note["data"]
    }
    assert decisions == {"node01": "shared", "node02": "copied", "node03": "copied"}
    hosts = [rig.department[name] for name in ("node02", "node03")]
    first = [cached(host) for host in hosts]
    assert all(
        set(one) == {"G100000.fits", "G100001.fits", "G100002.fits", "neutrinos.csv"}
        for one in first
    )
    # More batches of the run, with a host lost on the way, push nothing again.
    rig.department["node01"].kill()
    rig.run("trials", "--extend", "last", "-n", "300", "-b", "11", "-q")
    assert [cached(host) for host in hosts] == first
    assert table(rig.last) == reference
    rig.check_while_up(finished=True, reference_hash=content)
    assert {line["host"] for line in rig.lines("outcome")} == set(names)
