#!/usr/bin/env python3
"""What hosts cost and what losing one costs, on test hosts in network namespaces. Needs root.

    scripts/bench/hosts.py overhead [--batches 50000] [--hosts 3]     over TLS beside the local cluster
    scripts/bench/hosts.py cut [--batches 400] [--lease 30]     one of 4 hosts cut off in the middle

`overhead`: no-ops, as many slots on both sides, microseconds a batch from the first dispatch to the
last record. Target: at most 1.3 times the local cluster's, of the better of two turns on each side.
`cut`: batches of a second; the time lost against the ideal of the slots that are left. Target: at
most the lease and a tenth of the ideal.

The last word of a line with a target is `met` or `MISSED`; the exit code is 1 if it was missed.
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

TURNS = 2
RATIO = 1.3
COMMAND = [sys.executable, "-m", "dask_runner"]


def up(department: Department, folder: Path, slots: int, **values: str) -> dict[str, str]:
    """Start the cluster; the environment of its user."""
    hostfile = department.hostfile(folder / "hostfile.txt", slots=slots)
    environment = {**department.environment, **values}
    number = str(len(department.hosts))
    words = ["up", "--detach", "--hostfile", str(hostfile), "--min-hosts", number]
    subprocess.run([*COMMAND, *words], env=environment, check=True, stdout=subprocess.DEVNULL)
    return environment


def overhead(batches: int, hosts: int) -> bool:
    """Print microseconds a batch on both sides, and the ratio; whether the target is met."""
    best = {"local": float("inf"), "main": float("inf")}
    with tempfile.TemporaryDirectory() as name, Department(hosts, share=[name]) as department:
        folder = Path(name)
        environment = up(department, folder, 1)
        os.environ["XDG_STATE_HOME"] = environment["XDG_STATE_HOME"]
        workload = Nothing(number=batches)
        for turn in range(TURNS):
            seconds = {}
            for cluster in ("local", "main"):
                values = settings(folder / "runs", slots=hosts if cluster == "local" else 0)
                seconds[cluster], summary = our_run(workload, values, cluster)
                if summary.done != batches:
                    raise SystemExit(f"{summary.done} of {batches} batches done")
                best[cluster] = min(best[cluster], seconds[cluster])
            print(f"turn {turn + 1}: {beside(seconds, batches, hosts)}", flush=True)
        subprocess.run([*COMMAND, "down"], env=environment, check=True)
    met = best["main"] <= RATIO * best["local"]
    print(f"best:   {beside(best, batches, hosts)} (at most {RATIO}) {verdict(met=met)}")
    return met


def beside(seconds: dict[str, float], batches: int, hosts: int) -> str:
    """Both sides in words."""
    ours, local = (seconds[cluster] / batches * 1e6 for cluster in ("main", "local"))
    return f"{hosts} hosts {ours:.1f} us a batch, local {local:.1f} us, ratio {ours / local:.2f}"


def verdict(*, met: bool) -> str:
    return "met" if met else "MISSED"


def cut(batches: int, lease: float) -> bool:
    """Print the time that a host costs that is cut off when half of the batches are done; whether
    the target is met.
    """
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
        met = code == 0 and lost <= limit
        print(
            f"exit {code}; {batches} batches of 1 s, 4 hosts x {slots}: cut off after "
            f"{cut_at:.1f} s, wall {wall:.1f} s, ideal {ideal:.1f} s, lost {lost:.1f} s "
            f"(at most {limit:.1f} s) {verdict(met=met)}"
        )
        subprocess.run([*COMMAND, "down"], env=environment, check=True)
    return met


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
    parser.add_argument("--hosts", type=int, default=3, help="of overhead")
    parser.add_argument("--lease", type=float, default=30.0)
    values = parser.parse_args()
    if reason := missing():
        raise SystemExit(reason)
    if values.what == "overhead":
        met = overhead(values.batches or 50_000, values.hosts)
    else:
        met = cut(values.batches or 400, values.lease)
    raise SystemExit(0 if met else 1)


if __name__ == "__main__":
    main()
