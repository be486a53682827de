"""Files and folders to and from hosts, over SFTP, or by copying where the host is this machine.

Owns what `push` and `pull` do to a name that is taken: nothing, unless forced, and never by halves:
each file has its name only when it is complete. Names are bytes, and may be anything; symbolic
links are copied as they are and never followed below the top. Refuses devices, pipes and sockets.
"""

import asyncio
import os
import secrets
import shutil
import stat
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import asyncssh
from msgspec import Struct

from dask_runner.cluster.fleet.commands import on_all
from dask_runner.cluster.fleet.script import connected
from dask_runner.cluster.ssh.connector import Connector, is_local
from dask_runner.errors import ClusterError, RunnerError, UsageError
from dask_runner.hostfile import Host


class Copied(Struct, frozen=True, kw_only=True):
    """What was copied to or from a host; `skipped` is what is neither file, folder nor link."""

    host: str
    files: int = 0
    bytes: int = 0
    skipped: tuple[str, ...] = ()
    failure: str = ""
    hint: str = ""


class _Place(Protocol):
    """A file system, here or on a host. Paths are bytes; raises OSError or asyncssh.SFTPError."""

    async def mode(self, path: bytes, *, follow: bool = False) -> int:
        """st_mode, 0 if nothing has that name."""

    async def names(self, path: bytes) -> list[bytes]: ...

    async def make_folder(self, path: bytes) -> None: ...

    async def read_link(self, path: bytes) -> bytes: ...

    async def make_link(self, target: bytes, path: bytes) -> None: ...

    async def set_mode(self, path: bytes, mode: int) -> None: ...

    async def rename(self, old: bytes, new: bytes, *, replace: bool) -> None:
        """Give a file its name; without `replace` an error if it is taken."""

    async def remove(self, path: bytes) -> None: ...


class _Here:
    """This machine."""

    async def mode(self, path: bytes, *, follow: bool = False) -> int:
        try:
            return os.stat(path, follow_symlinks=follow).st_mode  # noqa: PTH116  (bytes)
        except FileNotFoundError:
            return 0

    async def names(self, path: bytes) -> list[bytes]:
        return os.listdir(path)  # noqa: PTH208

    async def make_folder(self, path: bytes) -> None:
        os.mkdir(path)  # noqa: PTH102

    async def read_link(self, path: bytes) -> bytes:
        return os.readlink(path)  # noqa: PTH115

    async def make_link(self, target: bytes, path: bytes) -> None:
        os.symlink(target, path)  # noqa: PTH211

    async def set_mode(self, path: bytes, mode: int) -> None:
        os.chmod(path, mode)  # noqa: PTH101

    async def rename(self, old: bytes, new: bytes, *, replace: bool) -> None:
        if replace:
            os.replace(old, new)  # noqa: PTH105
            return
        os.link(old, new, follow_symlinks=False)
        os.unlink(old)  # noqa: PTH108

    async def remove(self, path: bytes) -> None:
        os.unlink(path)  # noqa: PTH108


class _There:
    """A host, by SFTP."""

    def __init__(self, client: Any) -> None:
        self.client = client

    async def mode(self, path: bytes, *, follow: bool = False) -> int:
        try:
            found = await (self.client.stat(path) if follow else self.client.lstat(path))
        except (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath):
            return 0
        return int(found.permissions or 0)

    async def names(self, path: bytes) -> list[bytes]:
        return [name for name in await self.client.listdir(path) if name not in {b".", b".."}]

    async def make_folder(self, path: bytes) -> None:
        await self.client.mkdir(path)

    async def read_link(self, path: bytes) -> bytes:
        return bytes(await self.client.readlink(path))

    async def make_link(self, target: bytes, path: bytes) -> None:
        await self.client.symlink(target, path)

    async def set_mode(self, path: bytes, mode: int) -> None:
        await self.client.chmod(path, mode)

    async def rename(self, old: bytes, new: bytes, *, replace: bool) -> None:
        # OpenSSH's plain rename refuses a name that is taken.
        await (self.client.posix_rename if replace else self.client.rename)(old, new)

    async def remove(self, path: bytes) -> None:
        await self.client.remove(path)


