"""Hosts that did not answer, and get nothing for a while: a little longer each time.

Pure: it is told what happens, and asked. Refuses to blame anybody.
"""

import time
from collections.abc import Callable, Mapping

from msgspec import Struct

# In s, doubled each time.
_SHORTEST, _LONGEST = 1.0, 30.0


class _Pause(Struct, kw_only=True):
    """Until when, how long it is, and why."""

    until: float = 0.0
    seconds: float = 0.0
    reason: str = ""


class Pauses:
    """The pauses of all hosts by name."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._pauses: dict[str, _Pause] = {}

    def begin(self, host: str, reason: str) -> None:
        """It did not answer. What was asked at the same time says so too, and changes nothing."""
        pause = self._pauses.setdefault(host, _Pause())
        now = self._clock()
        if now < pause.until:
            return
        pause.seconds = min(2 * pause.seconds, _LONGEST) or _SHORTEST
        pause.until, pause.reason = now + pause.seconds, reason

    def end(self, host: str) -> None:
        """It has answered, or is another one now."""
        self._pauses.pop(host, None)

    def now(self) -> Mapping[str, str]:
        """The hosts that get nothing now, and why."""
        now = self._clock()
        return {host: pause.reason for host, pause in self._pauses.items() if now < pause.until}
