"""The record of a run: one append-only file from which every verdict is derived.

Manifest     the one writer: create, open, record          writer
read_state   load without a lock; Follower, history        reader
RunState     the fold: what the history adds up to         state, views, plan
Header ...   what may stand in a line                      records, encoding
(the file: append, torn tail, damage)                      journal
lock_holder  who is writing                                lock
"""

from dask_runner.manifest.ledger import HostTotals, Verdict
from dask_runner.manifest.lock import LockHolder, lock_holder
from dask_runner.manifest.reader import Follower, history, manifest_path, read_state, records
from dask_runner.manifest.records import (
    Done,
    Extension,
    Header,
    Intent,
    Note,
    NoteKind,
    Record,
    Shipment,
    ShippedItem,
    Split,
    Started,
    utc_now,
)
from dask_runner.manifest.state import Count, Running, RunState
from dask_runner.manifest.writer import Manifest

__all__ = [
    "Count",
    "Done",
    "Extension",
    "Follower",
    "Header",
    "HostTotals",
    "Intent",
    "LockHolder",
    "Manifest",
    "Note",
    "NoteKind",
    "Record",
    "RunState",
    "Running",
    "Shipment",
    "ShippedItem",
    "Split",
    "Started",
    "Verdict",
    "history",
    "lock_holder",
    "manifest_path",
    "read_state",
    "records",
    "utc_now",
]
