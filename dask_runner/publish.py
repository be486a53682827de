"""Accepted attempt -> final output, exactly once. Only the driver does this.

Order: intent (durable) -> link() to the final name, which refuses to overwrite -> fsync of the
folder -> done (durable). Whatever the moment of a crash, what is there can be told from the
manifest: to publish the same outcomes again completes an intent without a done.
"""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from dask_runner.batch import Failure, FailureKind, Outcome, OutcomeStatus, OutputFile
from dask_runner.errors import StorageError
from dask_runner.files import fsync_file, fsync_folder, sha256, text_to_path
from dask_runner.manifest import Done, Intent, Manifest
from dask_runner.run_folder import RunFolder

_log = logging.getLogger(__name__)


class Publisher:
    """Publishes the outputs of a run and records that they are done."""

    def __init__(self, folder: RunFolder, manifest: Manifest) -> None:
        self._folder = folder
        self._manifest = manifest

    def publish(self, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """Publish the outputs of accepted attempts, already recorded as outcomes.

        Returns the failed outcomes of those whose output may not be published: another file has
        its name, or the attempt's file is not what was hashed. Raises StorageError if the outputs'
        disk fails: what has its name by then is recognised when it is published again.
        """
        with_outputs = [outcome for outcome in outcomes if outcome.outputs]
        if with_outputs:
            self._manifest.record(Intent(attempts=_attempts(with_outputs)), durable=True)
        refused: list[Outcome] = []
        touched: set[Path] = set()
        for outcome in with_outputs:
            reason = self._link_all(outcome, touched)
            if reason:
                refused.append(_refusal(outcome, reason))
        for folder in touched:
            fsync_folder(folder)
        names = {outcome.batch for outcome in refused}
        done = [outcome for outcome in outcomes if outcome.batch not in names]
        if done:
            self._manifest.record(Done(attempts=_attempts(done)), durable=True)
        if refused:
            self._manifest.record(*refused)
        for outcome in done:
            self._drop_attempt_names(outcome)
        return refused

    def _link_all(self, outcome: Outcome, touched: set[Path]) -> str:
        """Give all outputs of an attempt their final names, or none; the reason if none."""
        source = self._folder.attempt(outcome.batch, outcome.attempt)
        linked: list[Path] = []
        try:
            for output in outcome.outputs:
                target = self._folder.output(text_to_path(output.name))
                if _link(source / text_to_path(output.name), target, output):
                    linked.append(target)
                touched.add(target.parent)
        except _RefusedError as refusal:
            for target in linked:
                target.unlink()
            return str(refusal)
        except OSError as error:
            raise StorageError(
                f"cannot publish to {self._folder.outputs}: {error}",
                hint="make space or fix the folder's permissions, then `dask-runner rerun`",
            ) from error
        return ""

    def _drop_attempt_names(self, outcome: Outcome) -> None:
        """Leave the published file one name: who still knows the attempt folder cannot reach it."""
        folder = self._folder.attempt(outcome.batch, outcome.attempt)
        for output in outcome.outputs:
            (folder / text_to_path(output.name)).unlink(missing_ok=True)


class _RefusedError(Exception):
    """Why a file may not get its final name."""


def _link(source: Path, target: Path, output: OutputFile) -> bool:
    """Link `source` to `target`; False if `target` has this very content already."""
    if not target.parent.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        fsync_folder(target.parent.parent)
    try:
        # A file's own durability comes before its name's.
        fsync_file(source)
        if source.stat().st_size != output.bytes:
            raise _RefusedError(f"{source} changed after it was checked")
        os.link(source, target)
    except (FileExistsError, FileNotFoundError) as error:
        # Published before a crash, or somebody else's file: only its content can tell.
        if not target.is_file():
            raise _RefusedError(f"{source} is gone") from error
        if target.stat().st_size != output.bytes or sha256(target) != output.sha256:
            raise _RefusedError(
                f"{target} exists with other content and is never overwritten: move it away, then "
                "rerun"
            ) from error
        return False
    return True


def _attempts(outcomes: Sequence[Outcome]) -> tuple[tuple[int, int], ...]:
    return tuple((outcome.batch, outcome.attempt) for outcome in outcomes)


def _refusal(outcome: Outcome, reason: str) -> Outcome:
    return msgspec.structs.replace(
        outcome,
        status=OutcomeStatus.FAILED,
        outputs=(),
        failure=Failure(
            kind=FailureKind.OUTPUT, message=reason, fingerprint="publication", final=True
        ),
    )
