"""From a name and a port to a socket on which an SSH server has greeted: each thing that can go
wrong on the way has its own message.
"""

import asyncio
import contextlib
import errno
import socket
import threading
from collections.abc import Sequence
from typing import Any, Final

from dask_runner.cluster.ssh.errors import ConnectError, DroppedError

# Between attempts at the addresses of one name: a dead IPv6 route costs no more than this.
_STAGGER: Final = 0.25
_GREETING: Final = 255

Address = tuple[Any, ...]
Found = tuple[socket.AddressFamily, Address]


async def dial(
    host: str,
    name: str,
    port: int,
    *,
    timeout: float,  # noqa: ASYNC109  (one deadline for several steps, each with its own message)
    family: int = 0,
    local: tuple[str, int] | None = None,
) -> socket.socket:
    """A socket connected to an SSH server that has said its name. `host` is for messages.

    Raises ConnectError for what waiting may heal, DroppedError if the server hung up at once.
    """
    deadline = asyncio.get_running_loop().time() + timeout
    addresses = await resolve(host, name, port, timeout=timeout, family=family)
    where = f"port {port} of {name}" + _shown(name, addresses)
    try:
        async with asyncio.timeout_at(deadline):
            connection = await _first(addresses, local)
    except TimeoutError:
        raise ConnectError(
            f"{host}: no answer from {where} within {timeout:g} s",
            hint=f"is it switched on, and does a firewall let us through? try: ping {name}",
            stage="port",
        ) from None
    except OSError as error:
        raise _refused(host, where, error) from error
    try:
        await _await_greeting(connection, host, where, deadline, timeout)
    except BaseException:
        connection.close()
        raise
    return connection


async def resolve(
    host: str,
    name: str,
    port: int,
    *,
    timeout: float,  # noqa: ASYNC109  (the thread cannot be cancelled; the wait for it can)
    family: int = 0,
) -> list[Found]:
    """The addresses of a name. Raises ConnectError.

    In a thread of its own, which is left behind if the name server is silent: a pool's would be
    used up by a few such names, and the end of the program would wait for them.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[list[Found]] = loop.create_future()

    def tell(found: list[Found] | OSError) -> None:
        if answer.done():
            return
        if isinstance(found, OSError):
            answer.set_exception(found)
        else:
            answer.set_result(found)

    def ask() -> None:
        result: list[Found] | OSError
        try:
            found = socket.getaddrinfo(name, port, socket.AddressFamily(family), type=_STREAM)
            result = [(entry[0], entry[4]) for entry in found]
        except UnicodeError as error:
            result = socket.gaierror(socket.EAI_NONAME, str(error))
        except OSError as error:
            result = error
        with contextlib.suppress(RuntimeError):  # nobody waits any more: the loop is closed
            loop.call_soon_threadsafe(tell, result)

    threading.Thread(target=ask, name=f"resolve {name}", daemon=True).start()
    try:
        async with asyncio.timeout(timeout):
            return await answer
    except TimeoutError:
        raise ConnectError(
            f"{host}: the name {name} was not resolved within {timeout:g} s",
            hint=f"the name server does not answer; try: getent hosts {name}",
            stage="name",
        ) from None
    except OSError as error:
        raise ConnectError(
            f"{host}: the name {name} cannot be resolved: {error.strerror}",
            hint="is it spelt right? a short name may need its domain, or HostName in "
            f"~/.ssh/config; try: getent hosts {name}",
            stage="name",
        ) from error


_STREAM = socket.SOCK_STREAM


async def _first(addresses: Sequence[Found], local: tuple[str, int] | None) -> socket.socket:
    """The first of the addresses that answers; if none does, the first one's error."""
    attempts = [
        asyncio.ensure_future(_connect(found, local, delay=_STAGGER * place))
        for place, found in enumerate(addresses)
    ]
    won: socket.socket | None = None
    try:
        for done in asyncio.as_completed(attempts):
            with contextlib.suppress(OSError):
                won = await done
                return won
        return attempts[0].result()
    finally:
        for attempt in attempts:
            attempt.cancel()
        for result in await asyncio.gather(*attempts, return_exceptions=True):
            if isinstance(result, socket.socket) and result is not won:
                result.close()


async def _connect(found: Found, local: tuple[str, int] | None, *, delay: float) -> socket.socket:
    await asyncio.sleep(delay)
    family, address = found
    connection = socket.socket(family, socket.SOCK_STREAM)
    try:
        connection.setblocking(False)
        if local is not None:
            connection.bind(local)
        await asyncio.get_running_loop().sock_connect(connection, address)
    except BaseException:
        connection.close()
        raise
    return connection


async def _await_greeting(
    connection: socket.socket, host: str, where: str, deadline: float, patience: float
) -> None:
    """Wait until the server speaks, and leave its words unread.

    Only then is a handshake begun, so that silent servers do not use up those that may go on at
    the same time.
    """
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(connection, readable.set)
    try:
        async with asyncio.timeout_at(deadline):
            await readable.wait()
            words = connection.recv(_GREETING, socket.MSG_PEEK)
    except TimeoutError:
        raise ConnectError(
            f"{host}: {where} accepts connections but says nothing (waited {patience:g} s)",
            hint="the host or its sshd hangs; look at it there, or leave it out",
            stage="port",
        ) from None
    except OSError as error:
        raise DroppedError(str(error.strerror)) from error
    finally:
        loop.remove_reader(connection)
    if not words:
        raise DroppedError("")
    first = words.split(b"\n", 1)[0].strip().decode(errors="replace")
    if any(sign in first for sign in ("MaxStartups", "Not allowed at this time")):
        raise DroppedError(first)


def _shown(name: str, addresses: Sequence[Found]) -> str:
    """The addresses, where they say more than the name."""
    known = dict.fromkeys(str(address[0]) for _, address in addresses)
    return "" if list(known) == [name] else f" ({', '.join(known)})"


def _refused(host: str, where: str, error: OSError) -> ConnectError:
    if error.errno == errno.ECONNREFUSED:
        return ConnectError(
            f"{host}: {where} refuses connections",
            hint="start sshd there, or give the port on which it listens: port=N in the hostfile, "
            "Port in ~/.ssh/config",
            stage="port",
        )
    return ConnectError(
        f"{host}: {where} cannot be reached: {error.strerror or error}",
        hint="is it switched on, and are you in its network (VPN)? a host behind another one needs "
        "ProxyJump in ~/.ssh/config",
        stage="port",
    )