class _Copy:
    """One copy of a file or folder from one place to another."""

    def __init__(self, host: str, source: _Place, target: _Place, *, force: bool) -> None:
        self._host = host
        self._source = source
        self._target = target
        self._force = force
        self._files = 0
        self._bytes = 0
        self._skipped: list[str] = []

    async def run(self, source: bytes, target: bytes) -> Copied:
        """Copy `source`, also if it is a link, under the name `target`."""
        mode = await self._source.mode(source, follow=True)
        if not mode:
            raise self._error(source, "no such file or folder")
        await self._refuse_taken(source, target, mode)
        await self._copy(source, target, mode)
        return Copied(
            host=self._host,
            files=self._files,
            bytes=self._bytes,
            skipped=tuple(self._skipped),
        )

    async def _refuse_taken(self, source: bytes, target: bytes, mode: int) -> None:
        """Better before anything was copied. What is made meanwhile is refused by the rename."""
        taken = await self._target.mode(target)
        if stat.S_ISDIR(mode):
            if taken and not stat.S_ISDIR(taken):
                raise self._error(target, "is there already, and no folder")
            if taken:
                for name in await self._names(source):
                    below = _join(source, name)
                    kind = await self._source.mode(below)
                    await self._refuse_taken(below, _join(target, name), kind)
        elif stat.S_ISDIR(taken):
            raise self._error(target, "is a folder", "end it with / to copy into it")
        elif taken and not self._force:
            raise self._error(target, "is there already", "--force replaces it")

    async def _copy(self, source: bytes, target: bytes, mode: int) -> None:
        if stat.S_ISDIR(mode):
            await self._copy_folder(source, target, mode)
        elif stat.S_ISREG(mode) or stat.S_ISLNK(mode):
            await self._copy_file(source, target, mode)
        else:
            self._skipped.append(_shown(source))

    async def _copy_folder(self, source: bytes, target: bytes, mode: int) -> None:
        made = not await self._target.mode(target)
        if made:
            await self._target.make_folder(target)
        for name in await self._names(source):
            below = _join(source, name)
            await self._copy(below, _join(target, name), await self._source.mode(below))
        if made:
            # Last: the owner of a folder that is not writable could put nothing into it.
            await self._target.set_mode(target, stat.S_IMODE(mode) & 0o777)

    async def _copy_file(self, source: bytes, target: bytes, mode: int) -> None:
        folder = os.path.dirname(target) or b"."  # noqa: PTH120
        beside = _join(folder, b".dask-runner-" + secrets.token_hex(8).encode())
        try:
            if stat.S_ISLNK(mode):
                await self._target.make_link(await self._source.read_link(source), beside)
            else:
                await self._copy_content(source, beside)
                await self._target.set_mode(beside, stat.S_IMODE(mode) & 0o777)
            await self._target.rename(beside, target, replace=self._force)
        except BaseException:
            with suppress(OSError, asyncssh.Error):
                await self._target.remove(beside)
            raise
        self._files += 1

    async def _copy_content(self, source: bytes, target: bytes) -> None:
        done = 0

        def count(_source: bytes, _target: bytes, copied: int, _size: int) -> None:
            nonlocal done
            done = copied

        options = {"follow_symlinks": True, "progress_handler": count}
        if isinstance(self._source, _There):
            await self._source.client.get(source, target, **options)
        elif isinstance(self._target, _There):
            await self._target.client.put(source, target, **options)
        else:
            await asyncio.to_thread(shutil.copyfile, source, target)
            done = os.stat(target).st_size  # noqa: PTH116
        self._bytes += done

    async def _names(self, folder: bytes) -> list[bytes]:
        names = sorted(await self._source.names(folder))
        for name in names:
            # A server may say anything; none of it may lead out of the folder.
            if b"/" in name or b"\0" in name or name in {b"", b".", b".."}:
                raise self._error(folder, f"holds the impossible name {_shown(name)}")
        return names

    def _error(self, path: bytes, what: str, hint: str = "") -> ClusterError:
        return ClusterError(f"{self._host}: {_shown(path)} {what}", hint=hint)


