"""The process of a Dask worker: `python -I -m dask_runner.cluster.host.worker_process`.

It only passes groups of batches to slot processes (`execution`). Takes its configuration and then
commands from stdin, tells when it is ready and what its slots do on stdout, ends with everything
below it when stdin or the lease does.
"""

import asyncio
import os
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Final

import msgspec
from distributed import Worker

from dask_runner.cluster.channel import (
    Cancel,
    Command,
    Event,
    Pause,
    SlotReport,
    WorkerConfig,
    follow_commands,
    read_message,
    send_event,
)
from dask_runner.cluster.dask_settings import configure_dask, security
from dask_runner.cluster.host.listening import worker_listening
from dask_runner.errors import ClusterError
from dask_runner.execution.lease import LeaseReader
from dask_runner.execution.numerics import cached_selftest
from dask_runner.execution.worker import (
    PoolConfig,
    cancel_groups,
    pause_all,
    slot_states,
    start_pool,
    stop_pool,
)

_REPORT_EVERY: Final = 2.0
_LOOK_EVERY: Final = 0.5


async def serve(config: WorkerConfig, folder: str) -> None:
    """Run a worker until it is closed."""
    agent = config.agent
    place = worker_listening(agent.bind, contact=agent.contact, contact_port=agent.contact_port)
    async with Worker(
        config.scheduler,
        nthreads=agent.slots,
        name=config.name,
        host=place.host,
        port=place.port,
        contact_address=place.contact or None,
        protocol="tls",
        security=security(agent.credentials),
        memory_limit=0,
        local_directory=folder,
        dashboard=False,
        dashboard_address="127.0.0.1:0",
        death_timeout=60,
    ) as worker:
        # Nothing is sent here before it is known which bits this host computes.
        numerics = await asyncio.to_thread(cached_selftest)
        send_event(
            Event(
                kind="worker",
                address=worker.address,
                port=worker.listener.get_host_port()[1],
                pid=os.getpid(),
                numerics=numerics,
            )
        )
        await worker.finished()


def _obey(command: Command) -> None:
    if isinstance(command, Cancel):
        cancel_groups(command.driver)
    elif isinstance(command, Pause):
        pause_all(command.paused)


def _report() -> None:
    """Tell what the slots do, which also says that this process is alive."""
    while True:
        try:
            slots = tuple(msgspec.convert(state, SlotReport) for state in slot_states())
        except ClusterError:
            return  # the pool is closed, and the process about to end
        send_event(Event(kind="slots", slots=slots))
        time.sleep(_REPORT_EVERY)


def _watch_lease(path: str, end: Callable[[], None]) -> None:
    lease = LeaseReader(path)
    while not lease.over():
        time.sleep(_LOOK_EVERY)
    # Its slots have ended their batches by themselves, and others have them now.
    end()


def main() -> None:
    """Start the slots, then serve."""
    config = read_message(WorkerConfig)
    agent = config.agent
    with tempfile.TemporaryDirectory(prefix="dask-runner-worker-") as folder:
        configure_dask(agent.lease)
        start_pool(
            PoolConfig(
                slots=agent.slots,
                host=agent.host,
                import_path=agent.import_path,
                preload=agent.preload,
                cluster=agent.cluster,
                umask=agent.umask,
                nice=agent.nice,
                lease=config.lease,
            )
        )

        def end() -> None:
            stop_pool()
            os._exit(0)

        follow_commands(_obey, end)
        threading.Thread(target=_report, name="report", daemon=True).start()
        threading.Thread(
            target=_watch_lease, args=(config.lease, end), name="lease", daemon=True
        ).start()
        try:
            asyncio.run(serve(config, folder))
        finally:
            stop_pool()


if __name__ == "__main__":
    main()
