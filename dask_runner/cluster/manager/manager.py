"""The manager: what `dask-runner up` is. Holds the hosts, the scheduler and the runs together.

Owns who gets which slots, what is told to the runs that are attached, and the end: when it ends,
whatever way, everything on the hosts does. Refuses to know what the runs do.
"""

import asyncio
import logging
import os
import socket
import time
from collections import deque
from collections.abc import Iterable
from typing import Any

from dask_runner.cluster.control import Farewell, View
from dask_runner.cluster.dask_address import port_of
from dask_runner.cluster.interface import HostState
from dask_runner.cluster.manager.examiner import Examiner
from dask_runner.cluster.manager.host_link import HostLink
from dask_runner.cluster.manager.scheduler_link import SchedulerLink
from dask_runner.cluster.manager.shares import Deal, Wish, shares
from dask_runner.cluster.manager.site import Site
from dask_runner.cluster.status import ClusterStatus, Phase, RunStatus, why_not
from dask_runner.errors import ClusterError
from dask_runner.hostfile import Host

_log = logging.getLogger(__name__)

_END_PATIENCE = 15.0
_EVENTS = 20
# Of what a run says of its batches, the latest.
_ANNOUNCED = 5
_MORE_THAN_ANY = 1_000_000


class AttachedRun:
    """A driver that is connected: what it could use, and how it is told. Its batches and its files
    on hosts go by `holder`: two runs in different folders may have the same timestamp.
    """

    def __init__(self, run: str, holder: str, pid: int) -> None:
        self.run = run
        self.holder = holder
        self.pid = pid
        # More than any cluster has: until it says otherwise.
        self.wish = Wish(slots=_MORE_THAN_ANY)
        self.announced: deque[str] = deque(maxlen=_ANNOUNCED)
        self.changed = asyncio.Event()
        self.changed.set()


