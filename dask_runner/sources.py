"""The driver's side of what hosts need: inputs, URLs and the shipment, each hashed once a run.

Owns what is said of an input that the driver itself does not have. Blocking work is done in
threads; all methods belong to one event loop.
"""

import asyncio
import os
import secrets
import stat
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from dask_runner import downloads, trees
from dask_runner.batch import InputFile
from dask_runner.errors import BadInputError, StorageError
from dask_runner.file_cache import Item
from dask_runner.files import fingerprint, path_to_text, sha256, text_to_path
from dask_runner.manifest import Shipment
from dask_runner.run_folder import RunFolder

# Reading for a hash is what the disk can do, or the network behind it.
_THREADS = 4
_PACKED = ".packed"
# The name of the folder of a shipment in a cache.
_SHIPPED = "shipped"

T = TypeVar("T")


class Look(Struct, frozen=True, kw_only=True):
    """A file as the driver sees it; with another size or time it is another file. `fingerprint` as
    in InputFile.
    """

    bytes: int
    mtime_ns: int
    fingerprint: str = ""


class Source(Struct, frozen=True, kw_only=True):
    """Something to be brought to a host: `url` from where the host may fetch it itself, `file`
    what is copied otherwise (None: not fetched here yet). `path` is the input's in the plan.
    """

    item: Item
    path: str = ""
    file: Path | None = None
    url: str = ""


class Sources:
    """Looks at and hashes what the driver has; `inputs` are to be what they were in the plan."""

    def __init__(
        self,
        folder: RunFolder,
        *,
        inputs: Sequence[InputFile],
        shipped: Path | None,
        shipment: Shipment | None,
    ) -> None:
        self._folder = folder
        self._planned = {file.path: file for file in inputs}
        self._shipped = shipped
        self._shipment = shipment
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="sources")
        self._looks: dict[str, Look] = {}
        self._known: dict[str, asyncio.Task[Source]] = {}
        self._packed: Path | None = None

    async def look(self, path: str) -> Look:
        """The input file as it is here. Raises BadInputError if it is not a file here, or not what
        was planned.
        """
        if path not in self._looks:
            planned = self._planned.get(path)
            self._looks[path] = await self.run(lambda: _identified(path, planned))
        return self._looks[path]

    async def source(self, path: str) -> Source:
        """An input, hashed. Raises BadInputError."""
        return await self._once(path, lambda: self._hashed(path))

    async def shipment(self) -> Source:
        """What the run has shipped, packed."""
        return await self._once("", self._pack)

    async def with_file(self, source: Source) -> Path:
        """The file to copy, fetched first if it is a URL. Raises BadInputError."""
        if source.file is not None:
            return source.file
        return await self.run(
            lambda: downloads.local_copy(source.url, source.item.sha256, source.item.bytes)[0]
        )

    async def recheck(self, path: str) -> None:
        """Raise BadInputError if the input is not any more what was hashed."""
        before = self._looks.get(path)
        if before is None:
            return
        now = await self.run(lambda: _look(path))
        if (now.bytes, now.mtime_ns) != (before.bytes, before.mtime_ns):
            raise BadInputError(f"{path}: changes while the run reads it")

    async def run(self, function: Callable[[], T]) -> T:
        """Do what blocks in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, function)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._packed is not None:
            self._packed.unlink(missing_ok=True)

    async def _once(self, key: str, make: Callable[[], Coroutine[Any, Any, Source]]) -> Source:
        task = self._known.get(key)
        if task is None:
            task = self._known[key] = asyncio.ensure_future(make())
        try:
            # Who gives up waiting must not take it from the others.
            return await asyncio.shield(task)
        except (BadInputError, StorageError):
            # Perhaps repaired when it is asked for again.
            if self._known.get(key) is task:
                del self._known[key]
            raise

    async def _hashed(self, path: str) -> Source:
        if downloads.is_url(path):
            file = self._planned[path]
            item = Item(sha256=file.sha256, name=downloads.name_of(path), bytes=file.bytes)
            return Source(item=item, path=path, url=path)
        look = await self.look(path)
        local = text_to_path(path)
        try:
            digest = await self.run(lambda: sha256(local))
        except OSError as error:
            raise BadInputError(f"{path}: {error.strerror}") from error
        # What was looked at long ago may be another file by now.
        await self.recheck(path)
        planned = self._planned.get(path)
        if planned is not None and planned.sha256 not in {"", digest}:
            raise _changed(planned, "its content has changed")
        item = Item(sha256=digest, name=path_to_text(local.name), bytes=look.bytes)
        return Source(item=item, path=path, file=local)

    async def _pack(self) -> Source:
        assert self._shipped is not None
        assert self._shipment is not None
        source, target = self._shipped, self._folder.shipments / f".{secrets.token_hex(8)}{_PACKED}"

        def pack() -> int:
            for old in self._folder.shipments.glob(f".*{_PACKED}"):
                old.unlink(missing_ok=True)  # of a driver that was killed
            try:
                trees.pack(source, target)
            except OSError as error:
                raise StorageError(f"cannot write {target}: {error.strerror}") from error
            return target.stat().st_size

        self._packed = target
        item = Item(
            sha256=self._shipment.sha256, name=_SHIPPED, bytes=await self.run(pack), tree=True
        )
        return Source(item=item, file=target)


def _identified(path: str, planned: InputFile | None) -> Look:
    look = _look(path)
    if planned is not None and look.bytes != planned.bytes:
        raise _changed(planned, f"{look.bytes} bytes instead of {planned.bytes}")
    try:
        found = fingerprint(text_to_path(path))
    except OSError as error:
        raise BadInputError(f"{path}: {error.strerror}") from error
    # Not the time: a file that was touched, or brought back, is what it was.
    if planned is not None and found != planned.fingerprint:
        raise _changed(planned, "its content has changed")
    return msgspec.structs.replace(look, fingerprint=found)


def _changed(file: InputFile, what: str) -> BadInputError:
    other = "" if file.fixed else ", or `dask-runner rerun --accept-changed-inputs`"
    return BadInputError(
        f"{file.path}: {what}, since the run was planned", hint=f"bring it back{other}"
    )


def _look(path: str) -> Look:
    local = text_to_path(path)
    try:
        state = os.stat(local)  # noqa: PTH116  (beside os functions)
    except OSError as error:
        raise BadInputError(f"{path}: {error.strerror}") from error
    if not stat.S_ISREG(state.st_mode):
        raise BadInputError(f"{path}: is not a regular file, and cannot be copied to a host")
    return Look(bytes=state.st_size, mtime_ns=state.st_mtime_ns)
