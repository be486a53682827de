"""The manager's checks of its hosts: the quick ones, before an agent is started on one.

Owns which machine is in the cluster under which name. What bits a host computes is told later, by
its worker.
"""

from contextlib import AsyncExitStack
from typing import Any

from msgspec.structs import replace

from dask_runner.cluster.manager.site import Site
from dask_runner.cluster.ssh.preflight import Check, Expected, HostReport, examine, expecting
from dask_runner.hostfile import Host

_MEGABYTE = 1_000_000


class Examiner:
    """`open` it before hosts are examined: they are asked to call a port of ours."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._stack = AsyncExitStack()
        self._expected: Expected | None = None
        self._names: dict[str, str] = {}

    async def open(self) -> None:
        settings = self._site.settings
        self._expected = await self._stack.enter_async_context(
            expecting(
                scratch=settings.storage.scratch,
                scratch_floor=settings.cluster.scratch_floor * _MEGABYTE,
                staging=settings.cluster.staging,
            )
        )

    async def close(self) -> None:
        await self._stack.aclose()

    async def examine(self, host: Host) -> tuple[HostReport, Any]:
        """The report of a host, and its open connection (None for this machine, or if it was not
        reached), which is the caller's to close.
        """
        assert self._expected is not None
        report, connection = await examine(host, self._site.connector, self._expected)
        return self._refuse_twin(report), connection

    def _refuse_twin(self, report: HostReport) -> HostReport:
        """A machine that is here under another name would have twice the slots."""
        if report.facts is None or not report.ok:
            return report
        # What it was before it was started again is nobody's any more.
        self._names = {one: name for one, name in self._names.items() if name != report.host}
        first = self._names.setdefault(report.facts.identity, report.host)
        if first == report.host:
            return report
        check = Check(
            name="machine",
            verdict="fail",
            text=f"the same machine as {first}",
            fix=f"remove {report.host} or {first} from the hostfile",
        )
        return replace(report, checks=(*report.checks, check), final=True)
