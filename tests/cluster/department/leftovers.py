"""Departments whose builder is gone: found by their folders, removed."""

import contextlib
import os
import shutil
import signal
import tempfile
import time
from pathlib import Path

PREFIX = "dask-runner-department-"
YOUNG = 60.0


def _started(pid: int) -> str:
    """When a process started, to tell it from a later one with the same pid; empty: not there."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def new_folder() -> Path:
    """A folder for a department of this process."""
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    (folder / "owner").write_text(f"{os.getpid()} {_started(os.getpid())}")
    # Users of the hosts look into it.
    folder.chmod(0o755)
    return folder


def _abandoned(folder: Path) -> bool:
    try:
        pid, started = (folder / "owner").read_text().split()
    except (FileNotFoundError, ValueError):
        # Just being made, perhaps.
        return time.time() - folder.stat().st_mtime > YOUNG
    return _started(int(pid)) != started


def _keepers(folder: Path) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if os.fsencode(folder) in (entry / "cmdline").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return found


def clean() -> list[Path]:
    """Remove the abandoned departments; their folders."""
    removed = []
    for folder in Path(tempfile.gettempdir()).glob(PREFIX + "*"):
        if folder.is_dir() and folder.stat().st_uid == os.geteuid() and _abandoned(folder):
            # With process 1 of its namespaces, a host and its wires are gone.
            for pid in _keepers(folder):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            shutil.rmtree(folder, ignore_errors=True)
            removed.append(folder)
    return removed
