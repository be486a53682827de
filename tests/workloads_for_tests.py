"""Workloads that misbehave in one way each. Imported by batch processes through `import_path`."""

import ctypes
import mmap
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

from msgspec import Struct

from dask_runner.batch import Batch, BatchFailedError, FailureKind
from dask_runner.errors import BadInputError
from dask_runner.workloads.interface import MergedFile, MergeRequest, Plan


class Noop(Struct, frozen=True, kw_only=True):
    """Does nothing."""

    preload: ClassVar[tuple[str, ...]] = ()
    uses_folder: ClassVar[bool] = False

    count: int = 1

    def plan(self) -> Plan:
        return Plan(batches=[Batch(index=i, workload=NOOP) for i in range(self.count)])

    def run(self, batch: Batch, folder: Path) -> dict[str, float]:
        return {}

    def merge(self, request: MergeRequest) -> list[MergedFile]:
        return []


NOOP = "tests.workloads_for_tests:Noop"
