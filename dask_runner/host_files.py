"""One host as the driver's files see it: what it shares with us, what has to be copied, and when.

Lives as long as the host's agent does: another one has other folders. All methods belong to one
event loop. Owns what is asked of the host, and the words for what goes wrong on the way.
"""

import asyncio
import logging
import secrets
from collections.abc import Callable, Collection, Coroutine, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from dask_runner.batch import Attempt, LogSlice, Outcome, OutcomeStatus
from dask_runner.cluster.interface import Transfer
from dask_runner.downloads import SLOWEST, is_url
from dask_runner.errors import ClusterError, HostGoneError, RunnerError, StorageError
from dask_runner.fetching import Fetcher, cannot_write, make_folder
from dask_runner.files import path_to_text
from dask_runner.host_line import HostLine
from dask_runner.manifest import Note, NoteKind
from dask_runner.run_folder import LOG_NAME, RunFolder, attempt_name, group_log_name
from dask_runner.sources import Look, Source, Sources
from dask_runner.waiting import all_of

_log = logging.getLogger(__name__)

# A file's time comes in seconds from the host, as a float.
_SAME_TIME = 1e-6
# Between a file's arrival and its use, others may need its room.
_TRIES = 3


class Room(Struct, frozen=True, kw_only=True):
    """Where a group's files are on a host (path text): the folder of its attempts, the inputs that
    are not where the plan says, and the folder that goes first on the batches' import path.
    """

    attempts_folder: str
    paths: dict[str, str] = {}
    shipped: str = ""


class Wish(Struct, frozen=True, kw_only=True):
    """What is the same for all hosts: the settings' `mode` and `cache`, the run's folders, the
    and the `shipped` one among them.
    """

    mode: str
    cache: str
    folder: RunFolder
    shipped: Path | None
    note: Callable[[Note], None]


