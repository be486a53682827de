"""What the files of a batch are called: natural order of inputs, unique stems, output names.

Owns the promise that two batches of a run never plan the same output name, whatever their inputs
are called, and that no output has a name that needs quoting. Touches no file.
"""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from dask_runner.batch import InputRange
from dask_runner.errors import UsageError

# Endings of input files that say what is in them and are no part of the stem.
_ENDINGS = (".evnt.pool.root", ".evnt.root", ".pool.root", ".root")
# A file name has at most 255 bytes; range, format, ending and hash take at most 75 of them.
_LONGEST_STEM = 180
_FORMAT = re.compile(r"[A-Za-z0-9_]+")
_HASH = re.compile(r"-[0-9a-f]{12}$")


def natural_key(path: str | os.PathLike[str]) -> tuple[tuple[int, str], ...]:
    """Sort key with numbers by value: `a.9.root` comes before `a.10.root`."""
    text = os.fspath(path)
    pieces = re.split(r"([0-9]+)", text)
    # The text itself comes last, so that `a.1` and `a.01` have an order too.
    return (*((int(p), "") if p.isdecimal() else (-1, p) for p in pieces), (-1, text))


def stems(paths: Sequence[Path]) -> list[str]:
    """A distinct short name for every (distinct) input, free of characters that need quoting.

    A stem that had to be changed, that two inputs would share, or that looks like it has a hash
    already, gets the hash of its path.
    """
    plain = [_without_ending(path.name) for path in paths]
    counts = Counter(plain)
    return [
        stem
        if counts[stem] == 1 and stem == _clean(stem) and not _HASH.search(stem)
        else f"{_clean(stem)}-{_hash(path)}"
        for path, stem in zip(paths, plain, strict=True)
    ]


def output_name(stem: str, part: InputRange, entries: int, form: str) -> str:
    """The name of the output in format `form` of a range of an input with `entries` events, as
    `<stem>.<first>-<last>.<form>.root`.

    The numbers are padded so that names sort in event order. Distinct (stem, range, form) give
    distinct names, because range and form hold no dot.
    """
    width = len(str(entries - 1))
    last = part.first + part.count - 1
    return f"{stem}.{part.first:0{width}d}-{last:0{width}d}.{form}.root"


def check_format(form: str) -> None:
    """Refuse a format whose name cannot be a part of file names."""
    if not _FORMAT.fullmatch(form) or len(form) > 24:  # noqa: PLR2004 - see _LONGEST_STEM
        raise UsageError(
            f"{form!r} is no name for a format", hint="at most 24 letters, digits and underscores"
        )


def _without_ending(name: str) -> str:
    lower = name.lower()
    ending = next((ending for ending in _ENDINGS if lower.endswith(ending)), "")
    return name[: len(name) - len(ending)]


def _clean(stem: str) -> str:
    """The stem in ASCII letters, digits and `._+=@-`, not starting with `.` or `-`."""
    return re.sub(r"[^A-Za-z0-9._+=@-]|^[.-]", "_", stem)[:_LONGEST_STEM] or "_"


def _hash(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:12]
