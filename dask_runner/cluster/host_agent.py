"""The agent on a host: `python -I -m dask_runner.cluster.host_agent`.

Starts the Dask worker (and the scheduler, on the one host that has it), starts a new worker when
one dies, and leaves nothing alive: it is the subreaper of everything below it, and when stdin
ends, which is the driver's end or its wish, it kills until its tree is empty.
"""

import asyncio
import os
import secrets
import shutil
import signal
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from pathlib import Path

import msgspec

from dask_runner.cluster.channel import (
    AgentConfig,
    Event,
    WorkerConfig,
    encode_message,
    read_message,
    send_event,
    send_line,
)
from dask_runner.execution.process_tree import become_subreaper, kill_until_empty
from dask_runner.files import path_to_text

_BACKOFF = (0.1, 30.0)
# So many workers in a row may end before they are ready; then no new one will do better.
_VAIN_STARTS = 5


class Agent:
    """Supervises the processes of one host."""

    def __init__(self, config: AgentConfig) -> None:
        self._config = config
        self._scheduler: Process | None = None
        self._worker: Process | None = None

    async def run(self) -> None:
        """Supervise until stdin ends or the scheduler dies."""
        ended = asyncio.ensure_future(_stdin_end())
        work = asyncio.ensure_future(self._supervise())
        await asyncio.wait({ended, work}, return_when=asyncio.FIRST_COMPLETED)
        if work.done() and work.exception():
            send_event(Event(kind="error", text=str(work.exception())))
        work.cancel()
        for process in (self._worker, self._scheduler):
            if process is not None and process.returncode is None:
                process.kill()
                await process.wait()

    async def _supervise(self) -> None:
        address = self._config.scheduler
        # Started first, so that its imports go on while the scheduler starts.
        self._worker = worker = await _spawn("worker_process")
        if not address:
            self._scheduler = await _spawn("scheduler_process")
            await _send(self._scheduler, self._config)
            address = await _wait_address(self._scheduler)
            asyncio.ensure_future(self._watch_scheduler(self._scheduler))  # noqa: RUF006  (ends us)
        delay, vain = _BACKOFF[0], 0
        while True:
            name = f"{self._config.host}-{secrets.token_hex(4)}"
            await _send(worker, WorkerConfig(agent=self._config, scheduler=address, name=name))
            vain += 1
            if await _forward(worker):
                delay, vain = _BACKOFF[0], 0
            code = await worker.wait()
            self._sweep()
            if vain == _VAIN_STARTS:
                raise RuntimeError(
                    f"{vain} workers in a row ended before they were ready, the last with "
                    f"{_describe(code)}; their own words are above"
                )
            send_event(Event(kind="worker-died", pid=worker.pid, text=_describe(code)))
            await asyncio.sleep(delay)
            delay = min(delay * 2, _BACKOFF[1])
            self._worker = worker = await _spawn("worker_process")

    async def _watch_scheduler(self, scheduler: Process) -> None:
        code = await scheduler.wait()
        send_event(Event(kind="scheduler-died", pid=scheduler.pid, text=_describe(code)))
        # Its state is gone with it, and no worker can return to another one.
        _end(1)

    def _sweep(self) -> None:
        """Kill what a dead worker left: its zygote, slots and batches."""
        keep = {self._scheduler.pid} if self._scheduler else set()
        kill_until_empty(keep=keep)


async def _stdin_end() -> None:
    loop = asyncio.get_running_loop()
    ended = loop.create_future()

    def read() -> None:
        if not os.read(0, 4096) and not ended.done():
            ended.set_result(None)

    loop.add_reader(0, read)
    await ended


async def _spawn(module: str) -> Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-m", f"dask_runner.cluster.{module}", stdin=PIPE, stdout=PIPE
    )


async def _send(process: Process, message: msgspec.Struct) -> None:
    assert process.stdin is not None
    try:
        process.stdin.write(encode_message(message))
        await process.stdin.drain()
    except ConnectionError:
        # It died at once; whoever waits for it learns that with its exit code.
        return


async def _wait_address(scheduler: Process) -> str:
    assert scheduler.stdout is not None
    line = await scheduler.stdout.readline()
    if not line:
        code = await scheduler.wait()
        raise RuntimeError(f"the scheduler did not start ({_describe(code)})")
    event = msgspec.json.decode(line, type=Event)
    send_event(event)
    return event.address


async def _forward(process: Process) -> bool:
    """Pass on what a child tells until it closes its stdout; True if it told anything."""
    assert process.stdout is not None
    told = False
    while line := await process.stdout.readline():
        send_line(line)
        told = True
    return told


def _describe(code: int) -> str:
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}"


def _end(code: int) -> None:
    """Kill everything below, remove the private folder, exit."""
    kill_until_empty()
    if _private:
        shutil.rmtree(_private[0], ignore_errors=True)
    os._exit(code)


# The agent's one private folder, once it is made.
_private: list[str] = []


def _private_folder(scratch: str) -> str:
    """Make the folder for every temporary file of the host's processes: nobody else can plant a
    module there, and nothing stays behind.
    """
    base = scratch or tempfile.gettempdir()
    Path(base).mkdir(parents=True, exist_ok=True)
    _private.append(tempfile.mkdtemp(prefix="dask-runner-", dir=base))
    return _private[0]


def main() -> None:
    """Read the configuration, then supervise."""
    config = read_message(AgentConfig)
    os.set_blocking(0, True)
    send_line(config.nonce.encode() + b"\n")
    become_subreaper()
    for number in (signal.SIGINT, signal.SIGHUP):
        # The terminal's Ctrl-C is the driver's to act on; ours is the end of stdin.
        signal.signal(number, signal.SIG_IGN)
    if sys.version_info < (3, 12):
        # Python 3.11 waits for children in threads, which outlive the loop and complain.
        asyncio.set_child_watcher(asyncio.PidfdChildWatcher())
    code = 0
    try:
        os.environ["TMPDIR"] = _private_folder(config.scratch)
        send_event(Event(kind="folder", text=path_to_text(_private[0])))
        asyncio.run(Agent(config).run())
    except Exception as error:  # noqa: BLE001  (whatever it is, the driver must hear of it)
        send_event(Event(kind="error", text=f"{type(error).__name__}: {error}"))
        code = 1
    _end(code)


if __name__ == "__main__":
    main()