class Manager:
    """One cluster that is up. `scheduler` is the name of the host that has the scheduler, "" for
    this machine.
    """

    def __init__(self, site: Site, hosts: Iterable[Host], examiner: Examiner) -> None:
        self.site = site
        self.generation = 0
        self.failure = ""
        self.warnings: tuple[str, ...] = ()
        self._examiner = examiner
        self._links: dict[str, HostLink] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._runs: list[AttachedRun] = []
        self._began = time.monotonic()
        self._dashboard = 0
        self._events: deque[str] = deque(maxlen=_EVENTS)
        self._ended: Farewell | None = None
        self._dealt_for: tuple[dict[str, int], dict[str, Wish]] = ({}, {})
        self._deal: Deal = {}
        self._scheduler: SchedulerLink | None = None
        for host in hosts:
            self._links[host.address] = HostLink(host, site, examiner.examine)

    # ------------------------------------------------------------------ its life

    def start(self) -> None:
        """Start the scheduler and dial all hosts; returns at once."""
        site = self.site
        wanted = site.settings.cluster.scheduler
        if wanted and wanted not in self._links:
            raise ClusterError(
                f"{wanted} is to have the scheduler, but is not in the hostfile",
                hint="add it there, or leave out --scheduler",
            )
        if not wanted:
            self._scheduler = SchedulerLink(site, self.scheduler_started)
            self._tasks[""] = asyncio.ensure_future(self._scheduler.live())
        for link in self._links.values():
            self._dial(link)

    def _dial(self, link: HostLink) -> None:
        self._tasks[link.name] = asyncio.ensure_future(link.live())

    async def end(self, reason: str) -> Farewell:
        """End everything on all hosts; what could not be confirmed is told."""
        if self._ended is not None:
            return self._ended
        began = time.monotonic()
        self.failure = reason
        self.changed()
        for link in self._links.values():
            link.hang_up()
            if not link.has_agent and link.name in self._tasks:
                # Dialled, or waiting for a scheduler: there is nobody to wait for.
                self._tasks[link.name].cancel()
        if self._scheduler is not None:
            self._scheduler.hang_up()
        tasks = list(self._tasks.values())
        if tasks:
            await asyncio.wait(tasks, timeout=_END_PATIENCE)
        unconfirmed = {
            link.name: link.why_unconfirmed() for link in self._links.values() if not link.confirmed
        }
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.site.connector.close()
        await self._examiner.close()
        self._ended = Farewell(seconds=time.monotonic() - began, unconfirmed=unconfirmed)
        return self._ended

    def scheduler_started(self, address: str, dashboard: int) -> None:
        """A scheduler listens: the first one, or one in the place of a dead one."""
        before, self.site.scheduler_port = self.site.scheduler_port, port_of(address)
        self._dashboard = dashboard
        self.site.scheduler_ready.set()
        if not self.generation and before not in {0, self.site.scheduler_port}:
            # Its port was taken meanwhile, and the hosts have been told that one.
            for link in self._links.values():
                link.restart()
        if self.generation:
            self.note("the scheduler was started again")
            for link in self._links.values():
                link.restart()
        self.generation += 1
        self.changed()

    def scheduler_words(self) -> str:
        """Why there is no scheduler."""
        if self._scheduler is not None:
            return self._scheduler.last_words or "it says nothing"
        return why_not(self._links[self.site.settings.cluster.scheduler].status())

    @property
    def hopeless(self) -> bool:
        """True if there is no scheduler because its host cannot be used."""
        link = self._links.get(self.site.settings.cluster.scheduler)
        return not self.generation and link is not None and link.phase is Phase.LEFT_OUT

    # ------------------------------------------------------------------ hosts

    def link(self, host: str) -> HostLink:
        """Raises ClusterError for a host that is not of this cluster."""
        if host not in self._links:
            raise ClusterError(f"{host} is not a host of {self.site.name}", hint="see `status`")
        return self._links[host]

    def links(self) -> list[HostLink]:
        return list(self._links.values())

    def add(self, hosts: Iterable[Host]) -> list[str]:
        """Dial new hosts, and known ones again that are not up. Returns their names. Raises
        ClusterError for one that is up and is to be another.
        """
        if self.failure:
            raise ClusterError(f"the cluster is ending: {self.failure}")
        names = []
        for host in hosts:
            link = self._links.get(host.address)
            if link is None:
                link = self._links[host.address] = HostLink(host, self.site, self._examiner.examine)
                self._dial(link)
            else:
                link.change(host)
                link.retry()
            names.append(host.address)
        self.changed()
        return names

    def drain(self, host: str) -> None:
        """Raises ClusterError for the host that nobody can do without."""
        if host == self.site.settings.cluster.scheduler:
            raise ClusterError(
                f"{host} has the scheduler, so the cluster would end with it",
                hint="`dask-runner down` ends the cluster",
            )
        self.link(host).drain()

    def cancel(self, run: AttachedRun) -> None:
        """Kill the batch processes of a run everywhere."""
        for link in self._links.values():
            link.cancel(run.holder)

    @property
    def settled(self) -> bool:
        return all(link.settled for link in self._links.values())

    @property
    def ready(self) -> int:
        return sum(link.phase is Phase.UP for link in self._links.values())

    # ------------------------------------------------------------------ runs

    def attach(self, run: AttachedRun) -> None:
        self._runs.append(run)
        self.changed()

    def detach(self, run: AttachedRun) -> None:
        """Its driver has ended, or was killed: so are its batches."""
        self._runs.remove(run)
        self.cancel(run)
        for link in self._links.values():
            link.forget(run.holder)
            link.announced.pop(run.holder, None)
        self.changed()

    def announce(self, run: AttachedRun, host: str, text: str) -> None:
        """What a run found out about a host ("": it is good again), or, without a host, about its
        batches.
        """
        if not host:
            run.announced.append(text)
            self.note(f"run {run.run}: {text}")
            return
        link = self.link(host)
        if text:
            link.announced[run.holder] = f"run {run.run}: {text}"
            self.note(f"run {run.run}: {host}: {text}")
        elif link.announced.pop(run.holder, None):
            self.note(f"run {run.run}: {host} is good again")

    def changed(self) -> None:
        """Something that runs see is not as it was."""
        for run in self._runs:
            run.changed.set()

    def note(self, text: str) -> None:
        """Something that the user should see in `status`."""
        self._events.append(f"{time.strftime('%H:%M:%S')} {text}")
        _log.warning("%s", text)

    def view(self, run: AttachedRun) -> View:
        """The cluster for one of its runs."""
        dealt = self._dealt().get(run.holder, {})
        return View(
            address=self.site.client_address if self.generation else "",
            generation=self.generation,
            hosts=tuple(self._state(link, dealt) for link in self._links.values()),
            failure=self.failure,
        )

    def _state(self, link: HostLink, dealt: dict[str, int]) -> HostState:
        return link.state(dealt.get(link.name, 0))

    def _dealt(self) -> dict[str, dict[str, int]]:
        slots = {link.name: link.slots for link in self._links.values() if link.takes_batches}
        wishes = {run.holder: run.wish for run in self._runs}
        if (slots, wishes) != self._dealt_for:
            self._dealt_for = (slots, wishes)
            self._deal = shares(slots, wishes)
        return self._deal

    # ------------------------------------------------------------------ status

    def status(self) -> ClusterStatus:
        """All of it, for the user."""
        site = self.site
        dealt = self._dealt()
        return ClusterStatus(
            name=site.name,
            cluster=site.cluster,
            pid=os.getpid(),
            machine=socket.gethostname(),
            up_for=time.monotonic() - self._began,
            scheduler=site.settings.cluster.scheduler or socket.gethostname(),
            address=site.client_address,
            settled=self.settled,
            hosts=tuple(link.status() for link in self._links.values()),
            runs=tuple(self._run_status(run, dealt) for run in self._runs),
            dashboard=self._dashboard,
            failure=self.failure,
            events=tuple(self._events),
            warnings=self.warnings,
            hostfile=site.settings.cluster.hostfile,
        )

    def _run_status(self, run: AttachedRun, dealt: dict[str, dict[str, int]]) -> RunStatus:
        slots = sum(dealt.get(run.holder, {}).values())
        return RunStatus(
            run=run.run,
            pid=run.pid,
            demand=min(run.wish.slots, _MORE_THAN_ANY),
            slots=slots,
            announced=tuple(run.announced),
        )

    async def ask(self, host: str, operation: str, arguments: dict[str, Any]) -> Any:
        return await self.link(host).ask(operation, arguments)
