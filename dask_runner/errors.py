"""Every error that a user may see: what is wrong, where, what to do, and the exit code.

Owns the exit codes. Code below the CLI raises one of these and never prints or exits; foreign
exceptions are translated at the boundary where they enter (root files, Dask, the operating
system).
"""

from typing import ClassVar

EXIT_DONE = 0
EXIT_BUG = 1
EXIT_USAGE = 2
EXIT_FAILED_BATCHES = 3
EXIT_BAD_INPUT = 4
EXIT_MANIFEST = 5
EXIT_CLUSTER = 6
EXIT_STORAGE = 7
EXIT_INTERRUPTED = 130


class RunnerError(Exception):
    """Base of all errors with a message for the user.

    `message` says what is wrong and where; `hint` says what to do about it.
    """

    exit_code: ClassVar[int] = EXIT_BUG

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(RunnerError):
    """Wrong options, settings or hostfile; or a component that is not installed."""

    exit_code = EXIT_USAGE


class FailedBatchesError(RunnerError):
    """The run ended (or is asked to be merged) with batches that are not done."""

    exit_code = EXIT_FAILED_BATCHES


class BadInputError(RunnerError):
    """An input file is missing, unreadable, changed, or not what it claims to be."""

    exit_code = EXIT_BAD_INPUT


class UnreachableError(RunnerError):
    """A server with an input does not answer, or not in time: another attempt may be luckier."""

    exit_code = EXIT_BAD_INPUT


class ManifestError(RunnerError):
    """A manifest is damaged, of an unknown version, or does not exist."""

    exit_code = EXIT_MANIFEST


class LockedError(ManifestError):
    """Another driver holds the run's lock."""


class ClusterError(RunnerError):
    """The cluster could not be started, or was lost for good."""

    exit_code = EXIT_CLUSTER


class HostGoneError(ClusterError):
    """A host did not answer: it is not up, or was lost before it could. What it was asked for may
    be done another time.
    """


class StorageError(RunnerError):
    """The driver cannot write: disk full, fsync failed, folder not writable."""

    exit_code = EXIT_STORAGE
