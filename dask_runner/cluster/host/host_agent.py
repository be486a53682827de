"""The agent on a host: `python -I -m dask_runner.cluster.host.host_agent`.

Has the Dask worker (and the scheduler, on the one machine that has it) as its children, does what
the driver asks, and leaves nothing alive: it is the subreaper of everything below it, and when
stdin ends, which is the driver's end or its wish, or when the lease does, it kills until its tree
is empty. Exit code 0 says that it is.
"""

import asyncio
import logging
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import structs

from dask_runner.cluster.channel import (
    HEARTBEATS_PER_LEASE,
    AgentConfig,
    Call,
    Cancel,
    Command,
    Echo,
    Event,
    Restart,
    Vitals,
    follow_commands,
    read_message,
    send_line,
)
from dask_runner.cluster.host import leftovers
from dask_runner.cluster.host.children import Hands
from dask_runner.cluster.host.operations import OPERATIONS, Context
from dask_runner.cluster.host.outbox import AwayHandler, Outbox, write_away
from dask_runner.cluster.host.scheduler_keeper import SchedulerKeeper
from dask_runner.cluster.host.vitals import Physician
from dask_runner.cluster.host.worker_keeper import WorkerKeeper
from dask_runner.errors import RunnerError
from dask_runner.execution import marker
from dask_runner.execution.lease import Lease, now
from dask_runner.execution.process_tree import become_subreaper, kill_until_empty
from dask_runner.execution.slot import remove_tree
from dask_runner.files import path_to_text, text_to_path

# Operations may wait for a file server; others go on meanwhile.
_OPERATIONS_AT_A_TIME: Final = 8
_EXAMINE_EVERY: Final = 2.0
# An examination that takes longer waits for a file server.
_EXAMINE_PATIENCE: Final = 20.0
_LEASE_LOOK: Final = 0.2
_REMOVE_PATIENCE: Final = 10.0
_LAST_WORDS: Final = 0.5


class Agent:
    """The processes of one host, and the line to the driver."""

    def __init__(self, config: AgentConfig, *, lease: Lease | None, folder: Path) -> None:
        self._config = config
        self._lease = lease
        self._folder = folder
        self._outbox = Outbox()
        self._hands = Hands()
        self._worker = WorkerKeeper(
            config, hands=self._hands, outbox=self._outbox, lease=lease.path if lease else ""
        )
        self._operations = ThreadPoolExecutor(_OPERATIONS_AT_A_TIME, thread_name_prefix="ask")
        self._context = Context(config=config, folder=folder)
        self._vitals = Vitals(reading=0.0)
        self._restarts: set[asyncio.Future[None]] = set()

    async def run(self) -> None:
        """Until stdin ends, or what it keeps cannot be kept; then the process ends."""
        loop = asyncio.get_running_loop()
        ended = loop.create_future()
        follow_commands(
            lambda command: self._receive(loop, command),
            lambda: _in(loop, _finish, ended),
        )
        loop.add_signal_handler(signal.SIGTERM, _finish, ended)
        work = [asyncio.ensure_future(one) for one in self._work()]
        self._outbox.tell(Event(kind="folder", text=path_to_text(self._folder)))
        await asyncio.wait({ended, *work}, return_when=asyncio.FIRST_COMPLETED)
        for one in work:
            if one.done() and (error := one.exception()):
                self._outbox.tell(Event(kind="error", text=str(error)))
        self._outbox.flush(_LAST_WORDS)
        end(self._folder)

    def _work(self) -> list[Any]:
        config = self._config
        work: list[Any] = []
        if config.slots:
            work.append(self._worker.keep())
        if not config.scheduler:
            scheduler = SchedulerKeeper(
                config,
                hands=self._hands,
                outbox=self._outbox,
                on_address=self._restart_worker,
            )
            work.append(scheduler.keep())
        if self._lease is not None:
            threading.Thread(target=self._watch_lease, name="lease", daemon=True).start()
            work += [self._beat(), self._examine()]
        return work

    # ------------------------------------------------------------------ what the driver asks

    def _receive(self, loop: asyncio.AbstractEventLoop, command: Command) -> None:
        """In the thread that reads stdin: the lease waits for nothing else."""
        if not isinstance(command, Echo):
            _in(loop, self._obey, command)
        elif self._lease is not None:
            self._lease.renew(command.reading)

    def _obey(self, command: Command) -> None:
        if isinstance(command, Cancel):
            self._worker.cancel(command.driver)
        elif isinstance(command, Restart):
            self._restart_worker(command.scheduler)
        elif isinstance(command, Call):
            self._operations.submit(self._answer, command)

    def _restart_worker(self, scheduler: str) -> None:
        # Kept until it is done: the loop itself holds no task that waits.
        task = asyncio.ensure_future(self._worker.restart(scheduler))
        self._restarts.add(task)
        task.add_done_callback(self._restarts.discard)

    def _answer(self, call: Call) -> None:
        try:
            operation = OPERATIONS.get(call.operation)
            if operation is None:
                raise RunnerError(f"the host knows no operation {call.operation!r}")  # noqa: TRY301
            value = operation(self._context, call.arguments)
            self._outbox.tell(Event(kind="answer", id=call.id, value=value))
        except RunnerError as error:
            self._outbox.tell(Event(kind="answer", id=call.id, text=error.message))
        except Exception as error:  # noqa: BLE001  (whatever it is, somebody waits for an answer)
            text = f"{type(error).__name__}: {error}"
            self._outbox.tell(Event(kind="answer", id=call.id, text=text))

    # ------------------------------------------------------------------ lease and heartbeats

    async def _beat(self) -> None:
        while True:
            vitals = structs.replace(self._vitals, reading=now(), slots=self._worker.slots)
            self._outbox.beat(Event(kind="heartbeat", vitals=vitals))
            await asyncio.sleep(self._config.lease / HEARTBEATS_PER_LEASE)

    async def _examine(self) -> None:
        """Keep the vitals fresh, and pause batches for the host's users."""
        physician = Physician(self._config, self._folder)
        # Its own thread: it must find no queue of operations before it.
        threads = ThreadPoolExecutor(1, thread_name_prefix="vitals")
        loop = asyncio.get_running_loop()
        while True:
            looking = loop.run_in_executor(threads, physician.examine, self._worker.slots)
            done, _ = await asyncio.wait({looking}, timeout=_EXAMINE_PATIENCE)
            if not done:
                text = f"its scratch folder does not answer for {_EXAMINE_PATIENCE:.0f} s"
                self._vitals = structs.replace(self._vitals, refusal=text)
            self._vitals = await looking
            self._worker.pause(bool(self._vitals.paused))
            await asyncio.sleep(min(_EXAMINE_EVERY, self._config.lease / HEARTBEATS_PER_LEASE))

    def _watch_lease(self) -> None:
        """In a thread of its own, so that nothing the agent waits for can prolong the lease."""
        assert self._lease is not None
        while left := self._lease.left():
            time.sleep(min(left, _LEASE_LOOK))
        text = f"no word from the driver for {self._config.lease:g} s"
        self._outbox.tell(Event(kind="error", text=text))
        end(self._folder)


