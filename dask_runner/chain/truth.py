"""From Pythia's event record to the slim record of an EVNT file.

Owns what is kept: the final particles, the long-lived scalars with their decay vertices, and the
last copies of b and c quarks and taus, by which jets are labelled. Everything is float32.
"""

from typing import Any

import awkward as ak
import numpy as np
from numpy.typing import NDArray

from dask_runner.rootfiles import Column, Jagged

# The scalar of the hidden-valley process, and that of its heavier cousin in user cards.
LONG_LIVED = (35, 36)
_LABELS = (4, 5, 15)
_LABEL_PT = 5.0
# Pythia's status from here on: made in the decay of a hadron, or of a tau.
_HADRON_DECAYS = 91
_NOT_FOUND = -1
Integers = NDArray[np.int64]


class _Entries:
    """Pythia's entries of many events as flat arrays."""

    def __init__(self, prt: ak.Array) -> None:
        self.offsets = np.asarray(ak.to_packed(prt).layout.offsets, dtype=np.int64)
        flat = ak.flatten(prt)
        self.id = np.asarray(flat.id)
        self.status = np.asarray(flat.status)
        self.tau = np.asarray(flat.tau)
        self.momentum = {name: np.asarray(flat.p[name]) for name in ("px", "py", "pz", "e")}
        # Daughters are numbered within the event.
        self.event = np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))
        start = self.offsets[self.event]
        self.daughters = (
            start + np.asarray(flat.daughter1),
            start + np.asarray(flat.daughter2),
        )
        self.mother = start + np.asarray(flat.mother1)
        vertex = ak.fill_none(flat.vProd, {"px": 0.0, "py": 0.0, "pz": 0.0, "e": 0.0})
        self.vertex = {
            axis: np.asarray(vertex[name]) for axis, name in (("x", "px"), ("y", "py"), ("z", "pz"))
        }

    def last_copy(self) -> NDArray[np.bool_]:
        """Entries that decayed or hadronised, none of whose daughters is of the same kind."""
        first, second = self.daughters
        same = (self.id[first] == self.id) | (self.id[second] == self.id)
        ended: NDArray[np.bool_] = (self.status < 0) & ~same
        return ended

    def collection(self, chosen: Integers, vertices: Integers, **more: Column) -> Jagged:
        """The entries `chosen` with the production vertices of the entries `vertices`."""
        columns: dict[str, Column] = dict(more)
        for name, values in self.momentum.items():
            columns[name] = values[chosen].astype(np.float32)
        for axis, values in self.vertex.items():
            columns[axis] = values[vertices].astype(np.float32)
        offsets = np.searchsorted(chosen, self.offsets).astype(np.int64)
        return Jagged(offsets=offsets, columns=columns)


def record_of(prt: Any) -> dict[str, Jagged]:
    """The collections `particle`, `llp` and `parton` of an EVNT file."""
    entries = _Entries(prt)
    final = np.flatnonzero(entries.status > 0)
    ended = entries.last_copy()
    llp = np.flatnonzero(ended & np.isin(entries.id, LONG_LIVED))
    pt2 = entries.momentum["px"] ** 2 + entries.momentum["py"] ** 2
    labels = ended & np.isin(np.abs(entries.id), _LABELS) & (pt2 > _LABEL_PT**2)
    labels &= np.abs(entries.status) < _HADRON_DECAYS
    parton = np.flatnonzero(labels)
    child = entries.daughters[0][llp]
    return {
        "particle": entries.collection(final, final, id=_ids(entries, final)),
        "llp": entries.collection(
            llp,
            child,
            id=_ids(entries, llp),
            flavour=np.abs(_ids(entries, child)),
            tau=entries.tau[llp].astype(np.float32),
        ),
        "parton": entries.collection(
            parton,
            parton,
            id=_ids(entries, parton),
            llp=_origin(entries, parton, llp),
        ),
    }


def _ids(entries: _Entries, chosen: Integers) -> NDArray[np.int32]:
    return entries.id[chosen].astype(np.int32)


def _origin(entries: _Entries, parton: Integers, llp: Integers) -> NDArray[np.int32]:
    """For each parton, which scalar of its event (0, 1 ...) it descends from; or -1.

    By the line of first mothers: places do not tell, since Pythia moves them by 2e-7.
    """
    found = np.full(len(parton), _NOT_FOUND, dtype=np.int32)
    open_ = np.arange(len(parton))
    current = parton
    while len(open_):
        above = entries.mother[current]
        # Entry 0 of an event is the event itself.
        inside = above > entries.offsets[entries.event[current]]
        open_, current = open_[inside], above[inside]
        place = np.minimum(np.searchsorted(llp, current), max(len(llp) - 1, 0))
        hit = llp[place] == current if len(llp) else np.zeros(len(current), dtype=np.bool_)
        first = np.searchsorted(llp, entries.offsets[entries.event[current[hit]]])
        found[open_[hit]] = place[hit] - first
        open_, current = open_[~hit], current[~hit]
    return found
