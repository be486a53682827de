"""Hosts as one: a command on all of them, their processes of ours, what earlier clusters left.

All hosts at once; what goes wrong with one of them is in its answer and stops no other. Refuses to
print: output goes to a callback, answers are returned.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct

from dask_runner.cluster import session
from dask_runner.cluster.fleet.script import ask_script, run_script
from dask_runner.cluster.ssh.connector import Connector, is_local
from dask_runner.errors import EXIT_CLUSTER, EXIT_DONE, ClusterError, RunnerError
from dask_runner.hostfile import Host

# As timeout(1) has it.
EXIT_TIMEOUT: Final = 124
# How long a program may take to end after SIGTERM, and then after SIGKILL, in s.
_GRACE: Final = 5.0
_PATIENCE: Final = 5.0

T = TypeVar("T")

# Host, True for its stderr, bytes.
Output = Callable[[str, bool, bytes], None]


class Ending(Struct, frozen=True, kw_only=True):
    """How a command ended on a host: its exit code, and why if it was not the command's own."""

    host: str
    code: int
    reason: str = ""
    hint: str = ""


class HostProcess(Struct, frozen=True, kw_only=True):
    """A process of ours on a host. `what` is agent, worker, scheduler, zygote, slot, batch or
    other; `up` says that its cluster is; cpu and age in s, rss in bytes; `batch` and `attempt` are
    -1 where there is none.
    """

    pid: int
    parent: int
    cluster: str
    up: bool
    run: str
    batch: int
    attempt: int
    what: str
    state: str
    cpu: float
    rss: int
    age: float
    command: str


class LeftFolder(Struct, frozen=True, kw_only=True):
    """A private folder of a dead agent; `reason` is why it was not removed."""

    path: str
    bytes: int = 0
    reason: str = ""


class Found(Struct, frozen=True, kw_only=True):
    """What a host has answered; `failure` is why it has not, with a `hint`."""

    host: str
    processes: tuple[HostProcess, ...] = ()
    failure: str = ""
    hint: str = ""


class Killed(Struct, frozen=True, kw_only=True):
    """What was ended on a host, and what could not be. A sweep also tells which folders it has
    removed and kept, and the clusters it left alone because they are `up`.
    """

    host: str
    ended: tuple[HostProcess, ...] = ()
    survivors: tuple[HostProcess, ...] = ()
    folders: tuple[LeftFolder, ...] = ()
    kept: tuple[LeftFolder, ...] = ()
    up: tuple[str, ...] = ()
    failure: str = ""
    hint: str = ""

    @property
    def good(self) -> bool:
        return not self.failure and not self.survivors


class Filter(Struct, frozen=True, kw_only=True):
    """Which processes: of a cluster (its marker, or the name that `up` gave it), of a run."""

    cluster: str = ""
    run: str = ""


async def on_all(
    hosts: Sequence[Host],
    action: Callable[[Host], Awaitable[T]],
    failed: Callable[[Host, RunnerError], T],
) -> list[T]:
    """The results of `action` for all hosts at once, in their order; `failed` makes one of an
    error. What else is raised ends the others first.
    """

    async def one(host: Host) -> T:
        try:
            return await action(host)
        except RunnerError as error:
            return failed(host, error)

    tasks = [asyncio.ensure_future(one(host)) for host in hosts]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        # Each has to end what it has started on its host.
        await asyncio.gather(*tasks, return_exceptions=True)


async def execute(
    hosts: Sequence[Host],
    connector: Connector,
    words: Sequence[str],
    *,
    output: Output,
    shell: bool = False,
    data: bytes | None = None,
    timeout: float = 0.0,  # noqa: ASYNC109  (of each host, with an exit code of its own)
) -> list[Ending]:
    """Run a command on all hosts. `words` are given to it exactly; with `shell` the only one is a
    line for the login shell there. `data` is what it gets on stdin; `timeout` in s (0: none).
    """
    request = {
        "words": [_utf8(word) for word in words],
        "shell": shell,
        "input": data is not None,
        "grace": _GRACE,
    }
    return await _stream(
        hosts, connector, "exec_script", request, output=output, data=data, patience=timeout
    )


async def tail_file(
    hosts: Sequence[Host],
    connector: Connector,
    path: str,
    *,
    output: Output,
    lines: int,
    follow: bool,
) -> list[Ending]:
    """The last lines of a file of each host, and what comes to it."""
    request = {"path": _utf8(path), "lines": lines, "follow": follow}
    return await _stream(hosts, connector, "tail_script", request, output=output)


def agent_logs(hosts: Sequence[Host], cluster: str) -> dict[str, Path]:
    """Where the manager of the cluster that is up (of that name, if it is not empty) writes what
    its agents and workers say, for those of the hosts that it has. Raises ClusterError.
    """
    folder = session.find_session(cluster)
    if folder is None:
        raise ClusterError("no cluster is up", hint="`dask-runner up` starts one")
    logs = {host.address: folder.host_log(host.address) for host in hosts}
    return {host: path for host, path in logs.items() if path.exists()}


