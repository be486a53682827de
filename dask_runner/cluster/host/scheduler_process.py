"""The process of a Dask scheduler: `python -I -m dask_runner.cluster.host.scheduler_process`.

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
from dask_runner.cluster.dask_address import port_of, tls_address
from dask_runner.cluster.dask_settings import configure_dask, security
from dask_runner.cluster.host.listening import bindable


async def serve(config: AgentConfig) -> None:
    """Run a scheduler until it is closed."""
    host = bindable(config.bind)
    async with Scheduler(
        host=host,
        port=config.scheduler_port,
        protocol="tls",
        security=security(config.credentials),
        dashboard=config.dashboard,
        # Whoever reads it there has an account on this machine, and no way to any other.
        dashboard_address="127.0.0.1:0",
    ) as scheduler:
        address = scheduler.address
        if host != config.bind:
            address = tls_address(config.bind, port_of(address))
        send_event(
            Event(
                kind="scheduler",
                address=address,
                pid=os.getpid(),
                dashboard=scheduler.http_server.port if config.dashboard else 0,
            )
        )
        await scheduler.finished()


def main() -> None:
    """Configure, then serve."""
    config = read_message(AgentConfig)
    # Its state is memory only: there is nothing to save at the end.
    when_stdin_ends(lambda: os._exit(0))
    configure_dask(config.lease, dashboard=config.dashboard)
    asyncio.run(serve(config))


if __name__ == "__main__":
    main()
