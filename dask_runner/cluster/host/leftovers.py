"""What an earlier agent of the same cluster and host has left on this machine, ended and removed.

An agent that was cut off or killed may still be alive, or its processes; no batch may start here
before they are dead. Only what carries both markers, or was started by that, is touched.
"""

import os
import re
import signal
import stat
import threading
import time
from pathlib import Path
from typing import Final

from dask_runner.execution import marker, process_tree
from dask_runner.execution.slot import remove_tree

_PAUSE: Final = 0.01


def kill_leftovers(cluster: str, host: str, *, patience: float = 10.0) -> list[int]:
    """Kill every process with the markers of this cluster and host, with all below them, except
    this process and those that it was started from. Returns who is still alive after `patience`
    seconds.
    """
    deadline = time.monotonic() + patience
    while found := _tree(cluster, host):
        # Stopped first, the old agent too, so that it starts nothing while its tree is killed.
        process_tree.send(found, signal.SIGSTOP)
        process_tree.send([*reversed(_tree(cluster, host))], signal.SIGKILL)
        if time.monotonic() > deadline:
            return found
        time.sleep(_PAUSE)
    return []


def _tree(cluster: str, host: str) -> list[int]:
    """Those that are alive, parents before their children."""
    marked = set(process_tree.processes_with(marker.CLUSTER, cluster))
    marked &= set(process_tree.processes_with(marker.HOST, host))
    mine = _with_ancestors(os.getpid())
    marked -= mine
    tree: dict[int, None] = {}
    for pid in sorted(marked):
        tree.update(dict.fromkeys([pid, *process_tree.descendants(pid)]))
    return [pid for pid in tree if pid not in mine and process_tree.state(pid) not in "ZX"]


def _with_ancestors(pid: int) -> set[int]:
    found = set()
    while pid > 0:
        found.add(pid)
        pid = process_tree.parent(pid)
    return found


def folder_prefix(cluster: str, host: str) -> str:
    """How the names of an agent's private folders begin; names of clusters and hosts hold no @."""
    return f"dask-runner-{cluster}@{host}-"


def remove_folders(base: Path, cluster: str, host: str, *, keep: Path) -> None:
    """Remove the private folders of earlier agents of this cluster and host in `base`, in a thread:
    there may be much in them. Only folders that are really ours.
    """
    name = re.compile(re.escape(folder_prefix(cluster, host)) + "[a-z0-9_]{8}")
    found = [entry for entry in base.iterdir() if name.fullmatch(entry.name) and entry != keep]
    for entry in filter(_is_private, found):
        threading.Thread(target=remove_tree, args=(entry,), name="folder", daemon=True).start()


def _is_private(folder: Path) -> bool:
    try:
        state = folder.lstat()
    except FileNotFoundError:
        return False
    private = stat.S_IMODE(state.st_mode) == stat.S_IRWXU
    return stat.S_ISDIR(state.st_mode) and state.st_uid == os.geteuid() and private
