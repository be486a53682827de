"""A range of entries of a file -> sums, or a skim; and how long that takes.

Owns the loop over chunks, on hosts and in the pilot alike.
"""

import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from msgspec import Struct

from dask_runner.histograms import sums
from dask_runner.histograms.passes import Pass
from dask_runner.histograms.skimming import Skim, SkimWriter
from dask_runner.histograms.spec import Job
from dask_runner.histograms.values import CountsDifferError
from dask_runner.rootfiles.chunks import Reader
from dask_runner.rootfiles.columns import Chunk

# Of the pilot: it ends after so many s, or entries.
_PILOT_SECONDS = 0.4
_PILOT_ENTRIES = 200_000
# Entries of its pieces, if the function does not say it.
_PIECE = 5_000


class Measured(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the first `entries` of a file took: `entry` in s of CPU each. `part_bytes` is what a
    batch returns, `entry_bytes` what a skim writes for each entry.
    """

    entry: float
    part_bytes: int
    entry_bytes: float = 0.0
    entries: int = 0


class RangeWork:
    """A job at work on one file: chunks in, sums and skim out."""

    def __init__(self, job: Job, tree: Reader, shown: str) -> None:
        """`shown` is the file's name for messages. Raises UsageError."""
        self._shown = shown
        self._tree = tree
        self.work = Pass(job)
        self._skim = Skim(job.skim, tree.types, job.skim_objects) if job.skim else None
        own = () if self._skim is None else self._skim.branches
        self.branches = tuple(dict.fromkeys((*self.work.branches, *own)))
        self._job = job
        self._out: SkimWriter | None = None
        self.skimmed = 0

    def run(
        self,
        first: int,
        stop: int,
        *,
        step: int,
        target: Path | None = None,
        metadata: Mapping[str, Any] | None = None,
        deadline: float = float("inf"),
    ) -> None:
        """The entries [first, stop), in pieces of `step` (0: by size); none begins after `deadline`
        (time.monotonic). A skim is written to `target`. Raises BadInputError with the file's name.
        """
        with ExitStack() as stack:
            if self._skim is not None and target is not None:
                name = self._job.tree.rpartition("/")[2]
                self._out = stack.enter_context(self._skim.writer(target, name, metadata))
            for chunk in self._tree.chunks(self.branches, first, stop, step=step):
                self._add(chunk)
                if time.monotonic() > deadline:
                    break
            if self._out is not None:
                self.skimmed = self._out.entries

    def _add(self, chunk: Chunk) -> None:
        selected = self.work.add(self._shown, chunk)
        if self._out is None:
            return
        try:
            self._out.add(chunk, selected.columns, selected.events, selected.objects)
        except CountsDifferError as error:
            raise selected.unequal(error, "--skim") from error


def measure(job: Job, tree: Reader, shown: str, *, chunk: int) -> Measured:
    """Try the first entries of a file; `chunk` is what a function sees at once, 0 without one.
    Raises what a batch would raise, here and now.
    """
    with tempfile.TemporaryDirectory(prefix="dask-runner-") as folder:
        began = time.process_time()
        work = RangeWork(job, tree, shown)
        target = Path(folder) / "skim.root"
        work.run(
            0,
            min(tree.entries, max(chunk, _PILOT_ENTRIES)),
            step=chunk or _PIECE,
            target=target,
            deadline=time.monotonic() + _PILOT_SECONDS,
        )
        entries = max(1, work.work.events)
        return Measured(
            entry=(time.process_time() - began) / entries,
            part_bytes=len(sums.encode(work.work.sums)),
            entry_bytes=target.stat().st_size / entries if job.skim else 0.0,
            entries=work.work.events,
        )
