"""What is found out about hosts: the preflight's table, and the host keys."""

from msgspec import Struct

from dask_runner.cluster.ssh.report import HostReport, TrustedHost


class HostChecks(Struct, frozen=True, kw_only=True):
    """The result of `hosts check`. `good` of the hosts can be used."""

    hostfile: str
    good: int
    hosts: tuple[HostReport, ...]


class HostKeys(Struct, frozen=True, kw_only=True):
    """The result of `hosts trust`."""

    hostfile: str
    hosts: tuple[TrustedHost, ...]


def host_checks(hostfile: str, reports: list[HostReport]) -> HostChecks:
    """The view of some reports."""
    good = sum(report.ok for report in reports)
    return HostChecks(hostfile=hostfile, good=good, hosts=tuple(reports))
