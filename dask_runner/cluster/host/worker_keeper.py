"""The worker as the agent's charge: started, watched, started again.

Of a dead worker nothing is alive any more when its death is told, and before a new one starts.
"""

import asyncio
import secrets
import signal
import time
from asyncio.subprocess import Process
from contextlib import suppress
from typing import Final

import msgspec

from dask_runner.cluster.channel import (
    AgentConfig,
    Cancel,
    Event,
    Pause,
    SlotReport,
    WorkerConfig,
    encode_message,
)
from dask_runner.cluster.host.children import VAIN_STARTS, Delay, Hands, describe, lines_of, send
from dask_runner.cluster.host.outbox import Outbox, write_away
from dask_runner.execution import process_tree

_SILENCE: Final = 20.0
# Imports over the network, by as many workers as there are hosts, take their time.
_START_PATIENCE: Final = 300.0
_LOOK_EVERY: Final = 1.0
_FELL_PATIENCE: Final = 2.0


class WorkerKeeper:
    """Has one worker as long as `keep` runs. `slots` are its busy ones."""

    def __init__(self, config: AgentConfig, *, hands: Hands, outbox: Outbox, lease: str) -> None:
        self.slots: tuple[SlotReport, ...] = ()
        self._config = config
        self._hands = hands
        self._outbox = outbox
        self._lease = lease
        self._scheduler = config.scheduler
        self._known = asyncio.Event()
        self._hurry = asyncio.Event()
        self._worker: Process | None = None
        self._configured = False
        self._paused = False
        self._heard = 0.0
        self._spoke = self._ready = False
        self._why = ""
        if config.scheduler:
            self._known.set()

    async def keep(self) -> None:
        """Raises RuntimeError if workers end in vain, unless the driver decides about that."""
        vain, delay = 0, Delay()
        while True:
            began = time.monotonic()
            vain = 0 if await self._one_life() else vain + 1
            if vain == VAIN_STARTS and not self._config.lease:
                raise RuntimeError(
                    f"{vain} workers in a row ended before they were ready, the last with "
                    f"{self._why}; their own words are above"
                )
            with suppress(TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), delay.after(time.monotonic() - began))

    async def restart(self, scheduler: str) -> None:
        """Have a worker that goes to `scheduler`, which was started anew. One that was with the old
        one is killed: it cannot return.
        """
        other = scheduler != self._scheduler
        self._scheduler = scheduler
        self._known.set()
        self._hurry.set()
        if self._configured and (self._ready or other):
            await self._kill("its scheduler was started anew")

    def cancel(self, driver: str) -> None:
        """Have the driver's batches killed; a worker that is still starting has none."""
        self._send(Cancel(driver=driver))

    def pause(self, paused: bool) -> None:
        """Have all batches stand still, also those of the next worker."""
        if paused != self._paused:
            self._paused = paused
            self._send(Pause(paused=paused))

    async def _one_life(self) -> bool:
        """From the start of a worker to the death of all below it; True if it was ready once."""
        # Started before the scheduler is known: its imports go on meanwhile.
        self._worker = worker = await self._hands.start("worker_process")
        self._heard, self._why = time.monotonic(), ""
        self._spoke = self._ready = False
        await self._known.wait()
        self._hurry.clear()
        await self._configure(worker)
        watch = asyncio.ensure_future(self._watch(worker))
        try:
            await self._listen(worker)
            code = await worker.wait()
        finally:
            watch.cancel()
            self._configured, self._worker, self.slots = False, None, ()
        self._why = self._why or describe(code)
        if immortal := await self._hands.sweep():
            self._why += f"; processes {', '.join(map(str, immortal))} cannot be killed"
        self._outbox.tell(Event(kind="worker-died", pid=worker.pid, text=self._why))
        return self._ready

    async def _configure(self, worker: Process) -> None:
        name = f"{self._config.host}-{secrets.token_hex(4)}"
        scheduler = self._scheduler
        await send(
            worker,
            WorkerConfig(agent=self._config, scheduler=scheduler, name=name, lease=self._lease),
        )
        self._configured = True
        if scheduler != self._scheduler:
            await self._kill("its scheduler is another one by now")
        if self._paused:
            self._send(Pause(paused=True))

    def _send(self, message: msgspec.Struct) -> None:
        if self._worker is not None and self._configured:
            assert self._worker.stdin is not None
            # Not waited for: a worker that does not read is killed for its silence.
            self._worker.stdin.write(encode_message(message))

    async def _listen(self, worker: Process) -> None:
        """Take in what the worker tells until it closes its stdout."""
        async for line in lines_of(worker.stdout):
            try:
                event = msgspec.json.decode(line, type=Event)
            except msgspec.MsgspecError:
                # Something that is imported there prints: stdout is the driver's line, not its.
                write_away(line)
                continue
            self._heard, self._spoke = time.monotonic(), True
            if event.kind == "slots":
                self.slots = event.slots
            else:
                self._ready = self._ready or event.kind == "worker"
                self._outbox.tell_line(line + b"\n")

    async def _watch(self, worker: Process) -> None:
        """Kill a worker that has been silent for long: stopped, or busy with nothing but itself."""
        patience = max(_SILENCE, self._config.lease)
        silent = 0
        while worker.returncode is None:
            await asyncio.sleep(_LOOK_EVERY)
            silence = time.monotonic() - self._heard
            # Twice: it may be us who stood still, and what it told is waiting to be read.
            silent = silent + 1 if silence > (patience if self._spoke else _START_PATIENCE) else 0
            if silent > 1:
                await self._kill(f"silent for {silence:.0f} s")
                return

    async def _kill(self, why: str) -> None:
        worker = self._worker
        if worker is not None and worker.returncode is None:
            self._why = f"killed: {why}"
            await asyncio.to_thread(_fell, worker.pid)
            with suppress(ProcessLookupError):
                worker.kill()


def _fell(pid: int) -> None:
    """Kill all below a process, which stands still meanwhile: it neither starts anything nor tells
    anybody of deaths that are nobody's fault.
    """
    process_tree.send([pid], signal.SIGSTOP)
    deadline = time.monotonic() + _FELL_PATIENCE
    while time.monotonic() < deadline:
        below = process_tree.descendants(pid)
        alive = [one for one in below if process_tree.state(one) not in "ZX"]
        if not alive:
            return
        process_tree.send(alive, signal.SIGKILL)
        time.sleep(0.005)