async def push(
    hosts: Sequence[Host], connector: Connector, local: Path, remote: str, *, force: bool
) -> list[Copied]:
    """Copy a file or folder of this machine to all hosts as `remote`; into that folder if it ends
    with a slash. Relative to the home folder there.
    """
    if not local.exists():  # noqa: ASYNC240  (once, before anything else goes on)
        raise UsageError(f"{local}: no such file or folder")
    source = os.fsencode(local.absolute())  # noqa: ASYNC240
    target = _target(remote, source)

    async def one(host: Host) -> Copied:
        async with _place(host, connector) as place:
            copy = _Copy(host.address, _Here(), place, force=force)
            await _make_parents(place, os.path.dirname(_at(host, target)))  # noqa: PTH120
            return await copy.run(source, _at(host, target))

    return await on_all(hosts, one, _failed)


async def pull(
    hosts: Sequence[Host], connector: Connector, remote: str, local: Path, *, force: bool
) -> list[Copied]:
    """Copy a file or folder of each host to `local`/<host>/. Relative to the home folder there."""
    source = os.fsencode(remote.rstrip("/") or "/")
    name = os.path.basename(source)  # noqa: PTH119
    if name in {b"", b".", b".."}:
        raise UsageError(f"{remote!r} has no name that the copy could have")
    here = local.absolute()  # noqa: ASYNC240

    async def one(host: Host) -> Copied:
        async with _place(host, connector) as place:
            folder = here / host.address
            folder.mkdir(parents=True, exist_ok=True)
            copy = _Copy(host.address, place, _Here(), force=force)
            return await copy.run(_at(host, source), _join(os.fsencode(folder), name))

    return await on_all(hosts, one, _failed)


@asynccontextmanager
async def _place(host: Host, connector: Connector) -> AsyncIterator[_Place]:
    """The host's files; what goes wrong with them there is a ClusterError."""
    try:
        if is_local(host):
            yield _Here()
            return
        # Names are bytes, which need not be text.
        async with (
            connected(host, connector) as connection,
            connection.start_sftp_client(path_encoding=None) as client,
        ):
            yield _There(client)
    except asyncssh.SFTPError as error:
        raise ClusterError(
            f"{host.address}: {error.reason}", hint="is there space, and may you write there?"
        ) from error
    except (asyncssh.Error, OSError) as error:
        raise ClusterError(f"{host.address}: {error}") from error


async def _make_parents(place: _Place, folder: bytes) -> None:
    if folder and not await place.mode(folder, follow=True):
        await _make_parents(place, os.path.dirname(folder))  # noqa: PTH120
        with suppress(FileExistsError, asyncssh.SFTPFailure):
            await place.make_folder(folder)


def _target(remote: str, source: bytes) -> bytes:
    target = os.fsencode(remote)
    if not target.strip():
        raise UsageError("the name on the hosts is empty")
    return _join(target, os.path.basename(source)) if target.endswith(b"/") else target  # noqa: PTH119


def _at(host: Host, path: bytes) -> bytes:
    """Relative paths begin in the home folder, as they do in SFTP."""
    if path.startswith(b"~/"):
        path = path[2:]
    return os.path.join(os.path.expanduser(b"~"), path) if is_local(host) else path  # noqa: PTH111, PTH118


def _join(folder: bytes, name: bytes) -> bytes:
    return folder.rstrip(b"/") + b"/" + name


def _shown(path: bytes) -> str:
    text = path.decode("utf-8", "backslashreplace")
    return text if text.isprintable() else repr(text)


def _failed(host: Host, error: RunnerError) -> Copied:
    return Copied(host=host.address, failure=error.message, hint=error.hint)
