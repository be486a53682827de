"""What hosts are told to do: which attempts, in which group, and how they are to be made.

Owns the numbers of attempts and groups, and the limits of a batch. An attempt is in the manifest
before it is sent. Refuses to choose hosts.
"""

from collections.abc import Sequence

import msgspec
from msgspec import Struct

from dask_runner.batch import Attempt, WorkloadSpec
from dask_runner.cluster.interface import HostState
from dask_runner.execution.task import Group, Limits, encode_group
from dask_runner.flights import Flight
from dask_runner.grouping import Grouping
from dask_runner.manifest import Manifest, Started
from dask_runner.placement import Rules
from dask_runner.staging import Room


class Policy(Struct, frozen=True, kw_only=True):
    """How attempts are made: `attempts` failures end a batch; `timeout_factor` times the median
    batch is the limit where `limits` has none; `rules` say how many go where. Batches that can be
    divided are, if they would take much longer than `target` s (0: never).
    """

    attempts: int
    timeout_factor: float
    largest_group: int = 0
    target: float = 0.0
    limits: Limits
    rules: Rules = Rules()
    versions: dict[str, str]
    preload: tuple[str, ...] = ()


class Orders:
    """The orders of one session, whose name is `driver`. Outcomes are told under `topic`."""

    def __init__(
        self,
        manifest: Manifest,
        spec: WorkloadSpec,
        policy: Policy,
        grouping: Grouping,
        *,
        driver: str,
    ) -> None:
        self._manifest = manifest
        self._spec = spec
        self._policy = policy
        self._grouping = grouping
        self._driver = driver
        self._groups = 0
        self.topic = f"dask-runner-{driver}"

    def flight(self, indices: Sequence[int], host: HostState) -> Flight:
        """A group with the next attempts at these batches, for that host."""
        state = self._manifest.state
        attempts = tuple(
            Attempt(batch=state.batches[index], number=state.attempts(index) + 1)
            for index in indices
        )
        self._groups += 1
        # Written before it is sent: an attempt folder is never used twice, whoever dies.
        self._manifest.record(
            Started(
                attempts=tuple((a.batch.index, a.number) for a in attempts),
                group=str(self._groups),
                host=host.name,
            )
        )
        first = f"{attempts[0].batch.index}.{attempts[0].number}"
        return Flight(f"group-{self._driver}-{self._groups}-{first}", attempts, host)

    def encoded(self, flight: Flight, room: Room) -> bytes:
        """The order to do a group whose files are where `room` says."""
        header, policy = self._manifest.state.header, self._policy
        group = Group(
            run=header.timestamp,
            driver=self._driver,
            topic=self.topic,
            workload=self._spec,
            attempts_folder=room.attempts_folder,
            attempts=tuple(flight.attempts),
            limits=self._limits(),
            versions=policy.versions,
            preload=policy.preload,
            alone=policy.largest_group == 1,
            paths=room.paths,
            shipped=room.shipped,
            import_path=header.import_path,
        )
        return encode_group(group)

    def _limits(self) -> Limits:
        limits = self._policy.limits
        if limits.timeout:
            return limits
        timeout = self._grouping.timeout(self._policy.timeout_factor)
        return msgspec.structs.replace(limits, timeout=timeout)
