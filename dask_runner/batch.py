"""The nouns of a run: Batch, Attempt, Outcome, OutputFile, Failure, FailureKind.

All are frozen and JSON: what is in the manifest alone suffices to run a batch again. Paths are
in the text form of `files.path_to_text`, so that a name that is not UTF-8 survives.
"""

from enum import StrEnum
from typing import Any

from msgspec import Struct, field


class FailureKind(StrEnum):
    """Why an attempt failed. The kind alone says whether another host may do better."""

    BAD_INPUT = "bad-input"  # the input file is missing, damaged or empty
    EXCEPTION = "exception"  # the workload's Python code raised
    EXIT_CODE = "exit-code"  # an external program ended with a non-zero code
    SETUP = "setup"  # the environment of an external program could not be set up
    SIGNAL = "signal"  # the batch process was killed by a signal it did not expect (segfault ...)
    TIMEOUT = "timeout"  # ran longer than its limit
    MEMORY = "memory"  # its process tree used more memory than its limit
    DISK_FULL = "disk-full"  # no space (or quota) left where it writes
    OUTPUT = "output"  # an output is missing, unreadable, or has the wrong number of entries
    LOG_ERROR = "log-error"  # exit code 0, but the log has an error line
    LOST = "lost"  # its host, worker or slot process died
    CANCELLED = "cancelled"  # ended on the user's request
    INTERNAL = "internal"  # a defect of dask-runner itself

    @property
    def may_pass_elsewhere(self) -> bool:
        """True if another attempt, preferably on another host, may succeed."""
        return self not in _FINAL_KINDS


# An exception of Python code, a wrong exit code or a bad output is nearly always the same
# everywhere; but one host with a broken disk or library must not fail a batch, so only kinds that
# are certain to repeat are final. An external step narrows this through its exit code.
_FINAL_KINDS = frozenset({FailureKind.BAD_INPUT, FailureKind.LOG_ERROR})


class WorkloadSpec(Struct, frozen=True, kw_only=True):
    """A workload as JSON: `name` is a key of WORKLOADS or `package.module:Class`."""

    name: str
    configuration: dict[str, Any]


class InputRange(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`count` entries of the file `path` from entry `first` on; with no count the file as a whole,
    whose entries nobody counts. What is `remote` has an address for a path, and the batch reads it
    from there: it is not brought to the host.
    """

    path: str
    first: int = 0
    count: int = 0
    remote: bool = False

    @property
    def text(self) -> str:
        """For people: the path, and which entries."""
        last = self.first + self.count - 1
        return f"{self.path} entries {self.first} to {last}" if self.count else self.path


class InputFile(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An input file as it was when the run was planned. `fingerprint` is the SHA-256 of its first
    and last 64 KiB and its size; `entries` counts events. If `path` is a URL, `sha256` is of what
    it gave, and `mtime_ns` is 0; if it is read where it is, there is no hash, and `fingerprint` is
    the server's own. A file that is `fixed` has its `sha256` too, and the run is never continued
    with another one.
    """

    path: str
    bytes: int
    mtime_ns: int
    entries: int
    fingerprint: str
    sha256: str = ""
    fixed: bool = False


class PlannedOutput(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An output that a batch must leave in its attempt folder, under its final file name.

    With `tree`, the file is ROOT and is read in full. The number of its entries must be within
    [`acceptance` * `entries`, `entries`]. Without `tree`, the file must only exist.
    `optional` outputs may be missing. With `returned`, the batch writes no file: the content comes
    back with the outcome, and the driver writes it.
    """

    name: str
    tree: str = ""
    entries: int | None = None
    acceptance: float = 1.0
    optional: bool = False
    returned: bool = False


def least_accepted(events: int, acceptance: float) -> int:
    """The fewest of `events` that are still accepted: the share rounded up, to be strict."""
    exact = acceptance * events
    # 0.55 * 100 is 55.00000000000001 in floating point, and means 55.
    nearest = round(exact)
    return nearest if abs(exact - nearest) < 1e-9 * max(1.0, exact) else int(exact) + 1


# What a batch may return with its outcome, in bytes: it passes through the memory of the worker and
# the driver, and Dask's connections.
RETURNED_MAX = 16_000_000


class Batch(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The unit of dispatch and of rerun. `parameters` is JSON and holds what differs between
    batches; what all batches share is the workload's configuration.

    `count` is the number of events or trials (or 1 for a command) for progress and rates.
    """

    index: int
    workload: str
    count: int = 1
    inputs: tuple[InputRange, ...] = ()
    parameters: dict[str, Any] = field(default_factory=dict)
    outputs: tuple[PlannedOutput, ...] = ()

    @property
    def id(self) -> str:
        """The name of the batch in paths and tables."""
        return f"{self.index:06d}"


class Attempt(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One try at a batch; `number` counts from 1 over the whole history of the run."""

    batch: Batch
    number: int


class OutputFile(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A validated output: `entries` is None for files that are not ROOT. The time of its last
    change tells a rerun whether the content needs to be hashed again.
    """

    name: str
    bytes: int
    sha256: str
    entries: int | None = None
    mtime_ns: int = 0


class LogSlice(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where an attempt's log is: bytes [offset, offset + length) of `path`, which is relative to
    the run's attempts folder. `dropped` bytes in the middle were cut by the cap.
    """

    path: str
    offset: int = 0
    length: int = 0
    dropped: int = 0


class Failure(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why an attempt failed. Failures with the same cause have the same `fingerprint`.

    `final` narrows the kind's verdict: True means that no host will do better. `path` is the
    input file that is at fault, if one is.
    """

    kind: FailureKind
    message: str
    fingerprint: str
    tail: str = ""
    exit_code: int | None = None
    final: bool = False
    path: str = ""

    @property
    def may_pass_elsewhere(self) -> bool:
        """True if another attempt may succeed."""
        return self.kind.may_pass_elsewhere and not self.final


class OutcomeStatus(StrEnum):
    """`returned`: the attempt never ran (its group's process died before it); nobody is blamed."""

    DONE = "done"
    FAILED = "failed"
    RETURNED = "returned"


class Outcome(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an attempt ended in. Times in seconds, `started` as UTC ISO 8601, memory and sizes in
    bytes. `done` means: ran, validated and hashed; published is only what the manifest calls done.
    `counters` are numbers of the workload (events read, ignored log lines ...).
    """

    batch: int
    attempt: int
    status: OutcomeStatus
    host: str = ""
    started: str = ""
    wall: float = 0.0
    cpu: float = 0.0
    max_rss: int = 0
    bytes_written: int = 0
    log: LogSlice | None = None
    outputs: tuple[OutputFile, ...] = ()
    failure: Failure | None = None
    counters: dict[str, float] = field(default_factory=dict)


class BatchFailedError(Exception):
    """Raised by a workload to fail its batch with a classified cause.

    `cause` is the part of the message that is the same in every batch with this failure (without
    file names, event numbers, addresses); it becomes the fingerprint. Default: the message with
    its digits removed.
    """

    def __init__(
        self,
        kind: FailureKind,
        message: str,
        *,
        cause: str = "",
        exit_code: int | None = None,
        final: bool = False,
        path: str = "",
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.cause = cause
        self.exit_code = exit_code
        self.final = final
        self.path = path
