"""The way to one host for files: operations and copies, each with an end.

Owns how long we wait: a host that does something for ever, as its file server hangs, is at fault
like one that says no. All methods belong to one event loop.
"""

import asyncio
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from dask_runner.cluster.interface import Transfer
from dask_runner.downloads import SLOWEST
from dask_runner.errors import ClusterError
from dask_runner.waiting import value

# For any answer at all, in s; others may have asked before us.
_ANSWER = 120.0
# What a host hashes at least, in bytes per s, be it from a file server.
HASHED = 5e6
# Of copies to or from one host at a time: they share its connection.
_COPIES = 8


class HostLine:
    """Asks and copies for one run."""

    def __init__(self, name: str, transfer: Transfer) -> None:
        self.name = name
        self.holder = transfer.holder
        self._transfer = transfer
        self._copies = asyncio.Semaphore(_COPIES)
        # The bytes of all that is at work: what is asked last may have to wait for all of it.
        self._busy = 0

    async def ask(
        self, operation: str, arguments: dict[str, Any], *, size: int = 0, rate: float = 0.0
    ) -> Any:
        """The value of an operation that goes through `size` bytes, so many per s at least (0: as
        many as are hashed). Raises ClusterError.
        """
        future = self._transfer.ask(self.name, operation, arguments)
        return await self._wait(future, operation, size, rate or HASHED)

    async def push(self, source: Path, target: str, size: int) -> None:
        """Copy a file to the path text `target` there."""
        async with self._copies:
            future = self._transfer.push(self.name, source, target)
            await self._wait(future, f"the copy to {target}", size, SLOWEST)

    async def fetch(self, source: str, target: Path, size: int, *, limit: int) -> None:
        """Copy the file at the path text `source` there: about `size` bytes, `limit` at most."""
        async with self._copies:
            future = self._transfer.fetch(self.name, source, target, limit)
            await self._wait(future, f"the copy of {source}", size, SLOWEST)

    async def _wait(self, future: "Future[Any]", what: str, size: int, rate: float) -> Any:
        self._busy += size
        patience = _ANSWER + self._busy / rate
        try:
            return await value(future, patience)
        except TimeoutError as error:
            raise ClusterError(
                f"{self.name}: {what} did not end within {patience:.0f} s",
                hint="does a file server hang there?",
            ) from error
        finally:
            self._busy -= size
