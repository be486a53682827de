"""From an exception, a wait status or a broken limit to a Failure with its kind and fingerprint.

Owns the rules of what counts as the same cause.
"""

import errno
import hashlib
import os
import re
import signal
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

from msgspec import Struct

from dask_runner.batch import BatchFailedError, Failure, FailureKind
from dask_runner.errors import BadInputError, RunnerError

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_MESSAGE_MAX = 2000
# What differs between two batches that fail for one reason: quoted names, paths, addresses,
# numbers. The order matters: a path may stand in quotes, a number in a path.
_VARYING = re.compile(
    r"""'[^']*'|"[^"]*"|`[^`]*`|(?:[\w.~-]*/)+[^\s:,;)\]}]*|\b0x[0-9a-fA-F]+|\b[0-9a-f]{8,}\b|[+-]?\d[\d.]*(?:[eE][+-]?\d+)?"""
)
_SPACE = re.compile(r"\s+")
# Kinds that may be how a full disk shows itself.
_MAY_BE_FULL_DISK = frozenset(
    {FailureKind.EXCEPTION, FailureKind.EXIT_CODE, FailureKind.SIGNAL, FailureKind.OUTPUT}
)
_FULL_BELOW = 1 << 16


class Cause(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why an attempt failed, as the failing process tells it: a Failure without log and host."""

    kind: FailureKind
    message: str
    cause: str = ""
    exit_code: int | None = None
    final: bool = False
    path: str = ""

    def failure(self, tail: bytes = b"") -> Failure:
        return Failure(
            kind=self.kind,
            message=self.message,
            fingerprint=fingerprint(self.kind, self.cause or self.message),
            tail=tail.decode(errors="replace"),
            exit_code=self.exit_code,
            final=self.final,
            path=self.path,
        )


def fingerprint(kind: FailureKind, cause: str) -> str:
    """Equal for failures with the same cause in different batches."""
    normalised = _SPACE.sub(" ", _VARYING.sub("#", cause)).strip()
    return hashlib.sha256(f"{kind}:{normalised}".encode(errors="replace")).hexdigest()[:12]


def cause_of(error: BaseException) -> Cause:  # noqa: PLR0911  # a table, row by row
    """Classify what a workload raised."""
    if isinstance(error, BatchFailedError):
        return Cause(
            kind=error.kind,
            message=_cut(error.message),
            cause=_cut(error.cause),
            exit_code=error.exit_code,
            final=error.final,
            path=_cut(error.path),
        )
    if isinstance(error, BadInputError):
        return Cause(kind=FailureKind.BAD_INPUT, message=_cut(_described(error)))
    if isinstance(error, SystemExit):
        return _cause_of_exit(error)
    if isinstance(error, subprocess.CalledProcessError):
        return _cause_of_called_process(error)
    for link in _chain(error):
        if isinstance(link, OSError) and link.errno in _FULL:
            return Cause(kind=FailureKind.DISK_FULL, message=_cut(_described(link)))
        if isinstance(link, MemoryError) or (
            isinstance(link, OSError) and link.errno == errno.ENOMEM
        ):
            return Cause(kind=FailureKind.MEMORY, message=_cut(_described(link)))
    return Cause(kind=FailureKind.EXCEPTION, message=_cut(_described(error)))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _described(error: BaseException) -> str:
    """Type and message. The message of a foreign exception may itself raise."""
    name = type(error).__qualname__
    try:
        message = str(error)
    except Exception:  # noqa: BLE001  # anything may come out of foreign code
        message = "(its message cannot be shown)"
    if isinstance(error, RunnerError) and error.hint:
        message = f"{message} ({error.hint})"
    return f"{name}: {message}" if message else name


def _cut(text: str) -> str:
    # Surrogates (names that are not UTF-8) cannot be in JSON.
    text = text.encode(errors="backslashreplace").decode()
    return text if len(text) <= _MESSAGE_MAX else f"{text[:_MESSAGE_MAX]} ..."


def _cause_of_exit(error: SystemExit) -> Cause:
    code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
    return Cause(
        kind=FailureKind.EXIT_CODE,
        message=_cut(f"SystemExit: the workload ended the process with {error.code!r}"),
        exit_code=code,
    )


def _cause_of_called_process(error: subprocess.CalledProcessError) -> Cause:
    if error.returncode < 0:
        message = f"CalledProcessError: a program was killed by {signal_name(-error.returncode)}"
        return Cause(kind=FailureKind.SIGNAL, message=message)
    return Cause(
        kind=FailureKind.EXIT_CODE,
        message=_cut(f"CalledProcessError: {error}"),
        cause=f"a program ended with exit code {_spelled(error.returncode)}",
        exit_code=error.returncode,
    )


def cause_of_death(status: int, *, memory_was_short: bool = False) -> Cause:
    """Classify the wait status of a process that ended before it had done its work."""
    if not os.WIFSIGNALED(status):
        code = os.waitstatus_to_exitcode(status)
        return Cause(
            kind=FailureKind.EXIT_CODE,
            message=f"the process ended with exit code {code} before the batch was finished",
            cause=f"early exit code {_spelled(code)}",
            exit_code=code,
        )
    number = os.WTERMSIG(status)
    if number == signal.SIGKILL and memory_was_short:
        return Cause(
            kind=FailureKind.MEMORY,
            message="killed by SIGKILL while the kernel was killing processes for lack of memory",
        )
    return Cause(
        kind=FailureKind.SIGNAL,
        message=f"killed by {signal_name(number)}",
        cause=f"killed by {signal_name(number)}",
    )


def signal_name(number: int) -> str:
    """SIGSEGV (Segmentation fault); real-time signals have only a number."""
    try:
        name = signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
    return f"{name} ({signal.strsignal(number)})"


def _spelled(code: int) -> str:
    """A number that is itself the cause must survive the normalisation: as letters."""
    return "".join("abcdefghij"[int(digit)] for digit in str(abs(code)))


def or_disk_full(cause: Cause, folders: Iterable[Path]) -> Cause:
    """The same cause, or a full disk if one of the folders has no space left now: few programs
    report it well.
    """
    if cause.kind not in _MAY_BE_FULL_DISK:
        return cause
    for folder in folders:
        try:
            state = os.statvfs(folder)
        except OSError:
            continue
        if state.f_blocks and state.f_bavail * state.f_frsize < _FULL_BELOW:
            message = f"{cause.message}; the disk of {folder} is full"
            return Cause(
                kind=FailureKind.DISK_FULL, message=_cut(message), exit_code=cause.exit_code
            )
    return cause


def kernel_kills() -> int:
    """How many processes this kernel has killed for lack of memory so far."""
    try:
        for line in Path("/proc/vmstat").read_bytes().splitlines():
            if line.startswith(b"oom_kill "):
                return int(line.split()[1])
    except OSError:
        pass  # not shown in this container: then nobody is told apart
    return 0
