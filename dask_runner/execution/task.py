"""What travels to a host and back: Group in, list of Outcome out, both as msgpack bytes.

Owns the limits of a batch process and the encoding. Bytes and not objects pass through Dask, so
that no pickle of ours is ever loaded, and a worker relays outcomes without looking into them.
"""

from collections.abc import Sequence
from typing import Self

import msgspec
from msgspec import Struct, field, structs

from dask_runner.batch import Attempt, Outcome, WorkloadSpec


class Delivery(Outcome, frozen=True, kw_only=True, omit_defaults=True):
    """An outcome on its way, with the contents of the outputs that come back with it, by name."""

    contents: dict[str, bytes] = field(default_factory=dict)

    def outcome(self) -> Outcome:
        """Without the contents: what is recorded."""
        return Outcome(**{name: getattr(self, name) for name in Outcome.__struct_fields__})


class Limits(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a batch process may use; zeros mean no limit.

    `timeout` in s for each batch, then TERM, then `grace` s later KILL; `memory` in bytes for the
    process tree; `log_cap` in bytes for each batch; `scratch` is the folder for private temporary
    folders on the host (path text), empty for the pool's own. `validation_timeout` is for reading
    the outputs of one batch.
    """

    timeout: float = 0.0
    grace: float = 5.0
    memory: int = 0
    nice: int = 19
    idle_io: bool = True
    log_cap: int = 10_000_000
    scratch: str = ""
    validation_timeout: float = 600.0


class Group(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Attempts that share one process, one after the other.

    `topic` is where outcomes are streamed to; `attempts_folder` is path text; `versions` go into
    the head of each log; `preload` are modules that a host imports once, before its batches
    (the workload's own `preload`). `alone`: each attempt gets a process of its own all the same.
    `paths` says where inputs are on this host that are not where the batches say, by their paths
    there; `shipped` is the folder of what the run has shipped, "" if nothing (path text);
    `import_path` are further folders to import from. `driver` is a name that no other driver has:
    two runs in different folders may have the same timestamp.
    """

    run: str
    topic: str
    workload: WorkloadSpec
    attempts_folder: str
    attempts: tuple[Attempt, ...]
    limits: Limits = field(default_factory=Limits)
    versions: dict[str, str] = field(default_factory=dict)
    preload: tuple[str, ...] = ()
    alone: bool = False
    paths: dict[str, str] = field(default_factory=dict)
    shipped: str = ""
    import_path: tuple[str, ...] = ()
    driver: str = ""

    def singles(self) -> list["Group"]:
        """A group for each attempt."""
        return [structs.replace(self, attempts=(attempt,)) for attempt in self.attempts]


class GroupHead(Struct, frozen=True, kw_only=True):
    """The part of an encoded Group that the worker reads: the rest is skipped, not decoded."""

    run: str
    topic: str
    driver: str = ""
    preload: tuple[str, ...] = ()
    alone: bool = False

    @classmethod
    def of(cls, data: bytes) -> Self:
        return msgspec.msgpack.decode(data, type=cls)


_group_encoder = msgspec.msgpack.Encoder()
_group_decoder = msgspec.msgpack.Decoder(Group)
_outcomes_decoder = msgspec.msgpack.Decoder(list[Delivery])
_raw_decoder = msgspec.msgpack.Decoder(list[msgspec.Raw])


def encode_group(group: Group) -> bytes:
    return _group_encoder.encode(group)


def decode_group(data: bytes) -> Group:
    return _group_decoder.decode(data)


def encode_outcomes(outcomes: Sequence[Outcome]) -> bytes:
    return _group_encoder.encode(outcomes)


def decode_outcomes(data: bytes) -> list[Delivery]:
    return _outcomes_decoder.decode(data)


def join_outcomes(parts: list[bytes]) -> bytes:
    """One encoded list from several, without decoding the outcomes."""
    if len(parts) == 1:
        return parts[0]
    return _group_encoder.encode([raw for part in parts for raw in _raw_decoder.decode(part)])
