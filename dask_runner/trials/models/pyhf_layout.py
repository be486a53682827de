"""What a HistFactory model consists of: its parameters as pyhf orders them, and its cells.

The layout is made by pyhf at planning and is JSON: so hosts need no pyhf. Refuses to compute.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from dask_runner.errors import UsageError

# Modifiers whose parameters multiply; those with a parameter for each bin that they touch.
_DIRECT = frozenset({"normfactor", "lumi", "shapefactor", "shapesys", "staterror"})
_PER_BIN = frozenset({"shapesys", "staterror"})

Channels = Sequence[Mapping[str, Any]]


class Layout(Struct, frozen=True, kw_only=True):
    """`first` is the index of a modifier's first parameter, `offsets` that of a channel's first
    bin. A constraint is (parameter, sigma, measured) or, if Poisson, (parameter, factor, measured).
    """

    names: tuple[str, ...]
    start: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    fixed: tuple[bool, ...]
    poi: int
    first: dict[str, int]
    offsets: dict[str, int]
    bins: int
    normals: tuple[tuple[int, float, float], ...] = ()
    poissons: tuple[tuple[int, float, float], ...] = ()


def layout_of(config: Any) -> Layout:
    """From the `config` of a pyhf model, which has a parameter of interest."""
    bounds = [[float(end) for end in pair] for pair in config.suggested_bounds()]
    normals, poissons = _constraints(config)
    return Layout(
        names=tuple(config.par_names),
        start=tuple(float(value) for value in config.suggested_init()),
        low=tuple(pair[0] for pair in bounds),
        high=tuple(pair[1] for pair in bounds),
        fixed=tuple(bool(value) for value in config.suggested_fixed()),
        poi=int(config.poi_index),
        first={name: int(config.par_slice(name).start) for name in config.par_order},
        offsets={name: int(where.start) for name, where in config.channel_slices.items()},
        bins=int(config.nmaindata),
        normals=tuple(normals),
        poissons=tuple(poissons),
    )


def _constraints(
    config: Any,
) -> tuple[list[tuple[int, float, float]], list[tuple[int, float, float]]]:
    normals: list[tuple[int, float, float]] = []
    poissons: list[tuple[int, float, float]] = []
    position = 0
    for name in config.auxdata_order:
        parameter = config.param_set(name)
        first = int(config.par_slice(name).start)
        normal = parameter.pdf_type == "normal"
        widths = parameter.width() if normal else parameter.factors
        for offset in range(parameter.n_parameters):
            measured = float(config.auxdata[position])
            one = (first + offset, float(widths[offset]), measured)
            (normals if normal else poissons).append(one)
            position += 1
    return normals, poissons


class Parts:
    """What the JSON says, cell by cell; a cell is a bin of a sample, a block all of a sample's in a
    channel. `direct` are the parameters that multiply a cell; `norms` (block, parameter, low, high)
    and `shifts` (cell, parameter, up, down) the interpolated modifiers.
    """

    def __init__(self, channels: Channels, layout: Layout) -> None:
        """Raises UsageError for an unknown kind of modifier."""
        self.nominal: list[float] = []
        self.bin: list[int] = []
        self.block: list[int] = []
        self.direct: list[list[int]] = []
        self.norms: list[tuple[int, int, float, float]] = []
        self.shifts: list[tuple[int, int, float, float]] = []
        self._layout = layout
        self._ranks = _ranks(channels, layout)
        for channel in channels:
            for sample in channel["samples"]:
                self._add(sample, layout.offsets[channel["name"]])

    def _add(self, sample: Mapping[str, Any], offset: int) -> None:
        data = [float(number) for number in sample["data"]]
        cells = range(len(self.nominal), len(self.nominal) + len(data))
        block = self.block[-1] + 1 if self.block else 0
        self.nominal += data
        self.bin += range(offset, offset + len(data))
        self.block += [block] * len(data)
        self.direct += [[] for _ in data]
        for modifier in sample["modifiers"]:
            parameter, kind = self._layout.first[modifier["name"]], modifier["type"]
            if kind in _DIRECT:
                for cell in cells:
                    rank = self._rank(modifier, self.bin[cell], cell - cells.start)
                    self.direct[cell].append(parameter + rank)
            elif kind == "normsys":
                low, high = modifier["data"]["lo"], modifier["data"]["hi"]
                self.norms.append((block, parameter, float(low), float(high)))
            elif kind == "histosys":
                self._add_shifts(modifier["data"], parameter, cells)
            else:
                raise UsageError(f"a modifier of type {kind!r} is not known")

    def _add_shifts(self, values: Mapping[str, Any], parameter: int, cells: range) -> None:
        for cell, low, high in zip(cells, values["lo_data"], values["hi_data"], strict=True):
            nominal = self.nominal[cell]
            self.shifts.append((cell, parameter, high - nominal, nominal - low))

    def _rank(self, modifier: Mapping[str, Any], place: int, position: int) -> int:
        """Which of the modifier's parameters is that of the bin `place`, the `position`-th of its
        channel.
        """
        if modifier["type"] in _PER_BIN:
            return self._ranks[modifier["name"]][place]
        return position if modifier["type"] == "shapefactor" else 0


def _ranks(channels: Channels, layout: Layout) -> dict[str, dict[int, int]]:
    """Of modifiers with a parameter for each bin that they touch: name -> bin -> which."""
    touched: defaultdict[str, set[int]] = defaultdict(set)
    for channel in channels:
        offset = layout.offsets[channel["name"]]
        for sample in channel["samples"]:
            for modifier in sample["modifiers"]:
                if modifier["type"] in _PER_BIN:
                    bins = range(offset, offset + len(sample["data"]))
                    touched[modifier["name"]].update(bins)
    return {
        name: {place: rank for rank, place in enumerate(sorted(bins))}
        for name, bins in touched.items()
    }
