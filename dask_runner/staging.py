"""Where files are: before a group runs its inputs are on its host, after it its outputs are here.

Owns the choice between shared folders and copies, for each host by itself, and the loop in which
copies run beside each other; the dispatcher gets futures and never waits. `host_files` knows what
is done on a host. Refuses to decide who is to blame: BadInputError is an input that is not here,
StorageError this machine's disk, ClusterError the host.
"""

import asyncio
import threading
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from concurrent.futures import Future, wait
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

from dask_runner import shipping
from dask_runner.batch import Attempt, InputFile, Outcome
from dask_runner.cluster.interface import Cluster, HostState, Transfer
from dask_runner.downloads import is_url, local_copy
from dask_runner.errors import BadInputError, UsageError
from dask_runner.files import path_to_text
from dask_runner.host_files import HostFiles, Room, Wish, input_paths
from dask_runner.manifest import Manifest, Note, NoteKind, RunState, Shipment
from dask_runner.run_folder import RunFolder
from dask_runner.sources import Sources
from dask_runner.verify import changed_inputs

__all__ = ["Room", "Staging"]

# Of taking leave from the hosts at the end, in s: what is left there goes with their agents.
_LEAVE = 10.0

T = TypeVar("T")


class Staging:
    """The files of one session of dispatch. `mode` and `cache` are those of the settings;
    `accepted` are inputs that are not what was planned, with the user's consent; `say` is called
    (by any thread) with a line for the user.
    """

    def __init__(
        self,
        *,
        mode: str,
        folder: RunFolder,
        transfer: Transfer | None,
        note: Callable[[Note], None],
        inputs: Sequence[InputFile] = (),
        shipped: Path | None = None,
        shipment: Shipment | None = None,
        cache: str = "",
        accepted: Collection[str] = (),
        say: Callable[[str], None] = lambda _text: None,
    ) -> None:
        self._wish = Wish(
            mode=mode,
            cache=cache,
            folder=folder,
            shipped=shipped,
            note=self._take_note,
        )
        self._note, self._say, self._said = note, say, False
        self._transfer = transfer
        self._urls = {file.path: file for file in inputs if is_url(file.path)}
        self._copies: dict[str, str] = {}
        self._sources = Sources(
            folder,
            inputs=[file for file in inputs if file.path not in accepted],
            shipped=shipped,
            shipment=shipment,
        )
        self._hosts: dict[str, tuple[tuple[str, int] | None, HostFiles]] = {}
        self._where: dict[tuple[int, int], HostFiles] = {}
        self._ending: set[Future[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    @classmethod
    def of(
        cls,
        manifest: Manifest,
        cluster: Cluster,
        *,
        mode: str = "auto",
        cache: str = "",
        note: Callable[[Note], None],
        say: Callable[[str], None],
    ) -> Self:
        """Of a run on a cluster; where its user has no other wish than `auto`, the wish of the
        cluster's holds. Raises BadInputError if what was shipped is damaged, UsageError if the
        cache would be somewhere else for every process.
        """
        if cache and not cache.startswith(("/", "~")):
            raise UsageError(f"cluster.cache: {cache!r} is not an absolute path")
        state, transfer = manifest.state, cluster.transfer
        if mode == "auto" and transfer is not None:
            mode = transfer.staging
        return cls(
            mode=mode,
            cache=cache,
            folder=manifest.folder,
            transfer=transfer,
            note=note,
            say=say,
            inputs=state.inputs,
            shipped=shipping.shipped_folder(state.header, manifest.folder),
            shipment=state.header.shipped,
            accepted=_accepted(state),
        )

    def room(self, host: HostState, attempts: Sequence[Attempt]) -> "Future[Room]":
        """The group's files on the host, when they are there; at once if nothing has to be copied.

        The future raises BadInputError, ClusterError or StorageError.
        """
        if self._is_here(host):
            return self._room_here(attempts)
        files = self._files(host)
        for attempt in attempts:
            self._where[attempt.batch.index, attempt.number] = files
        ready = files.ready(attempts)
        if ready is not None:
            return _done(ready)
        files.begin(attempts)
        return self._start(files.room(attempts))

    def collect(self, host: str, outcome: Outcome, here: Collection[str] = ()) -> "Future[None]":
        """The attempt's outputs and log are in its folder here, and durable; at once if they were
        written there. Those named in `here` have come already. The future raises ClusterError or
        StorageError.
        """
        del host  # an attempt is where its room was
        files = self._where.get((outcome.batch, outcome.attempt))
        if files is None or files.shares_outputs:
            return _NOTHING  # one for all: it costs each batch
        return self._start(files.collect(outcome, here))

    def finish(self, host: str, attempts: Sequence[Attempt]) -> "Future[None]":
        """The group is over: its log is here, and nothing of it is left on the host. What cannot be
        done is logged, and is no error.
        """
        del host
        found = [self._where.pop((a.batch.index, a.number), None) for a in attempts]
        files = next((files for files in found if files is not None), None)
        if files is None or files.has_nothing_of(attempts):
            return _done(None)
        ending = self._start(files.finish(attempts))
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)
        return ending

    def decisions(self) -> Mapping[str, str]:
        """What was decided for each host that was used, in words."""
        return {
            name: files.description or "not decided yet"
            for name, (_, files) in list(self._hosts.items())
        }

    def close(self) -> None:
        """Take leave of the hosts. What is still being copied is given up, but for the logs of
        groups that are over.
        """
        wait(list(self._ending), timeout=_LEAVE)
        if self._loop is not None and self._thread is not None:
            leaving = asyncio.run_coroutine_threadsafe(self._leave(), self._loop)
            wait([leaving], timeout=2 * _LEAVE)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(_LEAVE)
            if not self._thread.is_alive():
                self._loop.close()
            self._loop = None
        self._sources.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _take_note(self, note: Note) -> None:
        """In a run of many hosts a line for each would be noise: the first one tells."""
        self._note(note)
        if self._wish.mode == "auto" and not self._said and "copied" in note.data.values():
            self._said = True
            self._say(f"files are copied for hosts without the folders here ({note.text})")

    def _is_here(self, host: HostState) -> bool:
        """Whether the host has our files by its nature. To copy always is a wish all the same."""
        return self._transfer is None or (host.local and self._wish.mode != "sftp")

    def _files(self, host: HostState) -> HostFiles:
        """Anew for each worker: its agent may be a new one as well."""
        life, files = self._hosts.get(host.name, (None, None))
        if files is None or life != host.life:
            assert self._transfer is not None
            files = HostFiles(host.name, self._wish, self._transfer, self._sources)
            self._hosts[host.name] = host.life, files
        return files

    def _room_here(self, attempts: Sequence[Attempt]) -> "Future[Room]":
        urls = [path for path in input_paths(attempts) if is_url(path)]
        if all(url in self._copies for url in urls):
            return _done(self._local_room(urls))
        return self._start(self._with_copies(urls))

    async def _with_copies(self, urls: Sequence[str]) -> Room:
        for url in urls:
            if url not in self._copies:
                if (file := self._urls.get(url)) is None:
                    raise BadInputError(f"{url}: is not among the inputs of the plan")
                path, _ = await self._sources.run(
                    partial(local_copy, file.path, file.sha256, file.bytes)
                )
                self._copies[url] = path_to_text(path)
        return self._local_room(urls)

    def _local_room(self, urls: Sequence[str]) -> Room:
        shipped = self._wish.shipped
        return Room(
            attempts_folder=path_to_text(self._wish.folder.attempts),
            paths={url: self._copies[url] for url in urls},
            shipped="" if shipped is None else path_to_text(shipped),
        )

    def _start(self, work: Coroutine[Any, Any, T]) -> "Future[T]":
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(
                target=self._loop.run_forever, name="staging", daemon=True
            )
            self._thread.start()
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _leave(self) -> None:
        await _cancel_all(0)
        leaving = [asyncio.ensure_future(files.leave()) for _, files in self._hosts.values()]
        if leaving:
            await asyncio.wait(leaving, timeout=_LEAVE)
        # Those of the first time may be tidying up, for which some hosts take too long.
        await _cancel_all(1.0)


def _accepted(state: RunState) -> set[str]:
    """The inputs that have changed since the plan, which the user has accepted."""
    if not any(note.kind == NoteKind.CHANGED_INPUTS for note in state.notes):
        return set()
    return {file.path for file in state.inputs if changed_inputs([file], thorough=False)}


async def _cancel_all(patience: float) -> None:
    """Cancel all other tasks of this loop, and wait for their end for `patience` s."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=patience)


def _done(value: T) -> "Future[T]":
    future: Future[T] = Future()
    future.set_result(value)
    return future


_NOTHING: Future[None] = _done(None)
