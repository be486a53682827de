"""A zygote process and its slots, from the worker's side: start, watch, retire."""

import contextlib
import logging
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Final, Protocol, Self

import msgspec

from dask_runner.errors import ClusterError
from dask_runner.execution import marker, numerics
from dask_runner.execution.wire import Channel
from dask_runner.execution.zygote import (
    MESSAGE_MAX,
    Message,
    Ready,
    Setup,
    SlotEnded,
    SlotStarted,
)
from dask_runner.files import path_to_text

logger = logging.getLogger(__name__)

_START_PATIENCE: Final = 120.0
_END_PATIENCE: Final = 25.0
_CLEAN_PATIENCE: Final = 15.0


class ZygoteConfig(Protocol):
    """What a zygote needs to know of the pool's configuration."""

    @property
    def host(self) -> str: ...
    @property
    def import_path(self) -> tuple[str, ...]: ...
    @property
    def cluster(self) -> str: ...
    @property
    def umask(self) -> int: ...
    @property
    def lease(self) -> str: ...
    @property
    def nice(self) -> int: ...


class SlotLink:
    """The worker's end of a slot. `tell` may be called by any thread, `receive` by one."""

    def __init__(self, nursery: "Nursery", number: int, connection: socket.socket) -> None:
        self.nursery = nursery
        self.number = number
        self.pid = 0
        self.started = threading.Event()
        self.clean = threading.Event()
        self._channel = Channel(connection)
        self._lock = threading.Lock()

    @property
    def alive(self) -> bool:
        return not self.clean.is_set()

    def tell(self, tag: int, body: bytes = b"") -> bool:
        """False if the slot is gone."""
        with self._lock:
            try:
                self._channel.send(tag, body)
            except OSError:
                return False
        return True

    def receive(self) -> tuple[int, bytes] | None:
        return self._channel.receive()

    def wait_until_clean(self) -> None:
        """After the slot's death: until the zygote has killed what it left, or is dead itself;
        then the slots' outer subreaper (the host agent) has to.
        """
        if not self.clean.wait(_CLEAN_PATIENCE):
            logger.warning("slot %d: nobody says that its processes are dead", self.number)
        self._channel.close()

    def close(self) -> None:
        """The slot kills what it runs, and ends."""
        self._channel.close()


class Nursery:
    """One zygote. When it is dead or retired, its idle slots are to be closed."""

    def __init__(
        self, process: subprocess.Popen[bytes], control: socket.socket, preload: tuple[str, ...]
    ) -> None:
        self.preload = preload
        self._process = process
        self._control = control
        self._lock = threading.Lock()
        self._links: dict[int, SlotLink] = {}
        self._next = 0
        self._retired = False
        self._dead = threading.Event()

    @classmethod
    def start(cls, config: ZygoteConfig, scratch: Path, preload: tuple[str, ...]) -> Self:
        """Start a zygote and wait until it has imported the modules. If one of them starts threads,
        which must not be forked, none is preloaded: batches then import for themselves.
        """
        nursery, ready = cls._start(config, scratch, preload, preload)
        if ready.threads > 1:
            logger.warning("modules to preload start threads; not preloading %s", preload)
            nursery.close()
            nursery, ready = cls._start(config, scratch, (), preload)
        for name, reason in ready.failed.items():
            logger.warning("cannot preload %s: %s", name, reason)
        threading.Thread(target=nursery.listen, name="zygote", daemon=True).start()
        return nursery

    @classmethod
    def _start(
        cls,
        config: ZygoteConfig,
        scratch: Path,
        preload: tuple[str, ...],
        wanted: tuple[str, ...],
    ) -> tuple[Self, Ready]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-I", "-m", "dask_runner.execution.zygote"],
                stdin=theirs.fileno(),
                # The worker's stdout may be a protocol, and imports may print.
                stdout=2,
                env=zygote_environment(config.cluster, config.host),
                cwd="/",
                start_new_session=True,
            )
        setup = Setup(
            host=config.host,
            scratch=path_to_text(scratch),
            import_path=tuple(config.import_path),
            preload=preload,
            umask=config.umask,
            lease=config.lease,
            nice=config.nice,
        )
        ours.settimeout(_START_PATIENCE)
        try:
            ours.send(msgspec.msgpack.encode(setup))
            data = ours.recv(MESSAGE_MAX)
            ready = msgspec.msgpack.decode(data, type=Ready)
        except (OSError, msgspec.MsgspecError) as error:
            process.kill()
            process.wait()
            ours.close()
            raise ClusterError(
                f"{config.host}: the process that starts batches did not start: {error}",
                hint="its own words are in the worker's log",
            ) from error
        ours.settimeout(None)
        return cls(process, ours, wanted), ready

    @property
    def alive(self) -> bool:
        return not self._dead.is_set()

    def new_slot(self) -> SlotLink:
        """Raises ClusterError if the zygote is dead."""
        ours, theirs = socket.socketpair()
        with theirs, self._lock:
            self._next += 1
            link = SlotLink(self, self._next, ours)
            self._links[link.number] = link
            try:
                socket.send_fds(self._control, [b"%d" % link.number], [theirs.fileno()])
            except OSError:
                link.clean.set()
                link.started.set()
        link.started.wait(_START_PATIENCE)
        return link

    def retire(self) -> None:
        """End when the last slot has ended. The pool closes the slots as they get idle."""
        with self._lock:
            self._retired = True
            self._end_if_unused()

    def close(self) -> None:
        """End now, with everything that runs."""
        with self._lock:
            links = list(self._links.values())
        for link in links:
            link.close()
        self._hang_up()
        try:
            self._process.wait(_END_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._control.close()

    def _end_if_unused(self) -> None:
        if self._retired and not self._links:
            self._hang_up()

    def _hang_up(self) -> None:
        with contextlib.suppress(OSError):  # it is dead already
            self._control.shutdown(socket.SHUT_RDWR)

    def listen(self) -> None:
        """In a thread: what the zygote says about its slots, until it ends."""
        decoder = msgspec.msgpack.Decoder(Message)
        while True:
            try:
                data = self._control.recv(MESSAGE_MAX)
            except OSError:
                break
            if not data:
                break
            self._note(decoder.decode(data))
        self._dead.set()
        self._process.wait()
        with self._lock:
            links = list(self._links.values())
            self._links.clear()
            self._control.close()
        for link in links:
            link.started.set()
            link.clean.set()

    def _note(self, message: Message) -> None:
        with self._lock:
            link = self._links.get(message.number) if not isinstance(message, Ready) else None
            if link is None:
                return
            if isinstance(message, SlotStarted):
                link.pid = message.pid
                link.started.set()
            elif isinstance(message, SlotEnded):
                del self._links[message.number]
                link.clean.set()
                self._end_if_unused()


def zygote_environment(cluster: str, host: str) -> dict[str, str]:
    """The worker's environment without what is Dask's, with pinned numerics and the markers."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("DASK_", "PYTHONSTARTUP", "NPY_"))
    }
    return {
        **kept,
        **numerics.pinned_environment(),
        marker.CLUSTER: cluster,
        marker.HOST: host,
        marker.RUN: marker.ROOM,
    }
