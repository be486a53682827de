"""Observed data enter a result only here: with a reason, and never without a record.

Owns the order: the manifests of all runs are locked, then the data are read, then who looked when
and why, at which file and what came of it is recorded durably, and only then anybody sees a number.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from msgspec import Struct, to_builtins

from dask_runner.conclusions.results import Unblinded
from dask_runner.errors import BadInputError, UsageError
from dask_runner.files import path_to_text, sha256
from dask_runner.identity import whoami
from dask_runner.manifest import Manifest, Note, NoteKind, utc_now

_ROOT = ".root:"


class Unblinding(Struct, frozen=True, kw_only=True):
    """The user's decision to look: why, and at what (FILE, FILE.root:HISTOGRAM, a number, or "" for
    what the model names).
    """

    reason: str
    source: str = ""


def decision(reason: str | None, observed: str | None) -> Unblinding | None:
    """What the options say; None if everything stays blind. Raises UsageError for observed data
    without a reason.
    """
    if reason is None:
        if observed is not None:
            raise UsageError(
                "observed data are looked at only with a reason, which is recorded",
                hint="--unblind 'approved 2026-11-20' --observed ...",
            )
        return None
    if not reason.strip():
        raise UsageError("--unblind needs a reason", hint="--unblind 'approved 2026-11-20'")
    return Unblinding(reason=reason.strip(), source=observed or "")


def file_of(source: str) -> Path | None:
    """The file that a source names, without the histogram; None for a number or nothing."""
    file, colon, _ = source.rpartition(":")
    text = file if colon and source[: len(file) + 1].endswith(_ROOT) else source
    if not text or _is_number(text):
        return None
    return Path(text).expanduser()


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def unblind(
    paths: Sequence[Path], order: Unblinding, look: Callable[[], Mapping[str, Any]]
) -> Unblinded:
    """Lock the runs, `look` at the data, record it in each manifest, and return it.

    `look` gives JSON. Raises LockedError while a driver is at work on one of the runs, StorageError
    if it cannot be recorded: then nothing is returned.
    """
    file = file_of(order.source)
    with ExitStack() as stack:
        manifests = [stack.enter_context(Manifest.open(path)) for path in paths]
        content = "" if file is None else _hash(file)
        found = Unblinded(
            reason=order.reason,
            time=utc_now(),
            who=whoami(),
            source=order.source if file is None else _absolute(order.source, file),
            sha256=content,
            results=dict(look()),
        )
        note = Note(
            kind=NoteKind.UNBLINDED,
            text=f"observed data were looked at: {order.reason}",
            data=to_builtins(found),
            time=found.time,
            who=found.who,
        )
        for manifest in manifests:
            manifest.record(note, durable=True)
    return found


def _absolute(source: str, file: Path) -> str:
    """With the whole path, which is to be found later too."""
    _, colon, name = source.rpartition(_ROOT)
    return path_to_text(file.absolute()) + (f":{name}" if colon else "")


def _hash(file: Path) -> str:
    try:
        return sha256(file)
    except OSError as error:
        raise BadInputError(f"--observed {file}: {error.strerror}") from error
