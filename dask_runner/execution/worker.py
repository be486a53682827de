"""What runs inside a Dask worker: the task function, and the pool behind it.

The only file of this folder that knows Dask. A worker process has one pool, started through
`client.run` or by whoever starts the worker.
"""

import os
from collections.abc import Callable
from typing import Any

from msgspec import structs

from dask_runner.errors import ClusterError
from dask_runner.execution.pool import Pool, PoolConfig, SlotState
from dask_runner.execution.task import GroupHead, join_outcomes

__all__ = [
    "PoolConfig",
    "SlotState",
    "cancel_groups",
    "pause_all",
    "run_group",
    "slot_states",
    "start_pool",
    "stop_pool",
]

# One a process: Dask calls functions by name, and gives them nowhere to keep anything.
_pools: dict[int, Pool] = {}
_closed: dict[int, Pool] = {}


def start_pool(config: PoolConfig) -> int:
    """Start the zygote and wait until it is warm. Returns this process's pid."""
    pid = os.getpid()
    if pid in _pools:
        raise ClusterError("this worker has a pool of batch slots already")
    _pools[pid] = Pool(config)
    return pid


def stop_pool() -> None:
    """Kill what runs, and end all processes of the pool. Without a pool, nothing is to be done."""
    pid = os.getpid()
    pool = _pools.get(pid)
    if pool is not None:
        _closed[pid] = pool
        # Whoever takes it out closes it: more than one thread may want the end.
        if _pools.pop(pid, None) is not None:
            pool.close()


def run_group(data: bytes) -> bytes:
    """The Dask task: an encoded Group in, the encoded list of those outcomes out that were not
    streamed. Nothing that a batch does makes it raise.

    A worker that is about to end may still be given groups: its closed pool sends them back unrun,
    so that no batch is blamed for it.
    """
    parts: list[bytes] = []
    send = _streamer(GroupHead.of(data).topic)
    pid = os.getpid()
    pool = _pools.get(pid) or _closed.get(pid) or _pool()
    rest = pool.run(data, send or parts.append)
    return join_outcomes([*parts, rest])


def cancel_groups(driver: str) -> int:
    """Kill all groups of a driver on this host; their outcomes say so. Returns their number."""
    return _pool().cancel(driver)


def pause_all(paused: bool) -> None:
    """Stop all batch processes of this host, and start none, until `paused` is False again."""
    _pool().pause(paused)


def slot_states() -> list[dict[str, Any]]:
    """The busy slots, for status."""
    return [structs.asdict(state) for state in _pool().states()]


def _pool() -> Pool:
    pool = _pools.get(os.getpid())
    if pool is None:
        raise ClusterError(
            "this worker has no pool of batch slots", hint="call start_pool on each worker first"
        )
    return pool


def _streamer(topic: str) -> Callable[[bytes], None] | None:
    """Where outcomes go while the group runs; None outside a Dask task."""
    from distributed import get_worker  # noqa: PLC0415  # heavy, and absent in a pool without Dask

    try:
        worker = get_worker()
    except ValueError:
        return None
    return lambda outcomes: worker.log_event(topic, outcomes)
