"""The names by which all processes of a run or a cluster are found from outside.

/proc/PID/environ shows the environment that a process was *started* with: what a forked process
puts into os.environ shows only in programs that it starts. So the zygote is started with room for
the run's name, and each batch process writes the name into that place, in its own memory.
"""

import ctypes
import os
from pathlib import Path
from typing import Final

RUN: Final = "DASK_RUNNER_RUN"
BATCH: Final = "DASK_RUNNER_BATCH"
ATTEMPT: Final = "DASK_RUNNER_ATTEMPT"
SCRATCH: Final = "DASK_RUNNER_SCRATCH"
CLUSTER: Final = "DASK_RUNNER_CLUSTER"
HOST: Final = "DASK_RUNNER_HOST"
ROOM: Final = "-" * 64


def find_room() -> int:
    """The address of the room for the run's name in this process, 0 if there is none."""
    wanted = os.fsencode(f"{RUN}={ROOM}")
    content = Path("/proc/self/environ").read_bytes()
    if content.startswith(wanted):
        offset = 0
    else:
        offset = content.find(b"\0" + wanted) + 1
        if not offset:
            return 0
    stat = Path("/proc/self/stat").read_bytes()
    # Field 50 of stat(5) is env_start; the split begins at field 3, behind the program's name.
    start = int(stat[stat.rindex(b")") + 2 :].split()[47])
    return start + offset + len(RUN) + 1 if start else 0


def show(address: int, run: str) -> None:
    """Show `run` in the environment of this process as others see it."""
    if address:
        value = os.fsencode(run)[: len(ROOM)]
        ctypes.memmove(address, value.ljust(len(ROOM), b"\0"), len(ROOM))
