"""The process of a host's Dask worker: `python -I -m dask_runner.cluster.worker_process`.

It only passes groups of batches to slot processes (`execution`). Takes its configuration from
stdin, tells when it is ready on stdout, ends with everything below it when stdin does.
"""

import asyncio
import os
import tempfile

from distributed import Worker

from dask_runner.cluster.channel import (
    Event,
    WorkerConfig,
    read_message,
    send_event,
    when_stdin_ends,
)
from dask_runner.cluster.dask_settings import configure_dask, security
from dask_runner.execution.numerics import cached_selftest
from dask_runner.execution.worker import PoolConfig, start_pool, stop_pool


async def serve(config: WorkerConfig, folder: str) -> None:
    """Run a worker until it is closed."""
    agent = config.agent
    async with Worker(
        config.scheduler,
        nthreads=agent.slots,
        name=config.name,
        host=agent.bind,
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
        send_event(Event(kind="worker", address=worker.address, pid=os.getpid(), numerics=numerics))
        await worker.finished()


def main() -> None:
    """Start the slots, then serve."""
    config = read_message(WorkerConfig)
    agent = config.agent
    with tempfile.TemporaryDirectory(prefix="dask-runner-worker-") as folder:
        configure_dask()
        start_pool(
            PoolConfig(
                slots=agent.slots,
                host=agent.host,
                import_path=agent.import_path,
                preload=agent.preload,
                cluster=agent.cluster,
                umask=agent.umask,
            )
        )

        def end() -> None:
            stop_pool()
            os._exit(0)

        when_stdin_ends(end)
        try:
            asyncio.run(serve(config, folder))
        finally:
            stop_pool()


if __name__ == "__main__":
    main()
