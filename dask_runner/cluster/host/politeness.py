"""When the batches of a host stand still for those whose host it is.

Owns the reasons: hours of the day, somebody at a terminal, the load of other processes. Refuses to
stop anything itself.

A user is seen by the terminals: those of the people that the system has in its list of logins, and
every pseudo-terminal of another user than ours (the windows of a desktop often are in no list). The
time since the last key is that of the last reading from the terminal. Not seen: who only uses the
mouse or types into windows that are no terminals.
"""

import math
import os
import pwd
import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from msgspec import Struct

from dask_runner.cluster.channel import Politeness
from dask_runner.execution import process_tree

# The kernel's load average of one minute fades with this time, in s.
_LOAD_TIME: Final = 60.0
# Batches go on when the load of the others is below this share of the limit: not at the limit
# itself, around which it may swing.
_CALM: Final = 0.8
_MINUTE: Final = 60
_HOURS: Final = re.compile(r"(\d\d):(\d\d)-(\d\d):(\d\d)")


class Terminal(Struct, frozen=True, kw_only=True):
    """A terminal of a user, with the seconds since its last key."""

    user: str
    idle: float


class Scene(Struct, frozen=True, kw_only=True):
    """A host at one moment: minute of the day, who is there, the load of all but us."""

    minute: int = 0
    terminals: tuple[Terminal, ...] = ()
    load: float = 0.0


class Manners:
    """Decides, scene after scene, whether batches may run."""

    def __init__(self, wishes: Politeness) -> None:
        self._wishes = wishes
        self._crowded = False

    @property
    def any(self) -> bool:
        """False if nothing ever pauses batches."""
        wishes = self._wishes
        return bool(wishes.quiet_hours or wishes.user_idle or wishes.load)

    def reason(self, scene: Scene) -> str:
        """Why batches stand still now; "" if they do not."""
        return self._hours(scene) or self._user(scene) or self._load(scene)

    def _hours(self, scene: Scene) -> str:
        hours = self._wishes.quiet_hours
        return f"quiet hours {hours}" if hours and in_hours(hours, scene.minute) else ""

    def _user(self, scene: Scene) -> str:
        patience = self._wishes.user_idle * _MINUTE
        active = sorted({one.user for one in scene.terminals if one.idle < patience})
        return f"in use by {', '.join(active)}" if active else ""

    def _load(self, scene: Scene) -> str:
        limit = self._wishes.load
        if not limit:
            return ""
        self._crowded = scene.load > limit * (_CALM if self._crowded else 1.0)
        return f"load of other processes {scene.load:.1f}" if self._crowded else ""


def in_hours(hours: str, minute: int) -> bool:
    """Whether the minute of the day is in HH:MM-HH:MM, which may pass midnight; with the same time
    twice, it always is.
    """
    found = _HOURS.fullmatch(hours)
    if found is None:
        return False
    first_hour, first_minute, last_hour, last_minute = map(int, found.groups())
    first, last = first_hour * 60 + first_minute, last_hour * 60 + last_minute
    if first < last:
        return first <= minute < last
    return minute >= first or minute < last


class LoadOfOthers:
    """The load average less our own part of it, which is averaged as the kernel does."""

    def __init__(self) -> None:
        self._ours = 0.0
        self._last: float | None = None

    def update(self, load: float, *, running: int, now: float) -> float:
        """`running` is how many of our threads run or wait for a disk, `now` a clock in s."""
        if self._last is not None:
            fade = math.exp(-(now - self._last) / _LOAD_TIME)
            self._ours = self._ours * fade + running * (1 - fade)
        self._last = now
        return max(0.0, load - self._ours)


class Observer:
    """Looks around on this host; `tree` is the process whose descendants are ours."""

    def __init__(self, tree: int) -> None:
        self._tree = tree
        self._load = LoadOfOthers()

    def scene(self) -> Scene:
        here = time.localtime()
        running = process_tree.running_threads(process_tree.descendants(self._tree))
        load = self._load.update(os.getloadavg()[0], running=running, now=time.monotonic())
        return Scene(
            minute=here.tm_hour * 60 + here.tm_min,
            terminals=tuple(terminals(logins())),
            load=load,
        )


def logins() -> list[tuple[str, str]]:
    """User and terminal of everybody in the system's list of logins."""
    import psutil  # noqa: PLC0415  (not before the agent has started)

    try:
        return [(login.name, login.terminal or "") for login in psutil.users()]
    except (OSError, ValueError):
        return []  # no such list here, or a damaged one


def terminals(known: Iterable[tuple[str, str]], folder: Path = Path("/dev")) -> list[Terminal]:
    """The terminals of the logins, and the pseudo-terminals of other users than ours."""
    owners = {folder / name: user for user, name in known if name and ":" not in name}
    found = []
    for path in {*owners, *(folder / "pts").glob("[0-9]*")}:
        try:
            state = path.stat()
        except OSError:
            continue  # the login has ended
        if path in owners or state.st_uid != os.geteuid():
            user = owners.get(path) or _user_name(state.st_uid)
            found.append(Terminal(user=user, idle=max(0.0, time.time() - state.st_atime)))
    return found


def _user_name(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)