class HostFiles:
    """The files of one host."""

    def __init__(self, name: str, wish: Wish, transfer: Transfer, sources: Sources) -> None:
        self.name = name
        self.description = ""
        self._wish = wish
        self._line = HostLine(name, transfer)
        # Of this object alone: what one of an earlier agent's life gives up is not ours.
        self._holder = f"{transfer.holder}/{secrets.token_hex(4)}"
        self._sources = sources
        self._decision: asyncio.Task[None] | None = None
        self._attempts = ""
        self._outputs_shared = False
        self._shipped = ""
        self._inputs_shared: dict[str, bool] = {}
        self._pushes: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._begun: set[tuple[int, int]] = set()
        self._pins: dict[tuple[int, int], list[str]] = {}
        self._group_logs: set[str] = set()
        self._fetcher = Fetcher(wish.folder, self._line, sources)

    def ready(self, attempts: Sequence[Attempt]) -> Room | None:
        """The group's room if nothing has to be asked or copied for it."""
        if self._decision is None or not self._decision.done() or self._decision.exception():
            return None
        if not all(self._inputs_shared.get(path, False) for path in input_paths(attempts)):
            return None
        return Room(attempts_folder=self._attempts, shipped=self._shipped)

    def begin(self, attempts: Sequence[Attempt]) -> None:
        """A room will be asked for: there is something to be given up when the group is over."""
        self._begun.add(_key(attempts))

    async def room(self, attempts: Sequence[Attempt]) -> Room:
        """The group's room, once its inputs are there. Raises BadInputError for an input that is
        not here, ClusterError if the host is the reason.
        """
        await self._decided()
        paths = input_paths(attempts)
        await self._look_at([p for p in paths if p not in self._inputs_shared and not is_url(p)])
        copied = [path for path in paths if not self._inputs_shared.get(path, False)]
        self._describe(copied, paths)
        if not copied:
            self._begun.discard(_key(attempts))
            return Room(attempts_folder=self._attempts, shipped=self._shipped)
        sources = [await self._sources.source(path) for path in copied]
        there = await self._cached(sources)
        hashes = [source.item.sha256 for source in sources]
        if _key(attempts) not in self._begun:
            # The group is over already; who asked does not wait any more.
            await self._release(hashes)
            raise ClusterError(f"{self.name}: the group was given up while its inputs were copied")
        self._pins[_key(attempts)] = hashes
        return Room(
            attempts_folder=self._attempts,
            paths=dict(zip(copied, there, strict=True)),
            shipped=self._shipped,
        )

    @property
    def shares_outputs(self) -> bool:
        return self._outputs_shared

    def has_nothing_of(self, attempts: Sequence[Attempt]) -> bool:
        """Whether there is nothing to do when the group is over."""
        return self._outputs_shared and _key(attempts) not in self._begun

    async def collect(self, outcome: Outcome, here: Collection[str] = ()) -> None:
        """Bring an attempt's outputs, but for those that are `here`, and its log home. Raises
        ClusterError if that is impossible, StorageError if they cannot be written here.
        """
        name = attempt_name(outcome.batch, outcome.attempt)
        home = self._wish.folder.attempt(outcome.batch, outcome.attempt)
        if outcome.outputs or outcome.log is not None:
            await self._sources.run(lambda: make_folder(home))
        done = outcome.status is OutcomeStatus.DONE
        copies: list[Coroutine[Any, Any, None]] = []
        if done:
            there = f"{self._attempts}/{name}"
            copies += [
                self._fetcher.output(there, home, output)
                for output in outcome.outputs
                if output.name not in here
            ]
        if outcome.log is not None and outcome.log.path == f"{name}/{LOG_NAME}":
            copies.append(self._fetcher.log(self._attempts, outcome.log, needed=done))
        elif outcome.log is not None:
            self._group_logs.add(outcome.log.path)
        await all_of(copies)

    async def finish(self, attempts: Sequence[Attempt]) -> None:
        """The group is over: its log comes home, its folders and files are given up. Raises nothing
        but what is cancelled.
        """
        logs = {group_log_name(a.batch.index, a.number) for a in attempts} & self._group_logs
        self._group_logs -= logs
        self._begun.discard(_key(attempts))
        hashes = self._pins.pop(_key(attempts), [])
        try:
            if not self._outputs_shared:
                slices = [LogSlice(path=log) for log in sorted(logs)]
                await all_of(self._fetcher.log(self._attempts, s, needed=False) for s in slices)
                names = [attempt_name(a.batch.index, a.number) for a in attempts]
                await self._remove([*names, *sorted(logs)])
            if hashes:
                await self._release(hashes)
        except (ClusterError, StorageError) as error:
            # The outcomes are known, and what is left there goes with the run or the agent.
            _log.warning("%s: after a group: %s", self.name, error.message)

    async def leave(self) -> None:
        """The run is over: nothing of it stays."""
        if self._decision is None or not self._decision.done() or self._decision.exception():
            return
        with suppress(ClusterError):
            await self._release(None)
            if not self._outputs_shared:
                await self._line.ask("remove", {"path": self._attempts})

    async def _decided(self) -> None:
        if self._decision is None or (self._decision.done() and self._decision.exception()):
            self._decision = asyncio.ensure_future(self._decide())
        await asyncio.shield(self._decision)

    async def _decide(self) -> None:
        """How this host comes to its files, but for the inputs, which are looked at when needed."""
        folder = self._wish.folder
        self._outputs_shared = await self._sees(folder.attempts)
        if self._outputs_shared:
            self._attempts = path_to_text(folder.attempts)
        else:
            self._attempts = await self._line.ask("folder", {"holder": self._line.holder})
        if self._wish.shipped is not None:
            if await self._sees(self._wish.folder.shipments, only_read=True):
                self._shipped = path_to_text(self._wish.shipped)
            else:
                (self._shipped,) = await self._cached([await self._sources.shipment()])

    async def _sees(self, folder: Path, *, only_read: bool = False) -> bool:
        """Whether the folder is there too: a file that is made now for this is. Raises ClusterError
        if it has to be.
        """
        if self._wish.mode == "sftp":
            return False
        token = secrets.token_hex(16)
        probe = folder / f".probe-{token}"
        await self._sources.run(lambda: _write_probe(probe, token))
        try:
            seen = await self._line.ask("look", {"path": path_to_text(probe), "token": token})
        finally:
            await self._sources.run(lambda: probe.unlink(missing_ok=True))
        good = bool(seen["seen"] and (seen["writable"] or only_read))
        if not good and self._wish.mode == "shared":
            what = "cannot write to" if seen["seen"] else "does not see"
            raise ClusterError(
                f"{self.name} {what} {folder}, and cluster.staging is shared",
                hint="set it to auto or sftp, and files are copied where they have to be",
            )
        return good

    async def _look_at(self, paths: Sequence[str]) -> None:
        """Learn which of these inputs the host has at the same path."""
        if not paths:
            return
        if self._wish.mode == "sftp":
            self._inputs_shared.update(dict.fromkeys(paths, False))
            return
        there = await self._line.ask("stat", {"paths": list(paths)})
        for path, found in zip(paths, there, strict=True):
            same = _same(await self._sources.look(path), found)
            if not same and self._wish.mode == "shared":
                what = "has another" if found else "does not see"
                raise ClusterError(
                    f"{self.name} {what} {path}, and cluster.staging is shared",
                    hint="set it to auto or sftp, and files are copied where they have to be",
                )
            self._inputs_shared[path] = same

    def _describe(self, copied: Sequence[str], paths: Sequence[str]) -> None:
        """Say what was decided; once, unless it changes."""
        inputs = self.description.rpartition(" ")[2] or "none"
        if copied:
            inputs = "copied"
        elif paths and inputs == "none":
            inputs = "shared"
        outputs = "shared" if self._outputs_shared else "copied"
        text = f"outputs {outputs}, inputs {inputs}"
        if text != self.description:
            self.description = text
            data = {"host": self.name, "outputs": outputs, "inputs": inputs}
            self._wish.note(Note(kind=NoteKind.STAGING, text=f"{self.name}: {text}", data=data))

    async def _cached(self, sources: Sequence[Source]) -> list[str]:
        """Where the sources are in the host's cache, brought there if need be. They stay until
        they are released, each once.
        """
        found: dict[int, str] = {}
        try:
            for _ in range(_TRIES):
                missing = [number for number in range(len(sources)) if number not in found]
                items = [msgspec.to_builtins(sources[number].item) for number in missing]
                size = sum(sources[number].item.bytes for number in missing)
                answer = await self._ask_cache("has", size, items=items)
                found |= {n: path for n, path in zip(missing, answer, strict=True) if path}
                if len(found) == len(sources):
                    return [found[number] for number in range(len(sources))]
                await all_of([self._brought(sources[n]) for n in missing if n not in found])
            raise ClusterError(  # noqa: TRY301  (what was found is released)
                f"{self.name}: files do not stay in the cache",
                hint="is cluster.cache_limit too small for what is needed at a time?",
            )
        except BaseException:
            if found:
                with suppress(ClusterError):
                    await self._release([sources[number].item.sha256 for number in found])
            raise

    async def _brought(self, source: Source) -> None:
        """Groups that want the same file share one copy."""
        key = source.item.sha256, source.item.name
        task = self._pushes.get(key)
        if task is None or task.done():
            task = self._pushes[key] = asyncio.ensure_future(self._bring(source))
        await asyncio.shield(task)

    async def _bring(self, source: Source) -> None:
        item, size = msgspec.to_builtins(source.item), source.item.bytes
        if source.url:
            try:
                await self._ask_cache("fetch-url", size, rate=SLOWEST, item=item, url=source.url)
            except HostGoneError:
                raise
            except ClusterError as error:
                text = f"{self.name} cannot fetch {source.url}, which is copied: {error.message}"
                data = {"host": self.name, "url": source.url}
                self._wish.note(Note(kind=NoteKind.STAGING, text=text, data=data))
            else:
                return
        file = await self._sources.with_file(source)
        incoming = await self._ask_cache("begin", item=item)
        try:
            await self._line.push(file, incoming, size)
            await self._ask_cache("commit", size, item=item, incoming=incoming)
        except RunnerError:
            with suppress(ClusterError):
                await self._ask_cache("abandon", incoming=incoming)
            # Before the host is blamed: did we copy what we hashed?
            await self._sources.recheck(source.path)
            raise

    async def _remove(self, names: Iterable[str]) -> None:
        await self._line.ask(
            "remove-all", {"paths": [f"{self._attempts}/{name}" for name in names]}
        )

    async def _release(self, hashes: Sequence[str] | None) -> None:
        await self._ask_cache("release", hashes=hashes)

    async def _ask_cache(
        self, operation: str, size: int = 0, *, rate: float = 0.0, **arguments: Any
    ) -> Any:
        """Ask for what goes through `size` bytes."""
        arguments |= {"cache": self._wish.cache, "holder": self._holder}
        return await self._line.ask(f"cache-{operation}", arguments, size=size, rate=rate)


def input_paths(attempts: Sequence[Attempt]) -> list[str]:
    """The inputs of a group, each once, but for those that batches read where they are."""
    inputs = (item for attempt in attempts for item in attempt.batch.inputs if not item.remote)
    return list(dict.fromkeys(item.path for item in inputs))


def _key(attempts: Sequence[Attempt]) -> tuple[int, int]:
    return attempts[0].batch.index, attempts[0].number


def _same(here: Look, there: dict[str, Any] | None) -> bool:
    # Size and time may be those of another file that was made with `touch`, or by a copy tool.
    return (
        there is not None
        and there["size"] == here.bytes
        and abs(there["mtime"] - here.mtime_ns / 1e9) < _SAME_TIME
        and there["fingerprint"] == here.fingerprint
    )


def _write_probe(path: Path, token: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(token)
    except OSError as error:
        raise cannot_write(path.parent, error.strerror) from error
