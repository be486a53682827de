"""Is it the batch or the host? Failures of each side, and what follows from them.

Owns the decision to try a batch again, and the quarantine of hosts that fail what passes elsewhere.
Pure: it is told what happens, and asked. Refuses to act on anything.
"""

import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from enum import StrEnum

from msgspec import Struct, field

from dask_runner.batch import Failure, FailureKind

# So many different batches in a row must fail on a host before it is looked at.
_SERIES = 3
# ... and that must be unlikely by chance, if batches failed there as often as on other hosts. It
# takes less to believe it when some of these batches have passed elsewhere.
_CHANCE, _CHANCE_IF_PASSED = 0.02, 0.05
# If more than this share of the other hosts' batches fails, failing says nothing about a host.
_OTHERS, _OTHERS_IF_PASSED = 0.25, 0.34
# Seconds until one batch is tried there again; twice as long after each time.
_QUARANTINE = 600.0
# Evidence names so many batches.
_SHOWN = 10
# Of so many failed batches it is known where they failed, should the host turn out to be at fault.
_REMEMBERED = 100_000


# So many hosts may be lost under a batch before it runs alone, and then before it is at fault.
_LOSSES = 3


class Decision(StrEnum):
    """What becomes of a batch that failed or was lost. ALONE: it may be what kills its hosts, and
    shares no group; POISON: it fails the same way wherever it runs.
    """

    AGAIN = "again"
    ALONE = "alone"
    FAILED = "failed"
    POISON = "poison"


class Verdict(Struct, frozen=True, kw_only=True):
    """A host is put under quarantine: `text` says why, `batches` and `fingerprints` are the
    evidence. `acquitted` are the batches that had failed for good, and would not have without it.
    """

    host: str
    text: str
    seconds: float
    batches: tuple[int, ...]
    fingerprints: tuple[str, ...]
    acquitted: tuple[int, ...]


class _Host(Struct, kw_only=True):
    """`series` are the failures since the last good batch, by batch or by what killed several at
    once; `elsewhere` how many of them passed on another host; `mark` the counts of the other hosts
    when it began; `grave` a failure that is the host's own, `certain` that it needs no comparison.
    `until` is the end of a quarantine, None without one; `times` counts them; `trying`: it is over
    if the next batch is good.
    """

    good: int = 0
    bad: int = 0
    series: dict[int | str, str] = field(default_factory=dict)
    elsewhere: int = 0
    mark: tuple[int, int] = (0, 0)
    grave: str = ""
    certain: bool = False
    until: float | None = None
    times: int = 0
    trying: bool = False


