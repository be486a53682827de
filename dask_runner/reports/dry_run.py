"""The dry test as text."""

from dask_runner.batch import Batch
from dask_runner.dry_run import DryRun
from dask_runner.pilot import Pilot
from dask_runner.progress import duration
from dask_runner.prospect import Prospect

_PROBLEMS_SHOWN = 30


def render_dry_run(result: DryRun) -> str:
    """The plan in a few lines, then the problems."""
    lines = [
        f"{result.batches} batches, {result.events} {result.unit}, {result.files} files to write",
        f"{result.inputs} input files, {result.input_bytes / 1e6:.1f} MB" if result.inputs else "",
        *(_batch_line(batch) for batch in result.first),
        "  ..." if result.batches > len(result.first) + len(result.last) else "",
        *(_batch_line(batch) for batch in result.last),
        f"outputs in {result.outputs}",
        f"seed {result.seed}",
        *_prospect(result.prospect),
        _room(result),
        *(f"note: {note}" for note in result.notes),
    ]
    lines += [f"PROBLEM: {problem}" for problem in result.problems[:_PROBLEMS_SHOWN]]
    if len(result.problems) > _PROBLEMS_SHOWN:
        lines.append(f"... and {len(result.problems) - _PROBLEMS_SHOWN} more problems")
    piloted = result.prospect.pilot is not None and not result.prospect.pilot.skipped
    said = "nothing else was run" if piloted else "nothing was run"
    lines.append(f"{said}; " + ("NOT ready" if result.problems else "ready"))
    return "\n".join(line for line in lines if line)


def _room(result: DryRun) -> str:
    memory, free = result.memory / 1e9, result.free / 1e9
    return f"here: {memory:.1f} GB memory available, {free:.1f} GB disk free"


def _prospect(prospect: Prospect) -> list[str]:
    where = f"cluster {prospect.cluster}" if prospect.cluster else "this machine"
    lines = [f"{where}: {prospect.slots} slots"]
    lines += [f"  {room.host}: {room.slots} ({room.how})" for room in prospect.hosts]
    if prospect.staging:
        lines.append(f"files: {prospect.staging}")
    if prospect.pilot is not None:
        lines.append(_pilot(prospect.pilot))
    if prospect.seconds:
        lines.append(f"expected to take {duration(prospect.seconds)} with these slots")
    return lines


def _pilot(pilot: Pilot) -> str:
    if pilot.skipped:
        return f"no pilot: {pilot.skipped}"
    numbers = (
        f"batch {pilot.batch} here: {duration(pilot.wall)}, CPU {duration(pilot.cpu)}, "
        f"{pilot.max_rss / 1e6:.0f} MB"
    )
    if pilot.failure:
        return f"pilot FAILED: {numbers}; {pilot.failure}"
    return f"pilot: {numbers}{'' if pilot.complete else ', then stopped: it needs more'}"


def _batch_line(batch: Batch) -> str:
    words = [f"  batch {batch.index}:"]
    words += [
        f"{item.path} entries {item.first}-{item.first + item.count - 1}"
        for item in batch.inputs
        if item.count
    ]
    words += [f"{key}={value}" for key, value in batch.parameters.items()]
    if batch.outputs:
        words.append("-> " + ", ".join(output.name for output in batch.outputs))
    return " ".join(words)
