"""The manager's unix socket: takes requests of the commands and of the runs that are attached.

Who can connect is decided by the folder that it is in, which is ours alone. Each connection may
have many requests at work; what fails is answered, and ends nothing else.
"""

import asyncio
import inspect
import logging
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncssh
import msgspec
from msgspec import Struct

from dask_runner.cluster import control
from dask_runner.cluster.control import Reply
from dask_runner.cluster.manager import copying
from dask_runner.cluster.manager.manager import AttachedRun, Manager
from dask_runner.cluster.manager.shares import Wish
from dask_runner.errors import ClusterError, RunnerError
from dask_runner.files import text_to_path
from dask_runner.hostfile import Host, load_hosts, overlaid, parse_hosts

_log = logging.getLogger(__name__)

# Changes come in bursts when hosts come up; a view for each of them would be waste.
_PUSH_EVERY = 0.05


class ControlServer:
    """Serves `manager` on a listening socket; `on_down` is called when somebody wants its end."""

    def __init__(self, manager: Manager, on_down: Callable[[str], None]) -> None:
        self._manager = manager
        self._on_down = on_down
        self._waiting_for_end: list[tuple[asyncio.StreamWriter, int]] = []

    async def start(self, listener: socket.socket) -> asyncio.AbstractServer:
        listener.setblocking(False)
        return await asyncio.start_unix_server(self._serve, sock=listener, limit=control.LONGEST)

    async def say_farewell(self, farewell: control.Farewell) -> None:
        """Answer those who asked for the end."""
        for writer, number in self._waiting_for_end:
            await _send(writer, Reply(id=number, value=msgspec.to_builtins(farewell)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(self._manager, writer)
        try:
            while line := await reader.readline():
                request = control.decode_request(line)
                if isinstance(request, control.Down):
                    self._waiting_for_end.append((writer, request.id))
                    self._on_down("`dask-runner down`")
                else:
                    connection.take(request)
        except (ConnectionError, msgspec.DecodeError, ValueError) as error:
            _log.info("control connection: %s", error)
        finally:
            connection.close()
            if all(writer is not waiting for waiting, _ in self._waiting_for_end):
                writer.close()


class _Connection:
    """One client: its requests at work, and the run it is the driver of."""

    def __init__(self, manager: Manager, writer: asyncio.StreamWriter) -> None:
        self._manager = manager
        self._writer = writer
        self._run: AttachedRun | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._answers: dict[type[Any], Callable[[Any], Any]] = {
            control.GetStatus: self._status,
            control.Attach: self._attach,
            control.Ask: self._ask,
            control.Copy: self._copy,
            control.Add: self._add,
            control.Drain: self._drain,
        }

    def take(self, request: control.Request) -> None:
        """Act on a request; those with an answer get it from a task of their own."""
        manager, run = self._manager, self._run
        if isinstance(request, control.CancelRun):
            if run is not None:
                manager.cancel(run)
        elif isinstance(request, control.Demand):
            wish = Wish(slots=request.slots, hosts=frozenset(request.hosts))
            if run is not None and run.wish != wish:
                run.wish = wish
                manager.changed()
        elif isinstance(request, control.Announce):
            if run is not None:
                manager.announce(run, request.host, request.text)
        else:
            self._begin(self._answer(request))

    def close(self) -> None:
        if self._run is not None:
            self._manager.detach(self._run)
        for task in self._tasks:
            task.cancel()

    def _begin(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, request: Any) -> None:
        try:
            value = await self._value(request)
            reply = Reply(id=request.id, value=value)
        except RunnerError as error:
            reply = Reply.failed(request.id, error)
        except (OSError, asyncssh.Error) as error:
            reply = Reply.failed(request.id, ClusterError(f"{type(error).__name__}: {error}"))
        await _send(self._writer, reply)

    async def _value(self, request: Any) -> Any:
        answer = self._answers[type(request)](request)
        return await answer if inspect.isawaitable(answer) else answer

    def _status(self, _request: control.GetStatus) -> Any:
        return msgspec.to_builtins(self._manager.status())

    async def _ask(self, request: control.Ask) -> Any:
        return await self._manager.ask(request.host, request.operation, request.arguments)

    async def _copy(self, request: control.Copy) -> None:
        here, link = text_to_path(request.here), self._manager.link(request.host)
        if request.fetch:
            await copying.fetch(link, request.there, here, limit=request.limit)
        else:
            await copying.push(link, here, request.there)

    def _drain(self, request: control.Drain) -> None:
        self._manager.drain(request.host)

    def _attach(self, request: control.Attach) -> str:
        if self._run is not None:
            raise ClusterError("this connection has a run already")
        run = self._run = AttachedRun(request.run, request.holder, request.pid)
        self._manager.attach(run)
        self._begin(self._push(run))
        return self._manager.site.cluster

    async def _add(self, request: control.Add) -> list[str]:
        """What is said now goes before what the hostfile says now, and that before what it said."""
        hosts = parse_hosts(request.hosts, "hosts add")
        known = {link.name.lower(): link.host for link in self._manager.links()}
        path = self._manager.site.settings.cluster.hostfile
        known |= await asyncio.to_thread(_hosts_in, path)
        return self._manager.add([overlaid(known.get(h.address.lower()), h) for h in hosts])

    async def _push(self, run: AttachedRun) -> None:
        """Send a view whenever something changed."""
        while True:
            await run.changed.wait()
            run.changed.clear()
            await _send(self._writer, self._manager.view(run))
            await asyncio.sleep(_PUSH_EVERY)


def _hosts_in(path: str) -> dict[str, Host]:
    """Raises UsageError for a hostfile that cannot be used; one that is gone says nothing."""
    if not Path(path).exists():
        return {}
    return {host.address.lower(): host for host in load_hosts(Path(path))}


async def _send(writer: asyncio.StreamWriter, message: Struct) -> None:
    try:
        writer.write(control.encode_line(message))
        await writer.drain()
    except ConnectionError:
        # It is gone; the reader of this connection learns that too.
        return
