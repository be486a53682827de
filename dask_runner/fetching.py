"""Files of a host's attempts on their way home: a file has its name here when it is whole.

Owns who is to blame if that fails: StorageError is this machine's disk, ClusterError the host.
"""

import errno
import logging
import os
import secrets
import shutil
from pathlib import Path

from dask_runner.batch import LogSlice, OutputFile
from dask_runner.errors import ClusterError, StorageError
from dask_runner.files import fsync_file, sha256, text_to_path
from dask_runner.host_line import HostLine
from dask_runner.run_folder import RunFolder
from dask_runner.sources import Sources

_log = logging.getLogger(__name__)

_SPARE = 1 << 20
# A log has no size before it has ended; its writer limits it, if that works.
_LARGEST_LOG = 1 << 30
_FULL = (errno.ENOSPC, errno.EDQUOT)


class Fetcher:
    """Brings outputs and logs of one host."""

    def __init__(self, folder: RunFolder, line: HostLine, sources: Sources) -> None:
        self._name = line.name
        self._folder = folder
        self._line = line
        self._sources = sources

    async def output(self, folder: str, home: Path, output: OutputFile) -> None:
        """Bring an output from the attempt's `folder` there to its folder here. Raises ClusterError
        if it cannot be had, or is not what was hashed there.
        """
        name = os.fspath(text_to_path(output.name))
        # `..` would be in the folder too, as far as the words go.
        if "/" in name or name in {"", ".", ".."}:
            raise ClusterError(f"{self._name}: {output.name!r} is not the name of an output")
        target = home / name
        temporary = home / f".{secrets.token_hex(8)}.part"
        try:
            size = output.bytes
            await self._fetch(f"{folder}/{output.name}", temporary, size, limit=size)
            await self._sources.run(lambda: self._accept(temporary, target, output))
        finally:
            await self._sources.run(lambda: temporary.unlink(missing_ok=True))

    def _accept(self, temporary: Path, target: Path, output: OutputFile) -> None:
        """Give a file that came home its name, if it is what was hashed there."""
        try:
            size = temporary.lstat().st_size
            if size == output.bytes:
                fsync_file(temporary)
            if size != output.bytes or sha256(temporary) != output.sha256:
                raise ClusterError(
                    f"{self._name}: {target.name} arrived here with other content than was hashed "
                    f"there ({size} of {output.bytes} bytes)"
                )
            temporary.chmod(0o444)
            os.utime(temporary, ns=(output.mtime_ns, output.mtime_ns))
            temporary.rename(target)
        except OSError as error:
            raise cannot_write(target, error.strerror or str(error)) from error

    async def log(self, attempts: str, log: LogSlice, *, needed: bool) -> None:
        """Bring a log from the attempts folder there to the one here. Raises ClusterError only if
        it is `needed`: the log of a failure that cannot be had must not hide the failure.
        """
        target = self._folder.attempts / log.path
        await self._sources.run(lambda: make_folder(target.parent))
        temporary = target.with_name(f".{secrets.token_hex(8)}.part")
        try:
            there = f"{attempts}/{log.path}"
            await self._fetch(there, temporary, log.length, limit=_LARGEST_LOG)
            await self._sources.run(lambda: temporary.rename(target))
        except ClusterError as error:
            if needed:
                raise
            _log.warning("%s: the log %s is lost: %s", self._name, log.path, error.message)
        finally:
            await self._sources.run(lambda: temporary.unlink(missing_ok=True))

    async def _fetch(self, source: str, temporary: Path, size: int, *, limit: int) -> None:
        try:
            await self._line.fetch(source, temporary, size, limit=limit)
        except (ClusterError, StorageError, OSError) as error:
            # Whoever copies may be another process, of whose error only the words come.
            free = shutil.disk_usage(temporary.parent).free
            words = str(error)
            if free < size + _SPARE or any(os.strerror(number) in words for number in _FULL):
                raise cannot_write(temporary.parent, os.strerror(errno.ENOSPC)) from error
            if not isinstance(error, ClusterError):
                raise cannot_write(temporary, words) from error
            raise


def make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error.strerror) from error


def cannot_write(path: Path, reason: str | None) -> StorageError:
    return StorageError(
        f"cannot write to {path}: {reason}", hint="make space, then `dask-runner rerun`"
    )
