"""A department of test hosts on one Linux machine, with real sshd; see docs/test-hosts.md.

Each host is a network, mount, process, name and IPC namespace; a switch joins them. Needs root
(`missing()` says what is missing). Nothing here knows dask-runner.
"""

from .computer import Options
from .department import Department
from .host import Host
from .leftovers import clean
from .requirements import missing

__all__ = ["Department", "Host", "Options", "clean", "missing"]
