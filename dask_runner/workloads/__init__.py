"""The family of workloads. To add one: a module, a line here, a test."""

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import msgspec

from dask_runner.batch import WorkloadSpec
from dask_runner.errors import UsageError
from dask_runner.workloads.interface import Workload
from dask_runner.workloads.shipped import put_first

# Import paths, not classes: only the workload in use is imported.
WORKLOADS = {
    "generate": "dask_runner.workloads.generate:Generate",
    "reconstruct": "dask_runner.workloads.reconstruct:Reconstruct",
    "command": "dask_runner.workloads.command:Command",
    "skyscan": "dask_runner.workloads.skyscan:SkyScan",
    "trials": "dask_runner.workloads.trials:Trials",
    "histogram": "dask_runner.workloads.histogram:Histogram",
}

# What is counted in a batch, where it is not events.
_COUNTED = {"skyscan": "pixels", "trials": "trials"}


def counted(name: str) -> str:
    """What the numbers of batches of this workload count: events, trials, pixels."""
    return _COUNTED.get(name, "events")


def load(
    spec: WorkloadSpec, import_path: Sequence[str] = (), shipped: Path | None = None
) -> Workload:
    """Make the workload from its JSON form; a user's own is looked for in the folder `shipped`
    first, and also in the folders `import_path`. Raises UsageError for a wrong name or
    configuration.
    """
    sys.path[:0] = [folder for folder in import_path if folder not in sys.path]
    if shipped is not None:
        put_first(shipped)
    target = WORKLOADS.get(spec.name, spec.name)
    module_name, _, class_name = target.partition(":")
    if not class_name:
        raise UsageError(
            f"no workload {spec.name!r}",
            hint=f"one of {', '.join(WORKLOADS)}, or your own as package.module:Class",
        )
    try:
        kind: Any = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"workload {spec.name!r} cannot be imported: {error}") from error
    try:
        return cast("Workload", msgspec.convert(spec.configuration, kind))
    except msgspec.ValidationError as error:
        raise UsageError(f"workload {spec.name!r}: wrong configuration: {error}") from error


def spec_of(workload: Workload) -> WorkloadSpec:
    """The JSON form of a workload."""
    kind = type(workload)
    target = f"{kind.__module__}:{kind.__qualname__}"
    name = next((name for name, path in WORKLOADS.items() if path == target), target)
    return WorkloadSpec(name=name, configuration=msgspec.to_builtins(workload))
