"""A second look at a cluster that is up: what the start does not wait for.

Owns which bits this machine computes, beside which those of hosts are shown, and warnings of what
may end processes in time: tickets that expire, a logout, a full home. Refuses to act on any of it.
"""

import asyncio
import contextlib
import logging
import sys
import threading
import time
from asyncio.subprocess import DEVNULL, PIPE

from dask_runner.cluster.manager.host_link import HostLink
from dask_runner.cluster.manager.manager import Manager
from dask_runner.cluster.ssh.here import look_here
from dask_runner.cluster.ssh.report import Check

_log = logging.getLogger(__name__)

# Whoever has waited for the cluster comes first.
_AFTER = 3.0
_EVERY = 5.0
_LOOK_AGAIN = 1800.0
_AT_A_TIME = 4
_SELFTEST = "from dask_runner.execution.numerics import cached_selftest as s; print(s(), end='')"


async def oversee(manager: Manager, *, detached: bool) -> None:
    """Look from time to time, until it is cancelled; `detached`: the manager is to survive a
    logout.
    """
    await asyncio.sleep(_AFTER)
    manager.site.numerics = await _numerics_here()
    looked = -_LOOK_AGAIN
    while True:
        if time.monotonic() - looked > _LOOK_AGAIN:
            looked = time.monotonic()
            checks = await _in_passing(detached=detached)
            manager.warnings = tuple(check.text for check in checks if check.verdict == "warn")
        at_a_time = asyncio.Semaphore(_AT_A_TIME)
        await asyncio.gather(*(_look(link, at_a_time) for link in manager.links()))
        await asyncio.sleep(_EVERY)


async def _look(link: HostLink, at_a_time: asyncio.Semaphore) -> None:
    async with at_a_time:
        await link.look_closer()


async def _numerics_here() -> str:
    """In a process of its own, which ends with this task: it may take seconds."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-c", _SELFTEST), stdin=DEVNULL, stdout=PIPE, stderr=PIPE
    )
    try:
        found, words = await process.communicate()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    if process.returncode:
        _log.warning("this machine: %s", words.decode(errors="replace").strip()[-300:])
        return ""
    return found.decode()


async def _in_passing(*, detached: bool) -> list[Check]:
    """In a thread that nobody waits for at the end: a file server may keep it."""
    loop = asyncio.get_running_loop()
    seen: asyncio.Future[list[Check]] = loop.create_future()

    def look() -> None:
        checks = look_here(detached=detached)
        # A loop that is closed has ended for another reason.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(_tell, seen, checks)

    threading.Thread(target=look, name="look", daemon=True).start()
    return await seen


def _tell(seen: "asyncio.Future[list[Check]]", checks: list[Check]) -> None:
    if not seen.done():
        seen.set_result(checks)
