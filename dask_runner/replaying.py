"""One planned batch again, here in the terminal: the same bits as those published?"""

from itertools import count
from pathlib import Path

from msgspec import Struct

from dask_runner.batch import Attempt, Outcome, OutcomeStatus
from dask_runner.downloads import is_url, local_copy
from dask_runner.errors import UsageError
from dask_runner.execution.payload import with_paths
from dask_runner.execution.replay import replay
from dask_runner.files import path_to_text
from dask_runner.manifest import RunState
from dask_runner.shipping import shipped_folder


class Comparison(Struct, frozen=True, kw_only=True):
    """An output of the replay beside the published one ("" if there is none)."""

    name: str
    replayed: str
    published: str


class Replay(Struct, frozen=True, kw_only=True):
    """What the replayed batch ended in, where its files are, and how they compare."""

    folder: str
    outcome: Outcome
    outputs: tuple[Comparison, ...]

    @property
    def good(self) -> bool:
        """True if it succeeded and nothing differs from what is published."""
        return self.outcome.status is OutcomeStatus.DONE and all(
            item.published in {"", item.replayed} for item in self.outputs
        )

    def describe(self) -> str:
        """A few lines for people."""
        failure = self.outcome.failure
        lines = [f"failed: {failure.kind}: {failure.message}"] if failure else []
        for item in self.outputs:
            if not item.published:
                verdict = "not published"
            elif item.published == item.replayed:
                verdict = "the same bits as published"
            else:
                verdict = f"DIFFERS from the published {item.published[:12]}"
            lines.append(f"{item.name}  {item.replayed[:12]}  {verdict}")
        return "\n".join([*lines, f"kept in {self.folder}"])


def replay_batch(
    state: RunState, index: int, *, folder: Path | None = None, pdb: bool = False
) -> Replay:
    """Run batch `index` in `folder` (default: a new one in the working directory).

    Raises UsageError for an unknown batch, StorageError if the folder exists.
    """
    if not 0 <= index < len(state.batches):
        raise UsageError(f"no batch {index}: the run has 0 to {len(state.batches) - 1}")
    folder = _free_folder(state.header.timestamp, index) if folder is None else folder
    batch = state.batches[index]
    batch = with_paths(
        batch, _copies(state, {item.path for item in batch.inputs if not item.remote})
    )
    outcome = replay(
        Attempt(batch=batch, number=max(1, state.attempts(index))),
        state.header.workload,
        folder.absolute(),
        shipped=shipped_folder(state.header, state.folder),
        pdb=pdb,
    )
    published = {output.name: output.sha256 for output in state.outputs(index)}
    return Replay(
        folder=str(folder),
        outcome=outcome,
        outputs=tuple(
            Comparison(
                name=output.name,
                replayed=output.sha256,
                published=published.get(output.name, ""),
            )
            for output in outcome.outputs
        ),
    )


def _copies(state: RunState, paths: set[str]) -> dict[str, str]:
    """This machine's copies of those of these inputs that are URLs."""
    return {
        file.path: path_to_text(local_copy(file.path, file.sha256, file.bytes)[0])
        for file in state.inputs
        if file.path in paths and is_url(file.path)
    }


def _free_folder(timestamp: str, index: int) -> Path:
    names = (f"replay-{timestamp}-{index:06d}-{number}" for number in count(1))
    return next(path for path in map(Path, names) if not path.exists())
