"""The slots of a host, as the worker sees them: zygotes, sockets to slot processes, who is free.

Owns recovery: a dead slot's batches get an outcome after what it left behind is dead, a dead zygote
is replaced, and a zygote that lacks modules retires when its slots are done. Knows no Dask.
"""

import logging
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from dask_runner.batch import FailureKind, Outcome, OutcomeStatus
from dask_runner.errors import ClusterError
from dask_runner.execution import process_tree, slot
from dask_runner.execution.failures import Cause
from dask_runner.execution.lease import LeaseReader
from dask_runner.execution.nursery import Nursery, SlotLink
from dask_runner.execution.task import (
    GroupHead,
    decode_group,
    encode_group,
    encode_outcomes,
    join_outcomes,
)
from dask_runner.files import text_to_path

logger = logging.getLogger(__name__)

# How often outcomes of batches with processes of their own are passed on, in s.
_STREAM_EVERY = 0.2
# So many slots may end before they take a batch; then the host is at fault.
_DEATHS = 10
# How often a group that waits for the end of a pause looks whether it is cancelled, in s.
_PAUSE_LOOK = 0.2


class PoolConfig(Struct, frozen=True, kw_only=True):
    """`scratch` is the folder for private temporary files ("" for the host's own), `host` the name
    in outcomes, `cluster` the marker of all processes, `umask` the one of the batches, `nice` the
    least niceness of theirs on this host, `lease` the path of the lease that ends them ("": none).
    Paths are path text.
    """

    slots: int
    host: str
    scratch: str = ""
    import_path: tuple[str, ...] = ()
    preload: tuple[str, ...] = ()
    cluster: str = ""
    umask: int = 0o022
    nice: int = 0
    lease: str = ""


class SlotState(Struct, frozen=True, kw_only=True):
    """A busy slot: `batch` is the index of the running batch, `seconds` since its group began,
    `rss` the resident memory of the slot's processes in bytes.
    """

    slot: int
    pid: int
    run: str
    batch: int
    seconds: float
    rss: int


class _Running(Struct):
    """A group that has a slot or waits for one."""

    run: str
    driver: str
    data: bytes
    since: float
    cancelled: threading.Event
    link: SlotLink | None = None
    settled: int = 0
    current: int = 0


