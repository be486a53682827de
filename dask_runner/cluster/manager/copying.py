"""Files between this machine and a host, over its one SSH connection.

A copy is written in place: who wants it to appear at once copies to a name of its own and renames.
Owns when a copy is given up. Refuses to know what is copied.
"""

import asyncio
import os
import shutil
import stat
import time
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Final

import asyncssh

from dask_runner.cluster.manager.host_link import HostLink
from dask_runner.cluster.ssh.connector import is_local
from dask_runner.errors import BadInputError, ClusterError, HostGoneError, StorageError
from dask_runner.files import text_to_path

# Of a copy, or of the first word of a session, in s: a file server that hangs says nothing.
_STALL: Final = 60.0
_LOOKS_PER_STALL: Final = 20


async def fetch(link: HostLink, there: str, here: Path, *, limit: int) -> None:
    """Copy the file at the path text `there` on the link's host to `here`. Raises ClusterError if
    the host is the reason (also if it is no regular file, or has more than `limit` bytes),
    StorageError if this machine is.
    """
    remote = text_to_path(there)
    if is_local(link.host):
        await asyncio.to_thread(_fetch_here, link.name, remote, here, limit)
        return

    async def work(sftp: asyncssh.SFTPClient, moved: "_Progress") -> None:
        found = await sftp.lstat(os.fsencode(remote))
        regular = found.type == asyncssh.FILEXFER_TYPE_REGULAR
        _check(f"{link.name}: {remote}", found.size or 0, limit, regular=regular)
        # As bytes, so that a name which is no UTF-8 passes.
        await sftp.get(os.fsencode(remote), os.fsencode(here), progress_handler=moved)

    try:
        await _copied(link, work, remote)
    except OSError as error:
        raise StorageError(f"{here}: {error.strerror or error}") from error


async def push(link: HostLink, here: Path, there: str) -> None:
    """Copy the file `here` to the path text `there` on the link's host. Raises ClusterError if the
    host is the reason, BadInputError if it cannot be read here.
    """
    remote = text_to_path(there)
    if is_local(link.host):
        await asyncio.to_thread(_push_here, link.name, here, remote)
        return

    async def work(sftp: asyncssh.SFTPClient, moved: "_Progress") -> None:
        await sftp.put(
            os.fsencode(here), os.fsencode(remote), follow_symlinks=True, progress_handler=moved
        )

    try:
        await _copied(link, work, remote)
    except OSError as error:
        raise BadInputError(f"{here}: {error.strerror or error}") from error


class _Progress:
    """When the last bytes of a copy passed."""

    def __init__(self) -> None:
        self.last = time.monotonic()

    def __call__(self, *_: object) -> None:
        self.last = time.monotonic()


async def _copied(link: HostLink, work: Any, remote: Path) -> None:
    """Copy, once more in a new session if the first one has ended. Raises ClusterError, or OSError
    of this machine.
    """
    for again in (True, False):
        sftp = await link.sftp()
        moved = _Progress()
        try:
            await _while_it_moves(work(sftp, moved), moved)
        except (asyncssh.SFTPConnectionLost, asyncssh.SFTPNoConnection) as error:
            # Of this session; if it is the connection, there will be none either.
            link.forget_sftp(sftp)
            if not again:
                raise ClusterError(
                    f"{link.name}: lost while {remote} was copied: {error.reason}"
                ) from error
        except TimeoutError as error:
            # What serves it does one thing after the other: whatever waits behind it is stuck too.
            link.forget_sftp(sftp)
            raise ClusterError(
                f"{link.name}: {remote}: nothing of it was copied for {_STALL:g} s",
                hint="does a file server hang there?",
            ) from error
        except asyncssh.SFTPError as error:
            raise ClusterError(f"{link.name}: {remote}: {error.reason}") from error
        except (asyncssh.Error, ConnectionError) as error:
            raise HostGoneError(f"{link.name}: lost while {remote} was copied: {error}") from error
        else:
            return


async def _while_it_moves(work: Coroutine[Any, Any, None], moved: _Progress) -> None:
    """Wait for the copy. Raises TimeoutError when it stands still; it is not waited for then, as
    to close its files may hang as well.
    """
    copy = asyncio.ensure_future(work)
    try:
        while not copy.done():
            await asyncio.wait({copy}, timeout=_STALL / _LOOKS_PER_STALL)
            if not copy.done() and time.monotonic() - moved.last > _STALL:
                raise TimeoutError
    finally:
        if not copy.done():
            copy.cancel()
            copy.add_done_callback(_ended)
    copy.result()


def _ended(copy: "asyncio.Future[None]") -> None:
    """Of a copy that was given up: how it ends is nobody's affair."""
    with suppress(asyncio.CancelledError):
        copy.exception()


def _fetch_here(name: str, source: Path, target: Path, limit: int) -> None:
    """From a host that is this machine."""
    try:
        state = source.lstat()
        _check(f"{name}: {source}", state.st_size, limit, regular=stat.S_ISREG(state.st_mode))
        file = source.open("rb")
    except OSError as error:
        raise ClusterError(f"{name}: {source}: {error.strerror}") from error
    with file:
        try:
            _write(file, target)
        except OSError as error:
            raise StorageError(f"{target}: {error.strerror}") from error


def _push_here(name: str, source: Path, target: Path) -> None:
    """To a host that is this machine."""
    try:
        file = source.open("rb")
    except OSError as error:
        raise BadInputError(f"{source}: {error.strerror}") from error
    with file:
        try:
            _write(file, target)
        except OSError as error:
            raise ClusterError(f"{name}: {target}: {error.strerror}") from error


def _write(file: BinaryIO, target: Path) -> None:
    with target.open("wb") as copy:
        shutil.copyfileobj(file, copy)


def _check(what: str, size: int, limit: int, *, regular: bool) -> None:
    if not regular:
        raise ClusterError(f"{what}: is not a regular file")
    if size > limit:
        raise ClusterError(f"{what}: has {size} bytes, more than {limit}")
