"""Looking for error lines in the output of a foreign command, while it runs, in bounded memory.

Owns the default patterns and what an ignored line is: it is counted, never dropped. Whether a hit
fails the step is the caller's matter.
"""

import re
from collections.abc import Sequence

from dask_runner.errors import UsageError

# Searched in every line ...
_ALWAYS = (
    r"Traceback \(most recent call last\)",
    r"std::bad_alloc",
    r"G4Exception",
    r"TFile::ReadBuffer",
)
# ... and in lines that do not say themselves that they are harmless: every Athena log has
# `CoreDumpSvc  INFO install f-a-t-a-l handler` and `... INFO Found 0 ERROR lines`.
_BY_LEVEL = (r"\bERROR\b", r"\bFATAL\b", r"CoreDump|[Cc]ore dump")
# One of these is in every line that the default patterns match: found a hundred times faster.
_WORDS = (
    *(b"ERROR", b"FATAL", b"Traceback", b"std::bad_alloc"),
    *(b"G4Exception", b"TFile::ReadBuffer", b"CoreDump", b"ore dump"),
)
_HARMLESS = re.compile(rb"(?:\S+\s+){1,5}?(?:VERBOSE|DEBUG|INFO|WARNING)\s")

_LONGEST_LINE = 1 << 16
_LONGEST_SHOWN = 500


class LogScan:
    """Feed it chunks; then `errors`, `ignored` and `first` tell what was found."""

    def __init__(self, patterns: Sequence[str] = (), ignore: Sequence[str] = ()) -> None:
        """`patterns` are searched besides the default ones; `ignore` wins over both."""
        self.errors = 0
        self.ignored = 0
        self.first = ""
        self._always = _compile((*_ALWAYS, *patterns))
        self._by_level = _compile(_BY_LEVEL)
        self._own = _compile(patterns) if patterns else None
        self._ignore = _compile(ignore) if ignore else None
        self._rest = b""

    def feed(self, chunk: bytes) -> None:
        """Look at the next piece of output."""
        text = self._rest + chunk
        cut = text.rfind(b"\n") + 1
        # A line without end is looked at in pieces rather than kept.
        if not cut and len(text) > _LONGEST_LINE:
            cut = len(text)
        self._rest = text[cut:]
        self._look(text[:cut])

    def close(self) -> None:
        """Look at the last line, which may have no end."""
        self._look(self._rest)
        self._rest = b""

    def _look(self, text: bytes) -> None:
        if not self._may_have_errors(text):  # nearly always: no splitting
            return
        for line in re.split(rb"[\r\n]+", text):
            if self._is_error(line):
                self._count(line)

    def _may_have_errors(self, text: bytes) -> bool:
        if any(word in text for word in _WORDS):
            return True
        return self._own is not None and bool(self._own.search(text))

    def _is_error(self, line: bytes) -> bool:
        if self._always.search(line):
            return True
        return bool(self._by_level.search(line)) and not _HARMLESS.match(line)

    def _count(self, line: bytes) -> None:
        if self._ignore and self._ignore.search(line):
            self.ignored += 1
            return
        self.errors += 1
        if self.errors == 1:
            self.first = line.decode(errors="replace").strip()[:_LONGEST_SHOWN]


def check_patterns(patterns: Sequence[str], where: str) -> None:
    """Refuse what is not a regular expression."""
    for pattern in patterns:
        try:
            re.compile(pattern.encode())
        except re.error as error:
            raise UsageError(
                f"{where}: {pattern!r} is not a regular expression: {error}"
            ) from error


def _compile(patterns: Sequence[str]) -> re.Pattern[bytes]:
    return re.compile(b"|".join(b"(?:" + pattern.encode() + b")" for pattern in patterns))
