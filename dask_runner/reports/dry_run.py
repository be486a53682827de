"""The dry test as text."""

from dask_runner.batch import Batch
from dask_runner.dry_run import DryRun

_PROBLEMS_SHOWN = 30


def render_dry_run(result: DryRun) -> str:
    """The plan in a few lines, then the problems."""
    lines = [
        f"{result.batches} batches, {result.events} events, {result.files} files to write",
        f"{result.inputs} input files, {result.input_bytes / 1e6:.1f} MB" if result.inputs else "",
        *(_batch_line(batch) for batch in result.first),
        "  ..." if result.batches > len(result.first) + len(result.last) else "",
        *(_batch_line(batch) for batch in result.last),
        f"outputs in {result.outputs}",
        f"seed {result.seed}",
        _room(result),
        *(f"note: {note}" for note in result.notes),
    ]
    lines += [f"PROBLEM: {problem}" for problem in result.problems[:_PROBLEMS_SHOWN]]
    if len(result.problems) > _PROBLEMS_SHOWN:
        lines.append(f"... and {len(result.problems) - _PROBLEMS_SHOWN} more problems")
    lines.append("nothing was run; " + ("NOT ready" if result.problems else "ready"))
    return "\n".join(line for line in lines if line)


def _room(result: DryRun) -> str:
    memory, free = result.memory / 1e9, result.free / 1e9
    return f"{result.slots} slots, {memory:.1f} GB memory available, {free:.1f} GB disk free"


def _batch_line(batch: Batch) -> str:
    words = [f"  batch {batch.index}:"]
    words += [
        f"{item.path} entries {item.first}-{item.first + item.count - 1}" for item in batch.inputs
    ]
    words += [f"{key}={value}" for key, value in batch.parameters.items()]
    if batch.outputs:
        words.append("-> " + ", ".join(output.name for output in batch.outputs))
    return " ".join(words)
