"""New ROOT files whose bytes depend on their content and name alone.

uproot writes the time and a random UUID into each file; with those, the same events would never
hash the same twice, and a replay could not be compared with what was published.
"""

import datetime as dt
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uproot
import uproot.writing._cascade as cascade
import uproot.writing._cascadentuple as cascadentuple
import uproot.writing._cascadetree as cascadetree
from uproot.writing import writable

# ROOT counts years from 1995: its earliest date says clearly that none is meant.
_NO_DATE = dt.datetime(1995, 1, 1)  # noqa: DTZ001  (uproot's own dates have no zone)
_NAMESPACE = uuid.UUID("5d1f9d1e-6f0b-5b36-9d5f-0f5cf4c5e5a1")


class _NoClock:
    """Stands where uproot's writer has the module datetime, of which it uses only now()."""

    class datetime:  # noqa: N801  (the name that is looked up)
        @staticmethod
        def now() -> dt.datetime:
            return _NO_DATE


@contextmanager
def recreate(path: Path, compression: Any) -> Iterator[Any]:
    """As `uproot.recreate`, reproducibly. uproot offers the UUID, but not the date."""
    identity = uuid.uuid5(_NAMESPACE, path.name)
    clock = cascade.datetime
    _set_clock(_NoClock)
    try:
        with uproot.recreate(path, compression=compression, uuid_function=lambda: identity) as file:
            yield file
    finally:
        _set_clock(clock)


def _set_clock(clock: Any) -> None:
    for module in (cascade, cascadentuple, cascadetree, writable):
        module.datetime = clock
