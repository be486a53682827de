"""What a manager is asked for. Apart from it, so that who asks need not import all of it."""

from msgspec import Struct

from dask_runner.hostfile import Host
from dask_runner.settings import Settings


class UpRequest(Struct, frozen=True, kw_only=True):
    """A cluster that is wanted; with `detached` it does not end with a terminal."""

    name: str
    hosts: tuple[Host, ...]
    settings: Settings
    detached: bool = False
