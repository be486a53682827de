"""The scheduler as the agent's charge: started, watched, started again at the same place."""

import asyncio
import time
from asyncio.subprocess import Process
from collections.abc import Callable

import msgspec
from msgspec import structs

from dask_runner.cluster.channel import AgentConfig, Event
from dask_runner.cluster.dask_address import port_of
from dask_runner.cluster.host.children import VAIN_STARTS, Delay, Hands, ending, lines_of, send
from dask_runner.cluster.host.outbox import Outbox, write_away


class SchedulerKeeper:
    """Has one scheduler as long as `keep` runs; `on_address` gets its address at each start."""

    def __init__(
        self,
        config: AgentConfig,
        *,
        hands: Hands,
        outbox: Outbox,
        on_address: Callable[[str], object],
    ) -> None:
        self._config = config
        self._hands = hands
        self._outbox = outbox
        self._on_address = on_address

    async def keep(self) -> None:
        """Returns when the scheduler has died and none is to follow: without a lease, nobody
        survives it. Raises RuntimeError if the first one does not start.
        """
        port, vain, delay = self._config.scheduler_port, 0, Delay()
        while True:
            began = time.monotonic()
            scheduler = await self._hands.start("scheduler_process", keep=True)
            # All others know its port; but if somebody else has that now, any port is better.
            wanted = 0 if vain >= VAIN_STARTS else port
            await send(scheduler, structs.replace(self._config, scheduler_port=wanted))
            event = await _first_event(scheduler)
            if event is None and not port:
                raise RuntimeError(f"the scheduler did not start ({await ending(scheduler)})")
            vain += 1
            if event is not None:
                vain, port = 0, port_of(event.address)
                self._outbox.tell(event)
                self._on_address(event.address)
                async for line in lines_of(scheduler.stdout):
                    write_away(line)
            cause = await ending(scheduler)
            self._hands.forget(scheduler)
            self._outbox.tell(Event(kind="scheduler-died", pid=scheduler.pid, text=cause))
            if not self._config.lease:
                return
            await asyncio.sleep(delay.after(time.monotonic() - began))


async def _first_event(scheduler: Process) -> Event | None:
    async for line in lines_of(scheduler.stdout):
        try:
            return msgspec.json.decode(line, type=Event)
        except msgspec.MsgspecError:
            write_away(line)
    return None
