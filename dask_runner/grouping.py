"""How many batches to send at once, and how many groups to have on the way for a slot.

Pure arithmetic on what has been measured so far: a group costs about 10 ms to send, so short
batches share it; long ones go alone, and none waits behind another while a slot is free.
"""

from bisect import insort
from collections import deque
from math import ceil

# Seconds of work in a group: fifty times what it costs to send one, short enough to drain.
_TARGET = 0.5
_LARGEST = 2000
_GROWTH = 4
# What the batches of a group may return together, in bytes: all of it is in memory at a time.
_RETURNED = 32_000_000
# Groups on the way for each slot while groups are short; above _PATIENT seconds only one, so that
# a drain does not have to wait for batches that sit ready at a worker.
_AHEAD = 2
_PATIENT = 3.0
# The median of the latest batches; the memory of the smoothed mean in batches.
_SAMPLE = 501
_MEMORY = 200.0
_FEWEST = 10
_SHORTEST_TIMEOUT = 60.0


class Grouping:
    """Learns the duration of batches; `slots` is how many slots there are for them now, `largest`
    the user's limit for a group (0: none).
    """

    def __init__(self, slots: int = 1, *, largest: int = 0) -> None:
        self.slots = slots
        self._largest = largest or _LARGEST
        self._mean = 0.0
        self._returned = 0
        self._limit = 1
        self._recent: deque[float] = deque(maxlen=_SAMPLE)
        self._sorted: list[float] = []

    def learn(self, wall: float) -> None:
        """Take in the seconds that one batch took."""
        weight = 1 / min(_MEMORY, len(self._recent) + 1)
        self._mean += (wall - self._mean) * weight
        if len(self._recent) == _SAMPLE:
            self._sorted.remove(self._recent[0])
        self._recent.append(wall)
        insort(self._sorted, wall)

    def learn_returned(self, size: int) -> None:
        """Take in the bytes that a batch has returned with its outcome."""
        self._returned = max(self._returned, size)

    def group_ended(self, *, well: bool) -> None:
        """Let groups grow while they end well; a bad end makes the next ones small."""
        self._limit = min(self._largest, self._limit * _GROWTH) if well else 1

    def size(self, remaining: int) -> int:
        """Batches for the next group, of `remaining` ones not yet sent."""
        if not self._recent:
            return 1
        fitting = int(_TARGET / max(self._mean, _TARGET / _LARGEST))
        if self._returned:
            fitting = min(fitting, _RETURNED // self._returned)
        # The last groups get smaller, so that all slots end at about the same time.
        share = ceil(remaining / (2 * max(1, self.slots)))
        return max(1, min(fitting, self._limit, share))

    def ahead(self) -> int:
        """Groups to have on the way for each slot."""
        return 1 if not self._recent or self._mean > _PATIENT else _AHEAD

    def timeout(self, factor: float) -> float:
        """`factor` times the median so far in seconds, never less than a minute; 0 (no limit)
        before there is a median to speak of.
        """
        if factor <= 0 or len(self._recent) < _FEWEST:
            return 0.0
        return max(_SHORTEST_TIMEOUT, factor * self._sorted[len(self._sorted) // 2])
