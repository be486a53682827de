"""What is to be filled: axes, histograms, cuts, samples; all of it JSON.

Owns the shape of a histogram's arrays: one dimension for each axis, with underflow in front and
overflow behind for axes of numbers, and one place for each category for axes of categories.
"""

from math import prod
from typing import Literal

import numpy as np
import numpy.typing as npt
from msgspec import Struct

SAMPLE = "sample"


class Axis(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An axis: `bins` equal bins from `start` to `stop`, or bins between `edges`, or `categories`.
    The lower edge of a bin belongs to it, the upper one to the next.
    """

    kind: Literal["regular", "variable", "category"] = "regular"
    name: str = ""
    label: str = ""
    bins: int = 0
    start: float = 0.0
    stop: float = 0.0
    edges: tuple[float, ...] = ()
    categories: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """The number of bins without underflow and overflow."""
        if self.kind == "category":
            return len(self.categories)
        return len(self.edges) - 1 if self.kind == "variable" else self.bins

    @property
    def extent(self) -> int:
        """The length of the arrays along this axis."""
        return self.size if self.kind == "category" else self.size + 2

    @property
    def all_edges(self) -> npt.NDArray[np.float64]:
        """The edges of the bins, (size + 1,); of categories 0, 1, 2 ..."""
        if self.kind == "variable":
            return np.asarray(self.edges, np.float64)
        if self.kind == "category":
            return np.arange(self.size + 1, dtype=np.float64)
        return np.linspace(self.start, self.stop, self.bins + 1)

    @property
    def inner(self) -> slice:
        """What of the arrays along this axis is neither underflow nor overflow."""
        return slice(None) if self.kind == "category" else slice(1, -1)


class HistogramSpec(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A histogram: `fill` are the expressions of its axes of numbers, in order. If it is filled by
    sample, its first axis is the category `sample`, which has no expression. `where` and `weight`
    are its own, on top of those of the job; "" if there is none.
    """

    name: str
    fill: tuple[str, ...] = ()
    axes: tuple[Axis, ...] = ()
    weight: str = ""
    where: str = ""

    @property
    def by_sample(self) -> bool:
        """True if the first axis is the sample."""
        return bool(self.axes) and self.axes[0].kind == "category" and self.axes[0].name == SAMPLE

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of its arrays."""
        return tuple(axis.extent for axis in self.axes)

    @property
    def cells(self) -> int:
        """The number of elements of its arrays."""
        return prod(self.shape)


class Sample(Struct, frozen=True, kw_only=True):
    """The files whose path matches `pattern`; a file of two samples is refused."""

    name: str
    pattern: str


class FunctionSpec(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A user's function of a chunk: `name` is module:function, `branches` what it reads, `sha256`
    that of its module's file.
    """

    name: str
    branches: tuple[str, ...]
    sha256: str = ""


class Job(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """All that is made of a tree's entries. `where` selects objects, the expressions of
    `where_event` select events, in this order; `weight` multiplies the weights of all histograms.
    `skim` are the branches to be written, also as `name = expression`; `where` selects what is in
    the lists of those columns that are in `skim_objects`.
    """

    tree: str
    histograms: tuple[HistogramSpec, ...] = ()
    where: str = ""
    where_event: tuple[str, ...] = ()
    weight: str = ""
    samples: tuple[Sample, ...] = ()
    skim: tuple[str, ...] = ()
    skim_objects: tuple[str, ...] = ()
    function: FunctionSpec | None = None
