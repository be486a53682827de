"""jobReport.json as ATLAS job transforms write it: exitCode, exitMsg, and nentries of each output.

A report that cannot be read is no failure (the output is looked at anyway), but it is said.
"""

from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct, field

REPORT = "jobReport.json"
_LARGEST = 64 << 20


class _SubFile(Struct, frozen=True):
    name: str = ""
    # Transforms write a number, null, or a word such as UNDEFINED.
    nentries: Any = None


class _Output(Struct, frozen=True):
    subFiles: tuple[_SubFile, ...] = ()  # noqa: N815 - the report's own spelling


class _Files(Struct, frozen=True):
    output: tuple[_Output, ...] = ()


class JobReport(Struct, frozen=True):
    """The part of a report that we read; other fields are ignored."""

    exitCode: int | None = None  # noqa: N815 - the report's own spelling
    exitMsg: str | None = ""  # noqa: N815
    files: _Files = field(default_factory=_Files)

    def entries_of(self, name: str) -> int | None:
        """What the report claims for the output file `name`, if it claims anything."""
        for output in self.files.output:
            for file in output.subFiles:
                if Path(file.name).name == name and isinstance(file.nentries, int):
                    return file.nentries
        return None


def remove_report(folder: Path) -> None:
    """Take away an earlier step's report, so that it is never taken for the next step's."""
    (folder / REPORT).unlink(missing_ok=True)


def read_report(folder: Path, *, keep_as: str) -> JobReport | None:
    """The report that a step left, which is kept under another name; None if there is none."""
    path = folder / REPORT
    if not path.is_file():
        return None
    path = path.replace(folder / keep_as)
    if path.stat().st_size > _LARGEST:
        print(f"{REPORT} is larger than {_LARGEST} bytes and was not read", flush=True)  # noqa: T201 - the batch's log
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=JobReport)
    except msgspec.MsgspecError as error:
        print(f"{REPORT} cannot be read: {error}", flush=True)  # noqa: T201 - the batch's log
        return None
