"""How Dask is configured in each of our processes, whatever the user's own Dask files say.

Dask is a disposable transport here: it neither retries, nor moves, nor measures anything; each
value that differs from Dask's default stands with its reason.
"""

import logging
import tempfile
from typing import Any

import dask
from distributed import Security

from dask_runner.cluster.credentials import Credentials

# Longer than any pause of a healthy link, and than a lease, in s: a lost host is told by its agent,
# not by this, and one that is back in time has not lost anything.
_COMM_TIMEOUT = 60.0
_LEASE_MARGIN = 15.0

_SETTINGS: dict[str, Any] = {
    # A batch whose worker died is sent again by the driver, which knows whom to blame.
    "distributed.scheduler.allowed-failures": 0,
    "distributed.scheduler.work-stealing": False,
    # The driver's window decides what is on the way; 1.1 measured no faster for short groups.
    "distributed.scheduler.worker-saturation": 1.0,
    "distributed.scheduler.worker-ttl": "1 hour",
    "distributed.scheduler.active-memory-manager.start": False,
    # The HTTP servers have no authentication: no routes, and bound to loopback where started.
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
    "distributed.worker.profile.enabled": False,
    # Batches live in processes of their own with limits of their own.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": False,
    "distributed.comm.require-encryption": True,
    "distributed.comm.timeouts.connect": "30s",
    # Streamed outcomes pass through the scheduler, which by default keeps thousands of them.
    "distributed.admin.log-length": 100,
    "distributed.admin.low-level-log-length": 100,
    "distributed.admin.tick.interval": "100ms",
    "distributed.admin.tick.limit": "30s",
    "distributed.admin.system-monitor.interval": "10s",
    "distributed.admin.system-monitor.log-length": 100,
    # Numbers of other hosts come from the batches' outcomes; no GPU is ever asked for.
    "distributed.diagnostics.nvml": False,
}


# What the dashboard needs besides its own pages, which come with bokeh; never the proxy, which
# would lead to other hosts.
_DASHBOARD_ROUTES = [f"distributed.http.{name}" for name in ("scheduler.info", "health", "statics")]


def configure_dask(lease: float = 0.0, *, dashboard: bool = False) -> None:
    """Make the settings above those of this process; `lease` in s is the cluster's.

    Dask's default folder for temporary files has a name that anybody may create first, so that
    modules would be imported from it: a private one takes its place.
    """
    changes: dict[str, Any] = {
        "distributed.comm.timeouts.tcp": f"{max(_COMM_TIMEOUT, lease + _LEASE_MARGIN):g}s",
        "temporary-directory": tempfile.gettempdir(),
    }
    if dashboard:
        changes["distributed.scheduler.http.routes"] = _DASHBOARD_ROUTES
    dask.config.set({**_SETTINGS, **changes})
    # What matters to a user is said by the agent and in the manifest; what is left are tracebacks
    # of connections that end because we end them.
    # Dask gives its client a level of its own.
    for name in ("distributed", "distributed.client"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def security(credentials: Credentials) -> Security:
    """Dask's form of the credentials; encryption and client certificates are required."""
    return Security(
        require_encryption=True,
        tls_ca_file=credentials.ca,
        tls_client_cert=credentials.cert,
        tls_client_key=credentials.key,
        tls_scheduler_cert=credentials.cert,
        tls_scheduler_key=credentials.key,
        tls_worker_cert=credentials.cert,
        tls_worker_key=credentials.key,
    )