def _in(loop: asyncio.AbstractEventLoop, call: Callable[[Any], object], value: object) -> None:
    """From another thread; a loop that is closed has ended for another reason already."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(call, value)


def _finish(ended: asyncio.Future[None]) -> None:
    if not ended.done():
        ended.set_result(None)


_ending = threading.Lock()


def end(folder: Path | None) -> None:
    """Kill everything below, remove the private folder, exit; in the first thread that wants it."""
    with _ending:
        _, immortal = kill_until_empty()
        if folder is not None:
            # A file server that is gone must not keep us.
            remover = threading.Thread(target=remove_tree, args=(folder,), daemon=True)
            remover.start()
            remover.join(_REMOVE_PATIENCE)
        os._exit(1 if immortal else 0)


def _private_folder(config: AgentConfig) -> Path:
    """Make the folder for every temporary file of the host's processes: nobody else can plant a
    module there, and nothing stays behind.
    """
    base = text_to_path(config.scratch) if config.scratch else Path(tempfile.gettempdir())
    base.mkdir(parents=True, exist_ok=True)
    prefix = leftovers.folder_prefix(config.cluster, config.host)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=base))
    leftovers.remove_folders(base, config.cluster, config.host, keep=folder)
    return folder


def _kill_leftovers(config: AgentConfig) -> None:
    immortal = leftovers.kill_leftovers(config.cluster, config.host)
    if immortal:
        pids = ", ".join(map(str, immortal))
        write_away(f"processes {pids} of an earlier agent cannot be killed".encode())


def main() -> None:
    """Read the configuration, clear the place, then supervise."""
    config = read_message(AgentConfig)
    send_line(config.nonce.encode() + b"\n")
    logging.basicConfig(handlers=[AwayHandler()])
    become_subreaper()
    for number in (signal.SIGINT, signal.SIGHUP):
        # The terminal's Ctrl-C is the driver's to act on; ours is the end of stdin.
        signal.signal(number, signal.SIG_IGN)
    if sys.version_info < (3, 12):
        # Python 3.11 waits for children in threads, which outlive the loop and complain.
        asyncio.set_child_watcher(asyncio.PidfdChildWatcher())
    # For whatever is started from here, however we were started ourselves.
    os.environ.update({marker.CLUSTER: config.cluster, marker.HOST: config.host})
    folder = None
    try:
        _kill_leftovers(config)
        folder = _private_folder(config)
        os.environ["TMPDIR"] = str(folder)
        lease = Lease(config.lease) if config.lease else None
        asyncio.run(Agent(config, lease=lease, folder=folder).run())
    except Exception as error:  # noqa: BLE001  (whatever it is, the driver must hear of it)
        event = Event(kind="error", text=f"{type(error).__name__}: {error}")
        send_line(msgspec.json.encode(event) + b"\n")
    end(folder)


if __name__ == "__main__":
    main()
