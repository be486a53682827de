"""The scheduler on the manager's own machine: an agent without a worker, over a pipe.

Starts again what dies, on the same address. A scheduler on another host is that host's agent's.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

from dask_runner.cluster.channel import Echo, Event
from dask_runner.cluster.manager.agent_link import AgentLink, start_piped
from dask_runner.cluster.manager.site import Place, Site
from dask_runner.hostfile import Host

_log = logging.getLogger(__name__)

# Its host in markers and logs; no name of a machine begins with a dot.
NAME = ".scheduler"
_BACKOFF = (0.2, 10.0)
_GOOD_TIME = 60.0


class SchedulerLink:
    """`on_start` is called with the address and the dashboard's port each time one has started."""

    def __init__(self, site: Site, on_start: Callable[[str, int], None]) -> None:
        self._site = site
        self._on_start = on_start
        self._agent: AgentLink | None = None
        self._ending = asyncio.Event()
        self.last_words = ""

    async def live(self) -> None:
        """Keep one running until `hang_up`."""
        loop = asyncio.get_running_loop()
        pause = _BACKOFF[0]
        while not self._ending.is_set():
            began = loop.time()
            try:
                wire = await start_piped(self._site.environment(NAME))
            except OSError as error:  # no process can be started now
                self.last_words = str(error)
                _log.warning("the scheduler cannot be started: %s", error)
                await self._rest(_BACKOFF[1])
                continue
            log = self._site.folder.host_log(NAME)
            self._agent = AgentLink(wire, log=log, on_event=self._on_event)
            place = Place(bind=self._site.scheduler_host, scheduler="")
            host = Host(address=NAME)
            ending = await self._agent.run(self._site.config(host, slots=0, place=place))
            if self._ending.is_set():
                return
            self.last_words = ending or self.last_words or "ended"
            _log.warning("the scheduler's agent ended (%s); starting another", self.last_words)
            pause = _BACKOFF[0] if loop.time() - began > _GOOD_TIME else pause
            await self._rest(pause)
            pause = min(pause * 2, _BACKOFF[1])

    async def _rest(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._ending.wait(), seconds)

    def hang_up(self) -> None:
        self._ending.set()
        if self._agent is not None:
            with suppress(OSError):
                self._agent.hang_up()

    def _on_event(self, event: Event) -> None:
        if event.kind == "heartbeat" and event.vitals is not None and self._agent is not None:
            self._agent.tell(Echo(reading=event.vitals.reading))
        elif event.kind == "scheduler":
            self._on_start(event.address, event.dashboard)
        elif event.kind in {"scheduler-died", "error"}:
            self.last_words = event.text
            _log.warning("scheduler: %s", event.text)
