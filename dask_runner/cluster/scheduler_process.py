"""The process of a cluster's Dask scheduler: `python -I -m dask_runner.cluster.scheduler_process`.

Takes its configuration from stdin, tells its address on stdout, ends when stdin does.
"""

import asyncio
import os

from distributed import Scheduler

from dask_runner.cluster.channel import (
    AgentConfig,
    Event,
    read_message,
    send_event,
    when_stdin_ends,
)
from dask_runner.cluster.dask_settings import configure_dask, security


async def serve(config: AgentConfig) -> None:
    """Run a scheduler until it is closed."""
    async with Scheduler(
        host=config.bind,
        port=0,
        protocol="tls",
        security=security(config.credentials),
        dashboard=False,
        dashboard_address="127.0.0.1:0",
    ) as scheduler:
        send_event(Event(kind="scheduler", address=scheduler.address, pid=os.getpid()))
        await scheduler.finished()


def main() -> None:
    """Configure, then serve."""
    config = read_message(AgentConfig)
    # Its state is memory only: there is nothing to save at the end.
    when_stdin_ends(lambda: os._exit(0))
    configure_dask()
    asyncio.run(serve(config))


if __name__ == "__main__":
    main()
