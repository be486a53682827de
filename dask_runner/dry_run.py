"""The dry test: the plan, and every check that can be made without dispatching anything.

Leaves nothing behind. The one thing that is run is a pilot batch, here, and only where the number
of a cluster's slots depends on what a batch needs.
"""

import os
import shutil
from collections import Counter
from pathlib import Path

import psutil
from msgspec import Struct

from dask_runner.batch import Batch
from dask_runner.errors import UsageError
from dask_runner.files import text_to_path
from dask_runner.hostfile import load_hosts
from dask_runner.opening import Target, limits
from dask_runner.pilot import Pilot, measure
from dask_runner.prospect import Prospect, Prospects
from dask_runner.settings import Settings
from dask_runner.workloads import counted, spec_of
from dask_runner.workloads.checks import checks
from dask_runner.workloads.interface import Plan, Workload

_SHOWN = 2
_MEGABYTE = 1_000_000


class DryRun(Struct, frozen=True, kw_only=True):
    """What would be done. `problems` is empty if the run can start. Sizes in bytes."""

    batches: int
    events: int
    unit: str
    inputs: int
    input_bytes: int
    files: int
    first: tuple[Batch, ...]
    last: tuple[Batch, ...]
    outputs: str
    seed: int
    prospect: Prospect
    memory: int
    free: int
    notes: tuple[str, ...]
    problems: tuple[str, ...]


def check(
    workload: Workload,
    plan: Plan,
    settings: Settings,
    *,
    outputs: Path,
    rerun: bool = False,
    target: Target = Target(),  # noqa: B008  (frozen)
    import_path: tuple[str, ...] = (),
    shipped: Path | None = None,
    preload: tuple[str, ...] | None = None,
) -> DryRun:
    """Check the plan (of a rerun: what is left of it, maybe nothing) against this machine and the
    cluster that is up. `shipped` is the folder of what is shipped.
    """
    batches = plan.batches
    prospects = Prospects(settings, target)
    free = shutil.disk_usage(_existing(outputs)).free
    size = sum(file.bytes for file in plan.inputs)
    problems = [
        *plan.problems,
        *checks(workload),
        *_names(plan.batches),
        *_folders(settings, outputs),
        *_hostfile(Path(settings.cluster.hostfile)),
        *([] if rerun else existing_outputs(plan, outputs)),
        *_space(free=free, size=size),
    ]
    if not prospects.remote:
        problems += _capacity(settings)
    if not batches and not rerun:
        problems.append("there is nothing to do: the plan has no batches")
    pilot = None
    if prospects.auto:
        why = _why_no_pilot(plan, problems)
        pilot = (
            Pilot(skipped=why)
            if why
            else measure(
                workload,
                batches[0],
                limits(settings),
                import_path=import_path,
                inputs=plan.inputs,
                shipped=shipped,
                preload=preload,
            )
        )
    return DryRun(
        batches=len(batches),
        events=sum(batch.count for batch in batches),
        unit=counted(spec_of(workload).name),
        inputs=len(plan.inputs),
        input_bytes=size,
        files=sum(len(batch.outputs) for batch in batches),
        first=tuple(batches[:_SHOWN]),
        last=tuple(batches[max(_SHOWN, len(batches) - _SHOWN) :]),
        outputs=os.fspath(outputs),
        seed=settings.run.seed,
        prospect=prospects.tell(len(batches), pilot),
        memory=psutil.virtual_memory().available,
        free=free,
        notes=plan.notes,
        problems=tuple(problems),
    )


def _existing(path: Path) -> Path:
    """The path itself or its nearest parent that exists."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def _names(batches: list[Batch]) -> list[str]:
    counts = Counter(output.name for batch in batches for output in batch.outputs)
    return [f"{count} batches would write {name}" for name, count in counts.items() if count > 1]


def _folders(settings: Settings, outputs: Path) -> list[str]:
    problems = []
    folders = {"runs": Path(settings.storage.runs), "outputs": outputs}
    if settings.storage.scratch:
        folders["scratch"] = Path(settings.storage.scratch)
    for name, folder in folders.items():
        existing = _existing(folder)
        if not existing.is_dir():
            problems.append(f"{name} folder {folder}: {existing} is not a folder")
        elif not os.access(existing, os.W_OK | os.X_OK):
            problems.append(f"{name} folder {folder}: no permission to write in {existing}")
    return problems


def _hostfile(path: Path) -> list[str]:
    """What is wrong with the hostfile here, if there is one; nothing is sent to its hosts yet."""
    if not path.exists():
        return []
    try:
        load_hosts(path)
    except UsageError as error:
        return [error.message]
    return []


def existing_outputs(plan: Plan, outputs: Path) -> list[str]:
    """Planned names that are taken; whatever is there is never overwritten."""
    if not outputs.is_dir():
        return []
    return [
        f"{outputs / text_to_path(output.name)} exists and is never overwritten"
        for batch in plan.batches
        for output in batch.outputs
        if (outputs / text_to_path(output.name)).exists()
    ]


def _why_no_pilot(plan: Plan, problems: list[str]) -> str:
    if not plan.batches:
        return "there is no batch"
    return "there are problems" if problems else ""


def _space(*, free: int, size: int) -> list[str]:
    # The built-in outputs are smaller than their inputs; less space than the inputs take will not
    # do for anybody.
    if free < size:
        return [f"{free / 1e9:.1f} GB free for outputs, but inputs of {size / 1e9:.1f} GB"]
    return []


def _capacity(settings: Settings) -> list[str]:
    """What this machine does not have."""
    problems = []
    available = psutil.virtual_memory().available
    if settings.run.memory and settings.run.memory * _MEGABYTE > available:
        problems.append(
            f"a batch may use {settings.run.memory} MB, but {available // _MEGABYTE} MB are free"
        )
    if settings.run.slots > (os.cpu_count() or 1):
        problems.append(f"{settings.run.slots} slots on {os.cpu_count()} cores")
    return problems
