"""Workloads for benchmarks: batches that do nothing, and batches that compute for a given time."""

import time
from pathlib import Path
from typing import ClassVar

from msgspec import Struct

from dask_runner.batch import Batch
from dask_runner.workloads.interface import MergedFile, MergeRequest, Plan


class Nothing(Struct, frozen=True, kw_only=True):
    """`number` batches that return at once; `loaded` makes the process import what users import."""

    preload: ClassVar[tuple[str, ...]] = ("uproot", "awkward", "scipy")
    uses_folder: ClassVar[bool] = False

    number: int

    def plan(self) -> Plan:
        return Plan(
            batches=[Batch(index=i, workload="workloads:Nothing") for i in range(self.number)]
        )

    def run(self, batch: Batch, folder: Path) -> dict[str, float]:  # noqa: ARG002
        return {}

    def merge(self, request: MergeRequest) -> list[MergedFile]:  # noqa: ARG002
        return []


class Spin(Struct, frozen=True, kw_only=True):
    """`number` batches that each use a core for `seconds` of CPU time."""

    preload: ClassVar[tuple[str, ...]] = ()
    uses_folder: ClassVar[bool] = False

    number: int
    seconds: float

    def plan(self) -> Plan:
        return Plan(batches=[Batch(index=i, workload="workloads:Spin") for i in range(self.number)])

    def run(self, batch: Batch, folder: Path) -> dict[str, float]:  # noqa: ARG002
        end = time.process_time() + self.seconds
        while time.process_time() < end:
            sum(range(1000))
        return {}

    def merge(self, request: MergeRequest) -> list[MergedFile]:  # noqa: ARG002
        return []