class Pool:
    """Thread safe: each Dask thread gives one group at a time."""

    def __init__(self, config: PoolConfig) -> None:
        self._config = config
        base = text_to_path(config.scratch) if config.scratch else None
        self._scratch = Path(tempfile.mkdtemp(prefix="dask-runner-", dir=base))
        self._free = threading.BoundedSemaphore(config.slots)
        self._lock = threading.Lock()
        self._nursery_lock = threading.Lock()
        self._running: list[_Running] = []
        self._idle: list[SlotLink] = []
        self._generation = 0
        self._stopped = False
        self._lease = LeaseReader(config.lease)
        self._going = threading.Event()
        self._going.set()
        # Without modules to import there is nothing to be warm with: the first group says which,
        # and a host that only waits needs no process for that.
        self._nursery = self._new_nursery(config.preload) if config.preload else None

    def close(self) -> None:
        """Kill what runs, and end all processes of the pool."""
        with self._lock:
            self._stopped = True
            self._going.set()
            links = [*self._idle, *(one.link for one in self._running if one.link is not None)]
            self._idle.clear()
        for link in links:
            link.close()
        with self._nursery_lock:
            if self._nursery is not None:
                self._nursery.close()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def run(self, data: bytes, stream: Callable[[bytes], None]) -> bytes:
        """Give an encoded group to a free slot. Outcomes go to `stream` as they come, encoded;
        those of the last moment are returned.
        """
        head = GroupHead.of(data)
        running = _Running(
            run=head.run,
            driver=head.driver or head.run,
            data=data,
            since=time.monotonic(),
            cancelled=threading.Event(),
        )
        with self._lock:
            self._running.append(running)
        try:
            with self._free:
                running.since = time.monotonic()
                if head.alone:
                    return self._run_alone(running, head, stream)
                return self._run_in_slot(running, head, stream)
        finally:
            with self._lock:
                self._running.remove(running)

    def cancel(self, driver: str) -> int:
        """Kill the groups of a driver; returns how many there were."""
        with self._lock:
            found = [
                one for one in self._running if one.driver == driver and not one.cancelled.is_set()
            ]
            for one in found:
                one.cancelled.set()
                if one.link is not None:
                    one.link.tell(slot.CANCEL)
        return len(found)

    def pause(self, paused: bool) -> None:
        """Stop all batch processes and start none, until `paused` is False again."""
        with self._lock:
            if paused and not self._stopped:
                self._going.clear()
            else:
                self._going.set()
            for one in self._running:
                if one.link is not None:
                    one.link.tell(slot.PAUSE if paused else slot.RESUME)

    def states(self) -> list[SlotState]:
        """The busy slots."""
        with self._lock:
            busy = [(one, one.link) for one in self._running if one.link is not None]
        now = time.monotonic()
        states = []
        for one, link in busy:
            attempts = decode_group(one.data).attempts
            batch = attempts[min(one.current, len(attempts) - 1)].batch.index
            rss = process_tree.resident([link.pid, *process_tree.descendants(link.pid)])
            states.append(
                SlotState(
                    slot=link.number,
                    pid=link.pid,
                    run=one.run,
                    batch=batch,
                    seconds=now - one.since,
                    rss=rss,
                )
            )
        return states

    def _run_alone(
        self, running: _Running, head: GroupHead, stream: Callable[[bytes], None]
    ) -> bytes:
        """One attempt after the other, each in a process of its own."""
        waiting: list[bytes] = []
        streamed = time.monotonic()
        for single in decode_group(running.data).singles():
            running.data = encode_group(single)
            running.settled = running.current = 0
            waiting.append(self._run_in_slot(running, head, waiting.append))
            if time.monotonic() - streamed >= _STREAM_EVERY:
                stream(join_outcomes(waiting))
                waiting, streamed = [], time.monotonic()
        return join_outcomes(waiting)

    def _run_in_slot(
        self, running: _Running, head: GroupHead, stream: Callable[[bytes], None]
    ) -> bytes:
        try:
            link = self._begin(running, head.preload)
        except (ClusterError, OSError) as error:
            message = f"{self._config.host} cannot start batch processes: {error}"
            return self._made_up(running, Cause(kind=FailureKind.LOST, message=message))
        if link is None:
            return self._made_up(running, None)
        rest = self._collect(link, running, stream)
        # The end of a lease ends the slot, and so does the end of the pool (its agent was killed):
        # others have the batches then, nobody is to blame.
        over = rest is None and (self._lease.over() or self._stopped)
        with self._lock:
            # Under the lock, so that no status and no cancel is about the slot's next group.
            running.link = None
            if rest is not None:
                self._idle.append(link)
        if rest is None:
            link.wait_until_clean()
            message = "the slot process died"
            cause = None if over else Cause(kind=FailureKind.LOST, message=message)
            rest = self._made_up(running, cause)
        return rest

    def _begin(self, running: _Running, preload: tuple[str, ...]) -> SlotLink | None:
        """The slot that has taken the group; None if it was cancelled before."""
        for _ in range(_DEATHS):
            self._wait_while_paused(running)
            if self._lease.over():
                return None
            link = self._take_slot(preload)
            with self._lock:
                if running.cancelled.is_set() or link is None:
                    if link is not None:
                        self._idle.append(link)
                    return None
                running.link = link
            link.tell(slot.GROUP, running.data)
            if running.cancelled.is_set():
                # It may have been told before it had the group, and then did not listen.
                link.tell(slot.CANCEL)
            with self._lock:
                if not self._going.is_set():  # the same
                    link.tell(slot.PAUSE)
            received = link.receive()
            if received is not None and received[0] == slot.BEGUN:
                return link
            with self._lock:
                running.link = None
            link.wait_until_clean()  # it died while it was idle: nobody's fault
        raise ClusterError(
            f"{_DEATHS} slot processes in a row ended before they took a batch",
            hint="their own words are in the worker's log",
        )

    def _wait_while_paused(self, running: _Running) -> None:
        while not self._going.wait(_PAUSE_LOOK):
            if running.cancelled.is_set() or self._lease.over():
                return

    def _collect(
        self, link: SlotLink, running: _Running, stream: Callable[[bytes], None]
    ) -> bytes | None:
        """The last outcomes of the group, or None if the slot died."""
        while (received := link.receive()) is not None:
            tag, body = received
            running.settled, running.current = slot.PROGRESS.unpack_from(body)
            outcomes = body[slot.PROGRESS.size :]
            if tag == slot.END:
                return outcomes
            if len(outcomes) > 1:  # an empty list is one byte
                stream(outcomes)
        return None

    def _take_slot(self, preload: tuple[str, ...]) -> SlotLink | None:
        """An idle slot whose zygote has the modules, or a new one; None if the pool is closed."""
        with self._nursery_lock:
            if self._stopped:
                return None
            old = self._nursery
            known = () if old is None else old.preload
            missing = [name for name in preload if name not in known]
            if old is None or missing or not old.alive:
                nursery = self._nursery = self._new_nursery((*known, *missing))
                if old is not None:
                    old.retire()
            else:
                nursery = old
            while True:
                with self._lock:
                    link = self._idle.pop() if self._idle else None
                if link is None:
                    return nursery.new_slot()
                if link.nursery is nursery and link.alive:
                    return link
                link.close()

    def _new_nursery(self, preload: tuple[str, ...]) -> Nursery:
        self._generation += 1
        folder = self._scratch / f"zygote-{self._generation}"
        folder.mkdir(mode=0o700)
        return Nursery.start(self._config, folder, preload)

    def _made_up(self, running: _Running, cause: Cause | None) -> bytes:
        """Outcomes of attempts that no slot speaks for any more: the running one is lost, the
        others go back.
        """
        outcomes = []
        attempts = decode_group(running.data).attempts
        for position in range(running.settled, len(attempts)):
            attempt = attempts[position]
            blamed = cause is not None and position == running.current
            outcomes.append(
                Outcome(
                    batch=attempt.batch.index,
                    attempt=attempt.number,
                    status=OutcomeStatus.FAILED if blamed else OutcomeStatus.RETURNED,
                    host=self._config.host,
                    failure=cause.failure() if cause is not None and blamed else None,
                )
            )
        return encode_outcomes(outcomes)
