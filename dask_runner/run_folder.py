"""Every path of a run. Nobody else joins paths of a run.

    <runs>/<timestamp>/manifest.jsonl      the record
                       manifest.lock       who is writing it
                       driver.log          the detached driver's talk
                       shipped/<sha256>/   copies of what --ship named, unchanged for ever
                       outputs/            published files (unless an output folder was given)
                       attempts/000/000012.1/       attempt 1 at batch 12: private folder, log.txt
                       attempts/groups/000100.1.log   the log of a group of short batches

Attempt folders must be on the file system of the outputs, because publishing is a link(). With an
output folder outside the run folder they are in `<outputs>/.dask-runner/<timestamp>/`.
"""

import errno
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from msgspec import Struct

from dask_runner.errors import ManifestError, StorageError, UsageError

LOG_NAME = "log.txt"
_ATTEMPTS = ".dask-runner"


class RunFolder(Struct, frozen=True, kw_only=True):
    """The paths of one run; `outputs` and `attempts` are absolute."""

    path: Path
    outputs: Path
    attempts: Path

    @property
    def timestamp(self) -> str:
        return self.path.name

    @property
    def manifest(self) -> Path:
        return self.path / "manifest.jsonl"

    @property
    def lock(self) -> Path:
        return self.path / "manifest.lock"

    @property
    def driver_log(self) -> Path:
        return self.path / "driver.log"

    @property
    def shipments(self) -> Path:
        return self.path / "shipped"

    def shipped(self, digest: str) -> Path:
        """The folder of what the run has shipped, by its hash."""
        return self.shipments / digest

    def attempt(self, index: int, number: int) -> Path:
        """The private folder of one attempt."""
        return self.attempts / attempt_name(index, number)

    def output(self, name: Path | str) -> Path:
        """The final name of a published output."""
        return self.outputs / name

    @classmethod
    def at(cls, path: Path, outputs: Path | None = None) -> Self:
        """The run folder at `path`, publishing to `outputs` (default: inside the run folder)."""
        path = path.absolute()
        if outputs is None:
            return cls(path=path, outputs=path / "outputs", attempts=path / "attempts")
        outputs = outputs.absolute()
        return cls(path=path, outputs=outputs, attempts=outputs / _ATTEMPTS / path.name)


def attempt_name(index: int, number: int) -> str:
    """The attempt's folder relative to the attempts folder, at most 1000 batches a level."""
    return f"{index // 1000:03d}/{index:06d}.{number}"


def group_log_name(index: int, number: int) -> str:
    """The log of a group whose first batch is `index`, relative to the attempts folder."""
    return f"groups/{index:06d}.{number}.log"


def claim(runs: Path, outputs: Path | None = None, *, now: datetime | None = None) -> RunFolder:
    """Make a new run folder named by the UTC second; `-2`, `-3` ... if the second is taken. The
    folder for outputs is made too: better now than by every batch that it cannot be.

    mkdir is atomic, also on NFS: two runs in one second never share a folder.
    """
    stamp = (now or datetime.now(UTC)).astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
    if outputs is not None:
        _make_outputs(outputs)
    try:
        runs.mkdir(parents=True, exist_ok=True)
        for number in range(1, 10_000):
            name = stamp if number == 1 else f"{stamp}-{number}"
            try:
                (runs / name).mkdir()
            except FileExistsError:
                continue
            folder = RunFolder.at(runs / name, outputs)
            _probe_link(folder)
            return folder
    except OSError as error:
        raise StorageError(
            f"cannot make a run folder in {runs}: {error.strerror}",
            hint="choose another folder with storage.runs in settings.toml or --runs",
        ) from error
    raise StorageError(f"{runs}: no free name for a run at {stamp}")


def disclaim(folder: RunFolder) -> None:
    """Remove a claimed folder: the run could not be planned."""
    shutil.rmtree(folder.path, ignore_errors=True)
    if not folder.attempts.is_relative_to(folder.path):
        shutil.rmtree(folder.attempts, ignore_errors=True)


def _make_outputs(outputs: Path) -> None:
    try:
        # Attempts stand beside outputs: with theirs the folder has proved that it can be written.
        (outputs / _ATTEMPTS).mkdir(parents=True, exist_ok=True)
        if not os.access(outputs / _ATTEMPTS, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise StorageError(
            f"cannot write outputs to {outputs}: {error.strerror}",
            hint="choose another folder for the outputs; nothing was started",
        ) from error


def _probe_link(folder: RunFolder) -> None:
    """Publishing is a link: better to know now than after the first batch that there are none."""
    source, target = folder.attempts / ".probe", folder.outputs / f".probe-{folder.timestamp}"
    source.parent.mkdir(parents=True, exist_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    source.touch()
    try:
        target.hardlink_to(source)
    except OSError as error:
        raise StorageError(
            f"cannot link from {folder.attempts} to {folder.outputs}: {error.strerror}",
            hint="outputs are published by hard links, which AFS and some network mounts refuse: "
            "choose another folder for the outputs; nothing was started",
        ) from error
    finally:
        source.unlink()
        target.unlink(missing_ok=True)


def find(runs: Path, timestamp: str) -> Path:
    """The folder of the run `timestamp`: a full name, a unique prefix, or `last`.

    A claimed folder without a manifest is a run that was never planned, and is not found.
    """
    names = list_runs(runs)
    if not names:
        raise ManifestError(f"no runs in {runs}", hint="start one with `dask-runner run`")
    if timestamp == "last":
        return runs / names[-1]
    if timestamp in names:
        return runs / timestamp
    matches = [name for name in names if timestamp and name.startswith(timestamp)]
    if len(matches) == 1:
        return runs / matches[0]
    if matches:
        raise UsageError(f"{timestamp!r} is not unique: {', '.join(matches[:5])}")
    raise ManifestError(f"no run {timestamp!r} in {runs}", hint="`dask-runner runs` lists them")


def list_runs(runs: Path) -> list[str]:
    """The names of all runs with a manifest, oldest first."""
    if not runs.is_dir():
        return []
    with os.scandir(runs) as entries:
        names = [entry.name for entry in entries if entry.is_dir()]
    return sorted((name for name in names if (runs / name / "manifest.jsonl").exists()), key=_age)


def _age(name: str) -> tuple[str, int]:
    stamp, _, number = name.partition("-")
    return stamp, int(number) if number.isdigit() else 1
