"""A Dask client of a cluster: connected with its keys, or an error that says why not."""

import gc
from collections.abc import Callable
from typing import Any

from dask_runner.cluster.credentials import Credentials
from dask_runner.errors import ClusterError

_CONNECT_TIMEOUT = 10
_CONNECT_TRIES = 3


def connect_client(
    address: Callable[[], str],
    credentials: Credentials,
    failure: Callable[[], str],
    *,
    lease: float = 0.0,
) -> Any:
    """A `distributed.Client` of the scheduler at `address()`, which may change between tries, of a
    cluster with this lease in s.

    Raises ClusterError if there is none, or `failure()` says that there will be none.
    """
    from distributed import Client  # noqa: PLC0415  (0.4 s: not before a cluster is wanted)

    from dask_runner.cluster.dask_settings import configure_dask, security  # noqa: PLC0415

    configure_dask(lease)
    reason = ""
    # Several short waits: a scheduler that has died meanwhile is not waited for.
    for _ in range(_CONNECT_TRIES):
        where = address()
        try:
            return Client(
                where,
                security=security(credentials),
                set_as_default=False,
                timeout=_CONNECT_TIMEOUT,
                direct_to_workers=True,
            )
        except (OSError, TimeoutError, ValueError) as error:
            # ValueError: of an empty address, while there is no scheduler.
            reason = f"cannot reach the scheduler at {where or 'any address'}: {error}"
        # A client that could not start closes itself when it is collected. In the thread of the
        # next one's loop that would wait for that one's start, which waits for the thread.
        gc.collect()
        if failure():
            reason = failure()
            break
    raise ClusterError(
        f"the cluster was lost: {reason}", hint="`dask-runner rerun` does what is left"
    )
