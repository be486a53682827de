"""What may stand in a manifest: the kinds of records and their fields.

`InputFile`, `Batch` and `Outcome` are records too; they come from the nouns. Refuses to know how a
record becomes a line (`encoding`) and what records add up to (`state`).
"""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Self

from msgspec import Struct, field

from dask_runner.batch import Batch, InputFile, Outcome, WorkloadSpec

FORMAT = 1


def utc_now() -> str:
    """The wall clock as UTC ISO 8601: for people; the order of events is the order of `seq`."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class ShippedItem(Struct, frozen=True, kw_only=True):
    """A file or folder that was given with --ship, by the name (path text) under which it is in the
    shipped folder.
    """

    name: str
    sha256: str
    bytes: int


class Shipment(Struct, frozen=True, kw_only=True):
    """All that was shipped: the folder `shipped/<sha256>` of the run folder has the hash `sha256`
    (see `trees`).
    """

    sha256: str
    items: tuple[ShippedItem, ...]


class Header(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The first line: where the run came from. `hosts` are lines of a hostfile. `first` is the
    number of batches that this invocation was asked to dispatch (None: all); `import_path` are
    folders where the batches look for modules first, but for what is `shipped`.

    `Manifest.create` fills `format`, `outputs` and `attempts` (text form of the folders, relative
    to the run folder when inside it) and the number of `inputs` and `batches` of the plan.
    """

    timestamp: str
    workload: WorkloadSpec
    seed: int
    format: int = 0
    inputs: int = 0
    batches: int = 0
    outputs: str = ""
    attempts: str = ""
    argv: tuple[str, ...] = ()
    label: str = ""
    created: str = field(default_factory=utc_now)
    user: str = ""
    host: str = ""
    code_version: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    hosts: tuple[str, ...] = ()
    limits: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    first: int | None = None
    import_path: tuple[str, ...] = ()
    shipped: Shipment | None = None
    details: dict[str, Any] = field(default_factory=dict)


class Started(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Attempts were sent to a host: (batch index, attempt number) of each, as one group."""

    attempts: tuple[tuple[int, int], ...]
    group: str = ""
    host: str = ""
    time: str = field(default_factory=utc_now)


class Intent(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The outputs of these attempts are about to get their final names."""

    attempts: tuple[tuple[int, int], ...]
    time: str = field(default_factory=utc_now)


class Done(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The outputs of these attempts have their final names, durably."""

    attempts: tuple[tuple[int, int], ...]
    time: str = field(default_factory=utc_now)


class NoteKind(StrEnum):
    """Notes that the product itself writes. RERUN and TAKEOVER begin a new driver session: what
    was running then is not running any more. LOST_OUTPUT takes `done` back. CLUSTER and ENDED are
    the begin and the end of a session's dispatch; the second is missing if the driver was killed.
    STAGING says how a host comes to its files, STANDSTILL that nothing has run for long, or does
    again, UNBLINDED who looked at observed data, when and why.
    """

    RERUN = "rerun"
    TAKEOVER = "takeover"
    TORN_TAIL = "torn-tail"
    LOST_OUTPUT = "lost-output"
    CHANGED_INPUTS = "changed-inputs"
    QUARANTINE = "quarantine"
    TRUSTED = "trusted"
    LOST_HOST = "lost-host"
    JOINED = "host-joined"
    REFUSED = "host-refused"
    POISON = "poison"
    RESTARTED = "cluster-restarted"
    CLUSTER = "cluster"
    STAGING = "staging"
    STANDSTILL = "standstill"
    ENDED = "ended"
    UNBLINDED = "unblinded"


class Note(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that a reader of the history should know: what, when, who, why."""

    kind: str
    text: str = ""
    data: dict[str, Any] = field(default_factory=dict)
    time: str = field(default_factory=utc_now)
    who: str = ""

    @classmethod
    def lost_output(cls, batches: list[int], text: str, *, who: str = "") -> Self:
        """The published outputs of these batches are gone or changed: they are pending again."""
        return cls(kind=NoteKind.LOST_OUTPUT, text=text, data={"batches": batches}, who=who)


class Split(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`batch` is superseded by `parts`, whose indices continue those of the plan."""

    batch: int
    parts: tuple[Batch, ...]
    time: str = field(default_factory=utc_now)


class Extension(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """More work for the same run: `batches`, whose indices continue those there are. `text` says
    what was asked for.
    """

    batches: tuple[Batch, ...]
    text: str = ""
    who: str = ""
    time: str = field(default_factory=utc_now)


Record = Header | InputFile | Batch | Started | Outcome | Intent | Done | Note | Split | Extension