class Blame:
    """Keeps what is needed of this session's outcomes; a batch that passes costs O(1)."""

    def __init__(self, attempts: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._attempts = attempts
        self._clock = clock
        self._hosts: dict[str, _Host] = {}
        self._good = 0
        self._bad = 0
        # Where each batch failed, and how.
        self._strikes: dict[int, tuple[tuple[str, str], ...]] = {}
        self._closed: dict[int, None] = {}
        self._losses: Counter[int] = Counter()
        self._suspects: set[str] = set()
        # Grows with each change of what the hosts may get.
        self.revision = 0

    @property
    def suspects(self) -> Collection[str]:
        """Hosts that have failed several batches in a row; they may be good yet."""
        return self._suspects

    def avoided(self, batch: int) -> frozenset[str]:
        """The hosts where a batch has failed."""
        return frozenset(host for host, _ in self._strikes.get(batch, ()))

    def passed(self, host: str, batch: int) -> bool:
        """A batch is good. True if that ends the host's quarantine."""
        known = self._host(host)
        known.good += 1
        self._good += 1
        for other, _ in self._strikes.pop(batch, ()):
            if other != host and batch in self._hosts[other].series:
                self._hosts[other].elsewhere += 1
        if known.series or known.grave:
            self._forgive(host, known)
        if known.trying:
            known.until, known.trying = None, False
            self.revision += 1
            return True
        return False

    def failed(
        self, host: str, batch: int, failure: Failure, *, others: bool, incident: str = ""
    ) -> Decision:
        """A batch failed on a host; `others`: there are other hosts that take batches. What failed
        for the same `incident` (the end of a worker) is one failure of the host, not several.
        """
        if not failure.may_pass_elsewhere:
            return self._close(batch, Decision.FAILED)
        known = self._host(host)
        if known.until is not None:
            # Its word counts for nothing until it has shown that it can do better.
            self._punish(known)
            return Decision.AGAIN
        # A lost batch has told nothing that could be compared.
        lost = failure.kind is FailureKind.LOST
        strike = (host, "" if lost else sys.intern(failure.fingerprint))
        before = self._strikes.get(batch, ())
        self._strikes[batch] = (*before, strike)
        if _poison(before, strike, others=others):
            self._pardon_hosts(batch)
            return self._close(batch, Decision.POISON)
        self._count(host, known, incident or batch, failure)
        if len(self._strikes[batch]) >= self._attempts:
            return self._close(batch, Decision.FAILED)
        return Decision.AGAIN

    def accuse(self, host: str, text: str) -> None:
        """The host could not even take a batch: no disk space, no folder, not to be reached."""
        known = self._host(host)
        if known.until is not None:
            self._punish(known)
        else:
            known.grave, known.certain = text, True
            self._suspect(host)

    def lost(self, batch: int, *, alone: bool) -> Decision:
        """The host of a batch was lost while it ran there; `alone`: with no other in its group."""
        self._losses[batch] += 1
        if alone and self._losses[batch] >= 2 * _LOSSES:
            return self._close(batch, Decision.FAILED)
        return Decision.ALONE if self._losses[batch] >= _LOSSES else Decision.AGAIN

    def judge(self, takers: Collection[str]) -> list[Verdict]:
        """The hosts to be put under quarantine now; `takers` are those that take batches. One that
        stands alone is not: then it is the batches, or nothing can be said.
        """
        verdicts = []
        for host in sorted(self._suspects):
            known = self._hosts[host]
            good = [name for name in takers if name != host and name not in self._suspects]
            if good and (text := self._evidence(known)):
                verdicts.append(self._quarantine(host, known, text))
        return verdicts

    def quarantined(self) -> dict[str, float]:
        """The hosts that get nothing now, and for how many seconds more."""
        now = self._clock()
        return {
            host: known.until - now
            for host, known in self._hosts.items()
            if known.until is not None and not known.trying
        }

    def probation(self) -> list[str]:
        """The hosts whose quarantine is over, from now on: they get one batch at a time."""
        over = [host for host, left in self.quarantined().items() if left <= 0]
        for host in over:
            self._hosts[host].trying = True
            self.revision += 1
        return over

    def on_probation(self) -> list[str]:
        """The hosts that get one batch to show that they are good again."""
        return [host for host, known in self._hosts.items() if known.trying]

    def amnesty(self) -> list[str]:
        """End all quarantines: there are no other hosts. Returns those that had one."""
        freed = [host for host, known in self._hosts.items() if known.until is not None]
        for host in freed:
            known = self._hosts[host]
            known.until, known.trying = None, False
            self._forgive(host, known)
        return freed

    def _host(self, host: str) -> _Host:
        known = self._hosts.get(host)
        if known is None:
            known = self._hosts[host] = _Host()
        return known

    def _close(self, batch: int, decision: Decision) -> Decision:
        """A batch has failed for good; if a host is found guilty, it may be opened again."""
        if batch in self._strikes and len(self._hosts) > 1:
            self._closed[batch] = None
            if len(self._closed) > _REMEMBERED:
                oldest = next(iter(self._closed))
                del self._closed[oldest]
                self._strikes.pop(oldest, None)
        else:
            self._strikes.pop(batch, None)
        return decision

    def _count(self, host: str, known: _Host, key: int | str, failure: Failure) -> None:
        if key in known.series:
            return
        if not known.series:
            known.mark = (self._good - known.good, self._bad - known.bad)
            known.elsewhere = 0
        known.bad += 1
        self._bad += 1
        known.series[key] = failure.fingerprint
        if failure.kind is FailureKind.DISK_FULL:
            known.grave = f"its disk is full: {failure.message}"
        if known.grave or len(known.series) >= _SERIES:
            self._suspect(host)

    def _pardon_hosts(self, batch: int) -> None:
        """It was the batch: it says nothing about the hosts where it failed."""
        for host in self.avoided(batch):
            known = self._hosts[host]
            if known.series.pop(batch, None) is not None:
                known.bad -= 1
                self._bad -= 1
            if len(known.series) < _SERIES and not known.grave:
                self._suspects.discard(host)

    def _suspect(self, host: str) -> None:
        self._suspects.add(host)
        self.revision += 1

    def _forgive(self, host: str, known: _Host) -> None:
        known.series = {}
        known.grave, known.certain = "", False
        known.elsewhere = 0
        self._suspects.discard(host)
        self.revision += 1

    def _evidence(self, known: _Host) -> str:
        """Why the host is at fault, and not its batches; "" if that cannot be said."""
        if known.certain:
            return known.grave
        good = self._good - known.good - known.mark[0]
        bad = self._bad - known.bad - known.mark[1]
        now = _failing(good, bad)
        ever = _failing(self._good - known.good, self._bad - known.bad)
        if known.grave:
            return known.grave if good > bad else ""
        passed = known.elsewhere > 0
        chance = _CHANCE_IF_PASSED if passed else _CHANCE
        if now ** len(known.series) >= chance:
            return ""
        if ever >= (_OTHERS_IF_PASSED if passed else _OTHERS):
            return ""
        also = f", among them {known.elsewhere} of those" if known.elsewhere else ""
        return (
            f"{len(known.series)} failures in a row there; in the same time {good} of "
            f"{good + bad} batches passed on other hosts{also}"
        )

    def _quarantine(self, host: str, known: _Host, text: str) -> Verdict:
        batches = tuple(key for key in known.series if isinstance(key, int))[:_SHOWN]
        fingerprints = tuple(dict.fromkeys(known.series.values()))[:_SHOWN]
        self._bad -= known.bad
        known.bad = 0
        self._forgive(host, known)
        self._punish(known)
        return Verdict(
            host=host,
            text=text,
            seconds=(known.until or 0) - self._clock(),
            batches=batches,
            fingerprints=fingerprints,
            acquitted=tuple(self._acquit(host)),
        )

    def _punish(self, known: _Host) -> None:
        """Begin a quarantine, or after a failed trial the next one."""
        if known.until is None or known.trying:
            known.until = self._clock() + _QUARANTINE * 2**known.times
            known.times += 1
            known.trying = False
            self.revision += 1

    def _acquit(self, host: str) -> Iterable[int]:
        """Take back what a host said of batches; those that had failed for good because of it."""
        for batch, strikes in list(self._strikes.items()):
            left = tuple(strike for strike in strikes if strike[0] != host)
            if len(left) == len(strikes):
                continue
            if left:
                self._strikes[batch] = left
            else:
                del self._strikes[batch]
            if batch in self._closed and not self._stands(left):
                del self._closed[batch]
                yield batch

    def _stands(self, strikes: tuple[tuple[str, str], ...]) -> bool:
        """True if these failures alone would have ended the batch."""
        return len(strikes) >= self._attempts or any(
            _poison(strikes[:place], strike, others=True) for place, strike in enumerate(strikes)
        )


def _poison(before: Iterable[tuple[str, str]], strike: tuple[str, str], *, others: bool) -> bool:
    """True if the batch fails the same way on two hosts, or twice on the only one there is."""
    host, fingerprint = strike
    return bool(fingerprint) and any(
        seen == fingerprint and (where != host or not others) for where, seen in before
    )


def _failing(good: int, bad: int) -> float:
    """The share of batches that fail, of which few may be known: a half if there are none."""
    return (bad + 1) / (good + bad + 2)
