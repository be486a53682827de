"""Dask as disposable transport: a client that may be lost at any time, and is made anew.

Owns the client and what is sent with it. All that it hears goes into a queue of events, as
(kind, value): `stream` (encoded outcomes), `end` (a GroupEnd), `client` (a new one, with the
generation of its scheduler), `defect` (an exception that a thread of ours ended with). Others put
`room`, `collected` and `note` there: one thread writes the manifest. Refuses to know what is sent.
"""

import logging
import queue
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from msgspec import Struct

from dask_runner.cluster.interface import Cluster
from dask_runner.errors import ClusterError
from dask_runner.execution.worker import run_group
from dask_runner.manifest import Note

_log = logging.getLogger(__name__)

_FETCH_TIMEOUT = 30
# Results are fetched from the hosts: one that does not answer must not hold up the others.
_FETCHERS = 4
_BACKOFF = (0.5, 10.0)
_CLOSE_TIMEOUT = 2

Events = queue.SimpleQueue[tuple[str, Any]]


def put_note(events: Events, note: Note) -> None:
    """Have a note recorded, from any thread."""
    events.put(("note", note))


class GroupEnd(Struct, frozen=True, kw_only=True):
    """The end of a group's task: its result, or why there is none. `finished`: it does not run any
    more on its host, though there is no result; `unfetched`: there was one. `stranded`: nobody
    knows, since the scheduler or the way to it is lost.
    """

    key: str
    result: bytes = b""
    lost: str = ""
    finished: bool = False
    unfetched: bool = False
    stranded: bool = False


class Transport:
    """The way to the workers of a cluster for one run."""

    def __init__(self, cluster: Cluster, topic: str, events: Events) -> None:
        self._cluster = cluster
        self._topic = topic
        self._events = events
        self._client: Any = None
        self._closed = threading.Event()
        self._fetchers = ThreadPoolExecutor(_FETCHERS, thread_name_prefix="results")
        self.generation = 0

    def open(self) -> None:
        """Connect for the first time. Raises ClusterError."""
        generation = self._cluster.generation
        self.take(generation, self._cluster.client())

    @property
    def ready(self) -> bool:
        """False while there is no client."""
        return self._client is not None

    @property
    def lost(self) -> bool:
        """True if what was sent with the present client is lost."""
        return self.ready and (
            self._cluster.generation != self.generation or self._client.status != "running"
        )

    def take(self, generation: int, client: Any) -> None:
        """Use this client, which is connected with that generation of the scheduler."""
        self._client, self.generation = client, generation
        client.subscribe_topic(self._topic, lambda event: self._events.put(("stream", event[1])))

    def drop(self) -> None:
        """Give up the client, and have another one made."""
        self._dispose(self._client)
        self._client = None
        threading.Thread(target=self._connect, name="connect", daemon=True).start()

    def submit(self, key: str, data: bytes, worker: str) -> Any:
        """Send a group to a worker; its future, to be released when its end is known. Raises
        ClusterError if the client is lost.
        """
        try:
            future = self._client.submit(
                run_group, data, key=key, pure=False, workers=[worker], allow_other_workers=False
            )
        except Exception as error:
            if self._client.status == "running":
                raise
            raise ClusterError(f"nothing can be sent: {error}") from error
        future.add_done_callback(lambda future: self._fetchers.submit(self._fetch, key, future))
        return future

    def close(self) -> None:
        self._closed.set()
        self._fetchers.shutdown(wait=False, cancel_futures=True)
        if self._client is not None:
            self._client.close(timeout=_CLOSE_TIMEOUT)

    def _connect(self) -> None:
        pause = _BACKOFF[0]
        while not self._closed.is_set() and not self._cluster.failure():
            generation = self._cluster.generation
            try:
                client = self._cluster.client()
            except ClusterError as error:
                _log.info("no client yet: %s", error)
            except Exception as error:  # noqa: BLE001  (a defect: it ends the run, not this thread)
                self._events.put(("defect", error))
                return
            else:
                if self._closed.is_set():
                    self._dispose(client)
                else:
                    self._events.put(("client", (generation, client)))
                return
            self._closed.wait(pause)
            pause = min(2 * pause, _BACKOFF[1])

    def _fetch(self, key: str, future: Any) -> None:
        self._events.put(("end", _end_of(key, future)))

    @staticmethod
    def _dispose(client: Any) -> None:
        # A scheduler that does not answer must not hold us.
        closing = threading.Thread(
            target=client.close, kwargs={"timeout": _CLOSE_TIMEOUT}, name="close", daemon=True
        )
        closing.start()


def _end_of(key: str, future: Any) -> GroupEnd:
    """What a task's future says. Dask's words about a dead worker are about its keys; an exception
    is a defect of ours on the host, and must be seen.
    """
    lost = "its result is lost"
    try:
        if future.status == "finished":
            return GroupEnd(key=key, result=future.result(timeout=_FETCH_TIMEOUT), finished=True)
        if future.status == "error":
            return _failed(key, future.exception(timeout=_FETCH_TIMEOUT))
    except Exception as missing:  # noqa: BLE001  (whatever it is, dispatch waits for the end)
        lost = f"its result could not be fetched: {type(missing).__name__}: {missing}"
    # Of a client that is lost, perhaps just now, all futures are cancelled.
    if future.status == "cancelled":
        return GroupEnd(key=key, stranded=True)
    # It had ended; since then its worker may have, with the result.
    return GroupEnd(key=key, lost=lost, finished=True, unfetched=True)


def _failed(key: str, error: BaseException) -> GroupEnd:
    if type(error).__name__ == "KilledWorker":
        return GroupEnd(key=key, lost="the worker that ran it was lost")
    text = f"the worker that ran it failed: {type(error).__name__}: {error}"
    return GroupEnd(key=key, lost=text, finished=True)
