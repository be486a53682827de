#!/usr/bin/env python3
"""What hosts cost and what losing one costs, on test hosts in network namespaces. Needs root.

    scripts/bench/hosts.py overhead [--batches 50000]     3 hosts over TLS beside the local cluster
    scripts/bench/hosts.py cut [--batches 400] [--lease 30]     one of 4 hosts cut off in the middle

`overhead`: no-ops, as many slots on both sides, seconds from the first dispatch to the last record.
`cut`: batches of a second; the time lost against the ideal of the slots that are left.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).absolute().parent
sys.path.insert(0, str(HERE.parent.parent / "tests" / "cluster"))

from department import Department, missing  # noqa: E402  (found through the path above)
from dispatch import our_run, settings  # noqa: E402
from workloads import Nothing  # noqa: E402

COMMAND = [sys.executable, "-m", "dask_runner"]


def up(department: Department, folder: Path, slots: int, **values: str) -> dict[str, str]:
    """Start the cluster; the environment of its user."""
    hostfile = department.hostfile(folder / "hostfile.txt", slots=slots)
    environment = {**department.environment, **values}
    number = str(len(department.hosts))
    words = ["up", "--detach", "--hostfile", str(hostfile), "--min-hosts", number]
    subprocess.run([*COMMAND, *words], env=environment, check=True, stdout=subprocess.DEVNULL)
    return environment


def overhead(batches: int) -> None:
    """Print microseconds a batch on both sides, and the ratio."""
    with tempfile.TemporaryDirectory() as name, Department(3, share=[name]) as department:
        folder = Path(name)
        environment = up(department, folder, 1)
        os.environ["XDG_STATE_HOME"] = environment["XDG_STATE_HOME"]
        workload = Nothing(number=batches)
        for turn in range(2):
            seconds = {}
            for cluster in ("local", "main"):
                values = settings(folder / "runs", slots=3 if cluster == "local" else 0)
                seconds[cluster], summary = our_run(workload, values, cluster)
                if summary.done != batches:
                    raise SystemExit(f"{summary.done} of {batches} batches done")
            print(
                f"turn {turn + 1}: 3 hosts {seconds['main'] / batches * 1e6:.1f} us a batch, "
                f"local {seconds['local'] / batches * 1e6:.1f} us, "
                f"ratio {seconds['main'] / seconds['local']:.2f}"
            )
        subprocess.run([*COMMAND, "down"], env=environment, check=True)


def cut(batches: int, lease: float) -> None:
    """Print the time that a host costs that is cut off when half of the batches are done."""
    slots = 2
    with tempfile.TemporaryDirectory() as name, Department(4, share=[name]) as department:
        folder = Path(name)
        lease_setting = {"DASK_RUNNER_CLUSTER_LEASE": str(lease)}
        environment = up(department, folder, slots, **lease_setting)
        words = ["command", "-n", str(batches), "-q", "--", "sleep", "1"]
        began = time.perf_counter()
        run = subprocess.Popen([*COMMAND, *words], env=environment, cwd=folder)
        while done_batches(folder) < batches // 2:
            time.sleep(0.05)
        cut_at, left = time.perf_counter() - began, batches - done_batches(folder)
        department["node02"].cut()
        code = run.wait()
        wall = time.perf_counter() - began
        department["node02"].heal()
        ideal = cut_at + left / (3 * slots)
        lost = wall - ideal
        limit = lease + 0.1 * ideal
        print(
            f"exit {code}; {batches} batches of 1 s, 4 hosts x {slots}: cut off after "
            f"{cut_at:.1f} s, wall {wall:.1f} s, ideal {ideal:.1f} s, lost {lost:.1f} s "
            f"(limit {limit:.1f} s)"
        )
        subprocess.run([*COMMAND, "down"], env=environment, check=True)


def done_batches(folder: Path) -> int:
    """Batches that the manifest calls done."""
    total = 0
    for manifest in folder.glob("runs/*/manifest.jsonl"):
        for line in manifest.read_bytes().splitlines():
            if line.startswith(b'{"type":"done"'):
                total += line.count(b"],[") + 1
    return total


def main() -> None:
    """One of the two measurements."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("what", choices=("overhead", "cut"))
    parser.add_argument("--batches", type=int)
    parser.add_argument("--lease", type=float, default=30.0)
    values = parser.parse_args()
    if reason := missing():
        raise SystemExit(reason)
    if values.what == "overhead":
        overhead(values.batches or 50_000)
    else:
        cut(values.batches or 400, values.lease)


if __name__ == "__main__":
    main()
