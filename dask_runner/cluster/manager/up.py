"""`dask-runner up` from the first host to the last process: the manager's program.

Owns the order of start and end and what ends it. Prints nothing: what there is to see is handed to
a callback.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from dask_runner.cluster import session
from dask_runner.cluster.control import Farewell
from dask_runner.cluster.dask_address import free_port
from dask_runner.cluster.manager.control_server import ControlServer
from dask_runner.cluster.manager.examiner import Examiner
from dask_runner.cluster.manager.manager import Manager
from dask_runner.cluster.manager.overseer import oversee
from dask_runner.cluster.manager.request import UpRequest
from dask_runner.cluster.manager.site import Site
from dask_runner.cluster.session import Session, SessionFolder
from dask_runner.cluster.ssh.addresses import bind_address
from dask_runner.cluster.ssh.connector import Connector
from dask_runner.cluster.status import ClusterStatus, Phase, why_not
from dask_runner.cluster.tls import make_credentials
from dask_runner.errors import ClusterError

_log = logging.getLogger(__name__)

_TICK: Final = 0.25
_SCHEDULER_PATIENCE: Final = 60.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# What a terminal does to a program that it wants to stand still.
_STOPS = (signal.SIGTSTP, signal.SIGTTOU, signal.SIGTTIN)
_LOOK_EVERY = 5.0


def bring_up(request: UpRequest, show: Callable[[ClusterStatus], None]) -> Farewell:
    """Run a cluster until a signal or `down` ends it; `show` gets its status all the time.

    Raises ClusterError if a cluster of that name is up, or fewer than `cluster.min_hosts` hosts
    came up; then nothing of it is left either.
    """
    with session.claim(request.name) as (folder, listener):
        return asyncio.run(_Up(request, show).run(folder, listener))


class _Up:
    def __init__(self, request: UpRequest, show: Callable[[ClusterStatus], None]) -> None:
        self._request = request
        self._show = show
        self._end = ""
        self._overseer: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()

    async def run(self, folder: SessionFolder, listener: socket.socket) -> Farewell:
        manager = await self._manager(folder)
        site = manager.site
        folder.write(
            Session(
                name=site.name,
                cluster=site.cluster,
                pid=os.getpid(),
                hostfile=site.settings.cluster.hostfile,
                lease=site.lease,
                staging=site.settings.cluster.staging,
            ),
            site.credentials,
        )
        server = ControlServer(manager, self._wish)
        listening = await server.start(listener)
        published = session.publish(folder, site.name)
        site.folder = published
        try:
            with self._signals():
                manager.start()
                await self._until_the_end(manager)
        finally:
            if self._overseer is not None:
                self._overseer.cancel()
            # Also after an exception: nothing may stay on the hosts.
            farewell = await manager.end(self._end or "`up` failed")
            # Before anybody is told: who is may start the next one of this name at once.
            listening.close()
            if published.is_of(site.cluster):
                published.remove()
            await server.say_farewell(farewell)
        return farewell

    async def _manager(self, folder: SessionFolder) -> Manager:
        settings = self._request.settings
        values = settings.cluster
        site = Site(
            name=self._request.name,
            settings=settings,
            folder=folder,
            credentials=make_credentials(self._request.name),
            connector=Connector(handshakes=values.handshakes, timeout=values.connect_timeout),
            on_change=lambda: None,
        )
        site.bind = await bind_address(host.address for host in self._request.hosts)
        if not values.scheduler:
            site.scheduler_host = site.bind
            # Known before the scheduler listens, so that the hosts need not wait for it.
            site.scheduler_port = free_port(site.scheduler_host)
            site.scheduler_ready.set()
        examiner = Examiner(site)
        await examiner.open()
        manager = Manager(site, self._request.hosts, examiner)
        site.changed = manager.changed
        site.on_scheduler = manager.scheduler_started
        return manager

    async def _until_the_end(self, manager: Manager) -> None:
        """Watch the cluster, and whether anybody could still find it."""
        folder = asyncio.ensure_future(_removed(manager.site.folder.path))
        watch = asyncio.ensure_future(self._watch(manager))
        await asyncio.wait({folder, watch}, return_when=asyncio.FIRST_COMPLETED)
        folder.cancel()
        if not watch.done():
            watch.cancel()
            raise ClusterError(f"{manager.site.folder.path} was removed")
        await watch

    async def _watch(self, manager: Manager) -> None:
        """Show what goes on until somebody wants the end."""
        wanted = self._request.settings.cluster.min_hosts
        content = False
        while not self._end:
            status = manager.status()
            self._show(status)
            late = not manager.generation and status.up_for > _SCHEDULER_PATIENCE
            if late or manager.hopeless:
                raise ClusterError(f"the scheduler did not start: {manager.scheduler_words()}")
            if status.settled and not content:
                if status.ready < wanted:
                    raise ClusterError(
                        _too_few(status, wanted),
                        hint="`dask-runner hosts check` looks closer; --min-hosts asks for fewer",
                    )
                content = True
                detached = self._request.detached
                self._overseer = asyncio.ensure_future(oversee(manager, detached=detached))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), _TICK)

    def _wish(self, reason: str) -> None:
        self._end = self._end or reason
        self._wake.set()

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        # Stopped, it would let the leases of all hosts run out: Ctrl-Z does nothing here.
        ignored = set(_STOPS)
        if self._request.detached:
            # Left to its default it would end us, without a word to the hosts.
            ignored.add(signal.SIGHUP)
        ends = [number for number in _SIGNALS if number not in ignored]
        for number in ends:
            loop.add_signal_handler(number, self._wish, number.name)
        before = {number: signal.signal(number, signal.SIG_IGN) for number in ignored}
        try:
            yield
        finally:
            for number, action in before.items():
                signal.signal(number, action)
            for number in ends:
                loop.remove_signal_handler(number)


async def _removed(folder: Path) -> None:
    """Until the state folder is gone: then not even `down` could find us. In a thread, for a home
    on a file server that does not answer, or takes us for a stranger for a while.
    """
    while True:
        try:
            await asyncio.to_thread(os.stat, folder)
        except FileNotFoundError:
            return
        except OSError as error:
            _log.info("%s: %s", folder, error)
        await asyncio.sleep(_LOOK_EVERY)


def _too_few(status: ClusterStatus, wanted: int) -> str:
    lines = [f"{status.ready} of {len(status.hosts)} hosts came up, {wanted} are wanted"]
    lines += [why_not(host) for host in status.hosts if host.phase is not Phase.UP]
    return "\n  ".join(lines)
