"""Joining the outputs of a `command` run: text, CSV, ROOT, or by a command of the user's.

Owns the choice by file ending, and the refusal to join what cannot be joined blindly.
"""

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from dask_runner import rootfiles
from dask_runner.errors import BadInputError, UsageError
from dask_runner.files import sha256
from dask_runner.workloads import clean_shell, template
from dask_runner.workloads.interface import MergedFile
from dask_runner.workloads.joining import merged_file
from dask_runner.workloads.template import Piece, PieceKind, Template

PLACEHOLDERS = frozenset({"inputs", "inputs_file", "output"})
_WHERE = "--merge-command"
_LOOK = 1 << 16


def check(command: str) -> None:
    """Refuse a merge command that cannot work, when the run is planned."""
    if command:
        used = _parse(command).placeholders
        if "output" not in used or not used & {"inputs", "inputs_file"}:
            raise UsageError(f"{_WHERE}: must use {{output}}, and {{inputs}} or {{inputs_file}}")


def names(outputs: Sequence[str]) -> list[str]:
    """The name of the merged file for each declared output: `x-{index}.csv` -> `x-merged.csv`."""
    found: list[str] = []
    for output in outputs:
        name = re.sub(r"\{[^{}]*\}", "merged", output, count=1)
        name = re.sub(r"[-_.]?\{[^{}]*\}", "", name)
        found.append(name if name not in found else f"{len(found) + 1}-{name}")
    return found


def merge(
    parts: Sequence[Path],
    target: Path,
    metadata: Mapping[str, Any],
    *,
    command: str = "",
    setup: str = "",
) -> MergedFile:
    """Join `parts`, in this order, into `target`."""
    if command:
        _by_command(parts, target, command, setup)
        return merged_file(target, content_hash=sha256(target))
    if target.suffix == ".root":
        trees = rootfiles.concatenate(parts, target, metadata)
        # The hash covers trees; of histograms alone it would be the same for all files.
        return merged_file(target, content_hash=rootfiles.content_hash(target) if trees else "")
    with target.open("xb") as file:
        (_join_csv if target.suffix in {".csv", ".tsv"} else _join_text)(parts, file)
    return merged_file(target, content_hash=sha256(target))


def _join_text(parts: Sequence[Path], target: BinaryIO) -> None:
    for part in parts:
        with part.open("rb") as file:
            if b"\0" in file.read(_LOOK):
                raise UsageError(
                    f"{part}: is not text, and how to join it is not known",
                    hint="give --merge-command 'my_merge {output} {inputs}'",
                )
            file.seek(0)
            _append(file, target)


def _join_csv(parts: Sequence[Path], target: BinaryIO) -> None:
    """One header, then the rows of all parts."""
    first = None
    for part in parts:
        with part.open("rb") as file:
            header = file.readline().rstrip(b"\r\n")
            if first is None:
                first = header
                target.write(header + b"\n")
            elif header != first:
                raise BadInputError(
                    f"{part}: its header {_shown(header)} differs from {_shown(first)}"
                    f" of {parts[0]}"
                )
            _append(file, target)


def _append(file: BinaryIO, target: BinaryIO) -> None:
    """The rest of a file; a last line without end gets one, or it would swallow the next."""
    before = target.tell()
    shutil.copyfileobj(file, target)
    if target.tell() > before:
        file.seek(-1, os.SEEK_END)
        if file.read(1) != b"\n":
            target.write(b"\n")


def _by_command(parts: Sequence[Path], target: Path, command: str, setup: str) -> None:
    listing = target.parent / f"{target.name}.inputs.txt"
    listing.write_bytes(b"".join(os.fsencode(part) + b"\n" for part in parts))
    values = {f"input{k}": os.fspath(part) for k, part in enumerate(parts)}
    values |= {"inputs_file": os.fspath(listing), "output": os.fspath(target)}
    words = _expanded(_parse(command), len(parts)).shell_words(values)
    # Standard output belongs to the caller's data: a merge command talks to stderr.
    end = clean_shell.run(words, setup=setup, folder=target.parent, name="merge", log=2)
    if end.code != 0:
        raise UsageError(f"{_WHERE}: ended with exit code {end.code}", hint="it says why above")
    if not target.is_file():
        raise UsageError(f"{_WHERE}: exit code 0, but no {target.name}")


def _parse(command: str) -> Template:
    return template.from_text(command, PLACEHOLDERS, where=_WHERE)


def _expanded(command: Template, count: int) -> Template:
    """The word {inputs} becomes as many words as there are inputs."""
    words: list[tuple[Piece, ...]] = []
    inputs = Piece(PieceKind.PLACEHOLDER, "inputs")
    for word in command.words:
        if word == (inputs,):
            words += [(Piece(PieceKind.PLACEHOLDER, f"input{k}"),) for k in range(count)]
        elif inputs in word:
            raise UsageError(f"{_WHERE}: {{inputs}} must be a word of its own")
        else:
            words.append(word)
    return Template(words=tuple(words))


def _shown(line: bytes) -> str:
    return repr(line[:100].decode(errors="replace"))
