"""All descendants of this process: who they are, what memory they use, how to end them all.

Owns everything that is special to Linux here: /proc, child subreaper, parent death signal. Works
without process groups, because a descendant may have left its group and session. A subreaper's
orphaned descendants come back to it as children, so killing until no child is left misses nobody.
"""

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Final

from msgspec import Struct

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_libc: Final = ctypes.CDLL(None, use_errno=True)


class Usage(Struct, kw_only=True):
    """What reaped processes used: CPU in s, the largest resident set in bytes, bytes written."""

    cpu: float = 0.0
    max_rss: int = 0
    bytes_written: int = 0

    def add(self, usage: "Usage") -> None:
        self.cpu += usage.cpu
        self.max_rss = max(self.max_rss, usage.max_rss)
        self.bytes_written += usage.bytes_written


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")


def become_subreaper() -> None:
    """Orphaned descendants become children of this process, instead of init's."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(parent: int) -> None:
    """Get SIGKILL when `parent` ends; a second line of defence behind the subreapers."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the call above
        os.kill(os.getpid(), signal.SIGKILL)


def flush_c_streams() -> None:
    """Write out what C code has printed and not flushed."""
    _libc.fflush(None)


def children(pid: int) -> list[int]:
    """The direct children, zombies included; of a process that is gone: none."""
    found: list[int] = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208  # names, fast
            with open(f"/proc/{pid}/task/{task}/children", "rb") as file:  # noqa: PTH123  # fast
                found.extend(map(int, file.read().split()))
    except FileNotFoundError:
        if not _HAS_CHILDREN_FILE:
            return _children_by_scan(pid)
    except ProcessLookupError:
        pass  # ended while being read
    return found


def _children_by_scan(parent: int) -> list[int]:
    """As `children`, for kernels built without CONFIG_PROC_CHILDREN."""
    found = []
    for name in os.listdir("/proc"):  # noqa: PTH208  # names, fast
        if name.isdigit():
            try:
                stat = Path(f"/proc/{name}/stat").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
            # The name of the program is in parentheses and may hold anything, also parentheses.
            if int(stat[stat.rindex(b")") + 2 :].split()[1]) == parent:
                found.append(int(name))
    return found


_HAS_CHILDREN_FILE: Final = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").exists()


def descendants(pid: int) -> list[int]:
    """All processes below `pid`, parents before their children."""
    found = children(pid)
    for child in found:  # grows while it is walked
        found.extend(children(child))
    return found


def moving(pid: int) -> list[int]:
    """The descendants of `pid` that are neither stopped nor dead."""
    return [below for below in descendants(pid) if state(below) not in "TtZX"]


def state(pid: int) -> str:
    """The letter that proc(5) gives for the state of a process; X if it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123  # fast
            stat = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return "X"
    # The name of the program is in parentheses and may hold anything, also parentheses.
    return chr(stat[stat.rindex(b")") + 2])


def running_threads(pids: Iterable[int]) -> int:
    """How many threads of these processes run, or wait for a disk: their part of the load."""
    count = 0
    for pid in pids:
        for stat in Path(f"/proc/{pid}/task").glob("*/stat"):
            try:
                text = stat.read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
            count += text[text.rindex(b")") + 2 :][:1] in {b"R", b"D"}
    return count


def parent(pid: int) -> int:
    """The parent of a process; 0 if it has none here, or is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(stat[stat.rindex(b")") + 2 :].split()[1])


def resident(pids: Iterable[int]) -> int:
    """The sum of the resident sets in bytes: pages shared by several are counted for each."""
    total = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/statm", "rb") as file:  # noqa: PTH123  # fast
                total += int(file.read().split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
    return total * _PAGE


def proportional(pids: Iterable[int]) -> int:
    """As `resident`, each shared page counted once in all (PSS): exact, but 50 times slower."""
    total = 0
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_bytes()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        for line in text.splitlines():
            if line.startswith(b"Pss:"):
                total += int(line.split()[1]) * 1024
    return total


def send(pids: Iterable[int], number: signal.Signals) -> None:
    """Signal each; those that are gone are no error."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            continue  # gone, or it has become another user's (setuid): see `kill_until_empty`


def reap(pid: int) -> tuple[int, Usage] | None:
    """The wait status and usage of a child that has ended, or None while it runs."""
    done, status, rusage = os.wait4(pid, os.WNOHANG)
    if not done:
        return None
    return status, Usage(
        cpu=rusage.ru_utime + rusage.ru_stime,
        max_rss=rusage.ru_maxrss * 1024,
        bytes_written=rusage.ru_oublock * 512,
    )


def wait_for(pids: Iterable[int], *, patience: float) -> None:
    """Wait until these children have ended, at most `patience` seconds."""
    left = set(pids)
    deadline = time.monotonic() + patience
    while left and time.monotonic() < deadline:
        left = {pid for pid in left if reap(pid) is None}
        time.sleep(0.005)


def kill_until_empty(
    *,
    keep: Collection[int] = (),
    patience: float = 10.0,
) -> tuple[Usage, list[int]]:
    """SIGKILL all descendants of this subreaper, except the children in `keep` and what is below
    those, again and again until none is left. Returns what they used, and who is still alive
    after `patience` seconds (a process in an uninterruptible wait on a dead file server).
    """
    usage = Usage()
    deadline = time.monotonic() + patience
    pause = 0.0002
    empty = 0
    while True:
        mine = [pid for pid in children(os.getpid()) if pid not in keep]
        if not mine:
            # The list may miss somebody if another child ends while it is read: ask twice.
            empty += 1
            if empty > 1 or _no_children_at_all():
                return usage, []
            continue
        empty = 0
        everyone = [*mine, *(below for pid in mine for below in descendants(pid))]
        send(everyone, signal.SIGKILL)
        for pid in mine:
            with contextlib.suppress(ChildProcessError):  # another thread has reaped it
                ended = reap(pid)
                if ended is not None:
                    usage.add(ended[1])
        if time.monotonic() > deadline:
            return usage, everyone
        time.sleep(pause)
        pause = min(pause * 2, 0.01)


def _no_children_at_all() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return True
    return False


def processes_with(name: str, value: str) -> list[int]:
    """All processes of this host that were started with `name=value` in their environment."""
    wanted = os.fsencode(f"{name}={value}")
    found = []
    for entry in os.listdir("/proc"):  # noqa: PTH208  # names, fast
        if entry.isdigit():
            try:
                environment = Path(f"/proc/{entry}/environ").read_bytes()
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
            if wanted in environment.split(b"\0"):
                found.append(int(entry))
    return found
