"""ROOT files that are read where they are, over HTTP or XRootD, by the ranges that are needed.

Owns how patient we are: every request has a deadline of its own, for the libraries below wait for
ever, or for times that nobody has chosen. A server that does not answer is an UnreachableError,
which another attempt may not meet; what the server says of the file itself is a BadInputError.
"""

import asyncio
import queue
import re
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Self, TypeVar

import uproot
from msgspec import Struct
from uproot.source.chunk import Chunk, Source
from uproot.source.coalesce import CoalesceConfig, coalesce_requests
from uproot.source.futures import TrivialFuture

from dask_runner.downloads import SLOWEST, check_address
from dask_runner.errors import BadInputError, RunnerError, UnreachableError
from dask_runner.optional import imported
from dask_runner.rootfiles.boundary import damaged_end, translated

T = TypeVar("T")

# Of one request, in s, besides what its bytes take at the slowest pace that we bear.
TIMEOUT = 60.0
_EXTRA = "remote"
_HEAD = 64
_PARTIAL = 206
_WHOLE = 200
_MISSING = {404, 410}
_FORBIDDEN = {401, 403, 407}
_LASTING = 500
# kXR_NotAuthorized and kXR_NotFound, which come in the text.
_XROOTD_STATUS = re.compile(r"Server responded with an error: \[(\d+)\]")
_XROOTD = {"3010": 403, "3011": 404}
# What several requests at once are made of: gaps that are read too, and bytes of one request.
_GATHER = CoalesceConfig(max_range_gap=64 * 1024, max_request_bytes=16 * 1024 * 1024)
# Of XRootD's own limit, which is in whole seconds and must not be the shorter one.
_LATER = 5


class RemoteFacts(Struct, frozen=True, kw_only=True):
    """What a server says of a file: its size, and what changes with its content (an ETag, or a time
    of change); "" if it says nothing.
    """

    bytes: int
    stamp: str = ""


class _Remote:
    """A file on a server. Its methods may be called by any thread."""

    def __init__(self, url: str, timeout: float) -> None:
        check_address(url)
        self.url = url
        self.timeout = timeout
        fsspec = imported("fsspec", _EXTRA)
        self._asyn = imported("fsspec.asyn", _EXTRA)
        self._web = url.startswith("http")
        if self._web:
            aiohttp = imported("aiohttp", _EXTRA)
            patience = aiohttp.ClientTimeout(total=None, sock_connect=timeout, sock_read=timeout)
            # The proxies of the environment, as for whole files.
            options: dict[str, Any] = {"client_kwargs": {"timeout": patience, "trust_env": True}}
        else:
            imported("fsspec_xrootd", _EXTRA)
            options = {"timeout": int(timeout) + _LATER}
        self._files, self._path = fsspec.core.url_to_fs(url, **options)
        self.head = b""
        self.facts = RemoteFacts(bytes=0)

    def open(self) -> None:
        """Look at the file: its first bytes, size and stamp. Raises BadInputError if the server
        cannot give parts of it.
        """
        ask = self._ask_web() if self._web else self._ask_xrootd()
        self.head, self.facts = self.wait(self.start(ask, _HEAD))

    def start(self, work: Coroutine[Any, Any, T], size: int) -> Any:
        """A future of what is asked for, which is done within the deadline for `size` bytes."""
        deadline = self.timeout + size / SLOWEST

        async def in_time() -> T:
            try:
                return await asyncio.wait_for(work, deadline)
            except RunnerError:
                raise
            except BaseException as error:
                raise self._translated(error, deadline) from error

        return asyncio.run_coroutine_threadsafe(in_time(), self._asyn.get_loop())

    def wait(self, future: Any) -> Any:
        """The result of a future that `start` has given."""
        return future.result()

    async def ranges(self, wanted: list[tuple[int, int]]) -> list[bytes]:
        """The bytes of ranges (start, stop)."""
        starts, stops = zip(*wanted, strict=True)
        found = await self._files._cat_ranges(  # noqa: SLF001  (the documented async interface)
            [self._path] * len(wanted), list(starts), list(stops), on_error="raise"
        )
        for (start, stop), data in zip(wanted, found, strict=True):
            if len(data) != stop - start:
                raise BadInputError(
                    f"{self.url}: the server gave {len(data)} bytes for the {stop - start} bytes "
                    f"from {start} on"
                )
        return list(found)

    async def _ask_web(self) -> tuple[bytes, RemoteFacts]:
        session = await self._files.set_session()
        headers = {"Range": f"bytes=0-{_HEAD - 1}", "Accept-Encoding": "identity"}
        async with session.get(self.url, headers=headers) as answer:
            if answer.status == _WHOLE:
                # Its body would be the whole file: it is not read.
                raise BadInputError(
                    f"{self.url}: the server gives whole files only, not parts of them",
                    hint="copy the file here and name the copy",
                )
            answer.raise_for_status()
            if answer.status != _PARTIAL:
                raise BadInputError(f"{self.url}: the server says {answer.status} {answer.reason}")
            total = answer.headers.get("Content-Range", "").rpartition("/")[2]
            if not total.isdecimal():
                raise BadInputError(f"{self.url}: the server does not say how long the file is")
            stamp = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
            facts = RemoteFacts(bytes=int(total), stamp=stamp.removeprefix("W/"))
            return await answer.content.read(_HEAD), facts

    async def _ask_xrootd(self) -> tuple[bytes, RemoteFacts]:
        found = await self._files._info(self._path)  # noqa: SLF001  (see above)
        if found.get("type") != "file":
            raise BadInputError(f"{self.url}: is not a file")
        size = int(found["size"])
        changed = found.get("mtime") or found.get("modified") or ""
        (head,) = await self.ranges([(0, min(_HEAD, size))]) if size else (b"",)
        return head, RemoteFacts(bytes=size, stamp=str(changed))

    def _translated(self, error: BaseException, deadline: float) -> BaseException:
        """What went wrong on the way, as one of ours."""
        status = getattr(error, "status", None) or _xrootd_status(error)
        if isinstance(error, FileNotFoundError) or status in _MISSING:
            return BadInputError(f"{self.url}: there is no such file")
        if isinstance(error, PermissionError) or status in _FORBIDDEN:
            return BadInputError(f"{self.url}: the server does not allow it ({_words(error)})")
        if isinstance(status, int) and _WHOLE <= status < _LASTING:
            return BadInputError(f"{self.url}: the server says {_words(error)}")
        if (
            isinstance(error, TimeoutError | asyncio.TimeoutError)
            or "Timeout" in type(error).__name__
        ):
            return UnreachableError(
                f"{self.url}: no answer within {deadline:.0f} s",
                hint="histogram.remote_timeout is how long we wait",
            )
        if isinstance(error, Exception):
            return UnreachableError(f"{self.url}: cannot be read: {_words(error)}")
        return error