async def tail_logs(
    logs: Mapping[str, Path], connector: Connector, *, output: Output, lines: int, follow: bool
) -> list[Ending]:
    """As `tail_file`, of files on this machine, each for a host."""

    async def one(host: str, path: Path) -> list[Ending]:
        return await tail_file(
            [Host(address="localhost")],
            connector,
            os.fspath(path),
            output=lambda _, is_error, block: output(host, is_error, block),
            lines=lines,
            follow=follow,
        )

    ends = await asyncio.gather(*(one(host, path) for host, path in logs.items()))
    return [ending for of_host in ends for ending in of_host]


async def tail_attempt(
    hosts: Sequence[Host],
    connector: Connector,
    run: str,
    batch: int,
    *,
    output: Output,
    lines: int,
    follow: bool,
) -> list[Ending]:
    """The log of the attempt at a batch that is running, wherever that is."""
    request = {"run": run, "batch": batch, "lines": lines, "follow": follow}
    return await _stream(hosts, connector, "tail_script", request, output=output)


async def _stream(
    hosts: Sequence[Host],
    connector: Connector,
    script: str,
    request: dict[str, Any],
    *,
    output: Output,
    data: bytes | None = None,
    patience: float = 0.0,
) -> list[Ending]:
    async def one(host: Host) -> Ending:
        def sink(is_error: bool, block: bytes) -> None:
            output(host.address, is_error, block)

        limit = asyncio.timeout(patience or None)
        try:
            async with limit:
                code = await run_script(host, connector, script, request, sink=sink, data=data)
        except TimeoutError:
            if not limit.expired():
                raise
            reason = f"{host.address}: ended after {patience:g} s"
            return Ending(host=host.address, code=EXIT_TIMEOUT, reason=reason)
        return Ending(host=host.address, code=code)

    return await on_all(hosts, one, _not_run)


def _not_run(host: Host, error: RunnerError) -> Ending:
    return Ending(host=host.address, code=EXIT_CLUSTER, reason=error.message, hint=error.hint)


def worst(endings: Sequence[Ending]) -> int:
    """The exit code for all hosts."""
    return max((ending.code for ending in endings), default=EXIT_DONE)


async def processes(
    hosts: Sequence[Host], connector: Connector, wanted: Filter | None = None
) -> list[Found]:
    """The processes of our clusters on each host."""

    async def one(host: Host) -> Found:
        return await _ask(host, connector, "ps", wanted or Filter(), Found)

    return await on_all(hosts, one, lambda host, error: _silent(host, error, Found))


async def kill(hosts: Sequence[Host], connector: Connector, wanted: Filter) -> list[Killed]:
    """End the processes of ours that are wanted, and all below them: SIGTERM, then SIGKILL."""

    async def one(host: Host) -> Killed:
        return await _ask(host, connector, "kill", wanted, Killed)

    return await on_all(hosts, one, lambda host, error: _silent(host, error, Killed))


async def sweep_hosts(
    hosts: Sequence[Host], connector: Connector, *, scratch: str = "", everything: bool = False
) -> list[Killed]:
    """Find what earlier clusters left on the hosts and on this machine: end the processes, remove
    the private folders of their agents (in `scratch`, or what a host's line says), and here the
    session folders of dead managers. With `everything` also the clusters that are up.
    """
    here = next((host for host in hosts if is_local(host)), Host(address="localhost"))
    everywhere = [*hosts] if here in hosts else [*hosts, here]

    async def one(host: Host) -> Killed:
        folders = [_utf8(folder) for folder in (host.scratch, scratch) if folder]
        arguments = {"everything": everything, "scratch": folders, "name": host.address}
        killed = await _ask(host, connector, "sweep", Filter(), Killed, **arguments)
        if host is here:
            # Only now: a manager is among the living until its agents have been judged.
            stale = await asyncio.to_thread(_remove_sessions)
            killed = msgspec.structs.replace(killed, folders=(*killed.folders, *stale))
        return killed

    return await on_all(everywhere, one, lambda host, error: _silent(host, error, Killed))


def _remove_sessions() -> list[LeftFolder]:
    return [LeftFolder(path=str(path)) for path in session.remove_dead()]


async def _ask(
    host: Host,
    connector: Connector,
    operation: str,
    wanted: Filter,
    kind: type[T],
    **arguments: Any,
) -> T:
    request = {
        "operation": operation,
        "living": await asyncio.to_thread(_living),
        "grace": _GRACE,
        "patience": _PATIENCE,
        **msgspec.to_builtins(wanted),
        **arguments,
    }
    answer = await ask_script(host, connector, "processes_script", request)
    return msgspec.convert({"host": host.address, **answer}, kind)


def _living() -> list[str]:
    """The markers of the clusters that are up from this machine."""
    found = []
    for folder in session.live_sessions():
        with suppress(ClusterError):  # it has ended meanwhile
            found.append(folder.session().cluster)
    return found


def _silent(host: Host, error: RunnerError, kind: type[T]) -> T:
    return msgspec.convert(
        {"host": host.address, "failure": error.message, "hint": error.hint}, kind
    )


def _utf8(word: str) -> str:
    """A word of our command line, in a form that does not depend on our locale."""
    return word.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
