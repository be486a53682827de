"""Waiting in an event loop for what other threads do, and for many things at once."""

import asyncio
from collections.abc import Coroutine, Iterable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from dask_runner.errors import BadInputError, StorageError


async def value(future: "Future[Any]", patience: float) -> Any:
    """The value of a future of another thread, which is never cancelled by us. Raises TimeoutError
    if it has none after `patience` s.
    """
    loop = asyncio.get_running_loop()
    mine: asyncio.Future[Any] = loop.create_future()

    def settle() -> None:
        if mine.done():
            return
        error = future.exception()
        if error is not None:
            mine.set_exception(error)
        else:
            mine.set_result(future.result())

    def done(_: "Future[Any]") -> None:
        with suppress(RuntimeError):  # nobody waits any more: the loop is closed
            loop.call_soon_threadsafe(settle)

    future.add_done_callback(done)
    async with asyncio.timeout(patience):
        return await mine


async def all_of(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Do all of it at once; the first error, when all have ended."""
    results = await asyncio.gather(*work, return_exceptions=True)
    for kind in (StorageError, BadInputError, BaseException):
        for result in results:
            if isinstance(result, kind):
                raise result