def _xrootd_status(error: BaseException) -> int | None:
    """The number that XRootD's servers give, as the like one of HTTP."""
    found = _XROOTD_STATUS.search(str(error))
    return _XROOTD.get(found[1]) if found else None


def _words(error: BaseException) -> str:
    text = next(iter(str(error).strip().splitlines()), "")
    return text or type(error).__name__


class _RemoteSource(Source):  # type: ignore[misc]  # uproot has no types
    """Where uproot gets its bytes from: many ranges at a time, those near each other as one."""

    def __init__(self, file_path: str, *, remote: _Remote, **options: Any) -> None:
        super().__init__()
        self._file_path = file_path
        self._remote = remote
        self._options = options
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._closed = True

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def num_bytes(self) -> int:
        return self._remote.facts.bytes

    def chunk(self, start: int, stop: int) -> Any:
        """The bytes from start to stop."""
        head = self._remote.head
        if stop <= len(head):
            return Chunk(self, start, stop, TrivialFuture(head[start:stop]))
        (data,) = self._remote.wait(self._submit([(start, min(stop, self.num_bytes))]))
        return Chunk(self, start, stop, TrivialFuture(data))

    def chunks(self, ranges: list[tuple[int, int]], notifications: "queue.Queue[Any]") -> list[Any]:
        """Chunks of these ranges, which are put into the queue as they come."""
        found: list[Any] = coalesce_requests(
            ranges, self._submit, self, notifications, config=_GATHER
        )
        return found

    def _submit(self, ranges: list[tuple[int, int]]) -> Any:
        size = sum(stop - start for start, stop in ranges)
        self._num_requests += 1
        self._num_requested_bytes += size
        return self._remote.start(self._remote.ranges(ranges), size)


def facts(url: str, *, timeout: float = TIMEOUT) -> RemoteFacts:
    """What the server says of a file. Raises UsageError for a URL that is none and libraries that
    are missing, BadInputError if it cannot be read, UnreachableError if the server does not answer.
    """
    remote = _Remote(url, timeout)
    remote.open()
    return remote.facts


@contextmanager
def opened_remote(
    url: str, *, timeout: float = TIMEOUT, expected: RemoteFacts | None = None
) -> Iterator[Any]:
    """An open ROOT file of uproot's. Raises as `facts`, and BadInputError if the file is not what
    is `expected`, or is damaged.
    """
    remote = _Remote(url, timeout)
    remote.open()
    if expected is not None:
        check_same(url, expected, remote.facts)
    with translated(url):
        damaged_end(url, remote.head, remote.facts.bytes)
        # As a dict: uproot takes what is behind a colon for the name of an object.
        with uproot.open({url: None}, handler=_RemoteSource, remote=remote) as file:
            yield file


def check_same(url: str, expected: RemoteFacts, found: RemoteFacts) -> None:
    """Raises BadInputError if a file has changed: its size, or its stamp if both have one."""
    what = difference(expected, found)
    if what:
        raise BadInputError(
            f"{url}: {what}, since the run was planned",
            hint="bring it back, or `dask-runner rerun --accept-changed-inputs`",
        )


def difference(expected: RemoteFacts, found: RemoteFacts) -> str:
    """In what a file has changed, or ""."""
    if found.bytes != expected.bytes:
        return f"{found.bytes} bytes instead of {expected.bytes}"
    if expected.stamp and found.stamp and found.stamp != expected.stamp:
        return "the server says that it has changed"
    return ""
