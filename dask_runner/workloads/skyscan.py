"""The workload `skyscan`: the test statistic of a point source at every pixel of a sky, or of many.

Owns how skies and their pixels become batches and maps. What a pixel gives depends on the sky and
on its own place alone: however a sky is split, it is the same map. Scrambled sky k has random
streams of its own, by (seed, source, k). The observed sky is scanned only if the workload says why.
"""

import time
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from msgspec import Struct

from dask_runner import model_files
from dask_runner.batch import Batch, PlannedOutput
from dask_runner.errors import UsageError
from dask_runner.seeds import TrialStreams
from dask_runner.sky import scans
from dask_runner.sky.config import SearchConfig
from dask_runner.sky.events import Events
from dask_runner.sky.flux import PowerLaw
from dask_runner.sky.likelihood import Evaluator
from dask_runner.sky.pixels import centres
from dask_runner.sky.search import Search
from dask_runner.sky.significance import Significance
from dask_runner.sky.skymaps import SkyMap, sky_map
from dask_runner.workloads.interface import (
    PREPARE_SECONDS,
    MergedFile,
    MergeRequest,
    Plan,
    Results,
)

Keep = Literal["maps", "hottest"]

# The streams of a sky are those of a trial of this name.
_STREAMS = "skyscan"
_BANDS = 16
_MOST_BATCHES = 5_000_000


class InjectedSource(Struct, frozen=True, kw_only=True):
    """An injected source: `ra`, `dec` and `extension` in degrees, `n_sig` expected events (Poisson)
    of a power law with this index and cutoff (GeV, 0: none).
    """

    ra: float
    dec: float
    n_sig: float
    index: float
    cutoff: float = 0.0
    extension: float = 0.0

    @property
    def flux(self) -> PowerLaw:
        return PowerLaw(index=self.index, cutoff=self.cutoff)


class SkyScan(Struct, frozen=True, kw_only=True):
    """Skies 0 to `skies - 1`, each of the `pixels` from `first_pixel` on of a HEALPix grid `nside`
    in RING order; `size` pixels go into a batch. `unblind` is the reason to scan the observed sky,
    "" for scrambled ones. With `keep` = hottest, only the hottest pixel of each sky is kept: by its
    p-value if there is a `significance`.
    """

    uses_folder: ClassVar[bool] = False
    preload: ClassVar[tuple[str, ...]] = ("dask_runner.workloads.skyscan", "scipy.special")

    search: SearchConfig
    seed: int
    nside: int
    first_pixel: int
    pixels: int
    size: int
    skies: int = 1
    keep: Keep = "maps"
    unblind: str = ""
    source: InjectedSource | None = None
    significance: Significance | None = None
    notes: tuple[str, ...] = ()

    def plan(self) -> Plan:
        """The batches in order of skies and pixels. Raises UsageError for what contradicts, and for
        more batches than anybody waits for.
        """
        if self.unblind and (self.skies != 1 or self.source is not None):
            raise UsageError("there is one observed sky, and nothing is injected into it")
        if self.skies * self.pixels > _MOST_BATCHES * self.size:
            raise UsageError(
                f"{self.skies * self.pixels} pixels in batches of {self.size}: too many batches",
                hint="larger batches: -b, or none for a size by time",
            )
        batches = self.batches([(0, self.skies * self.pixels)], first_index=0)
        return Plan(
            batches=batches,
            inputs=model_files.planned(model_files.files_of(self.search)),
            notes=self.notes,
        )

    def batches(self, ranges: Iterable[tuple[int, int]], *, first_index: int) -> list[Batch]:
        """Batches, numbered from `first_index`, for ranges (first, behind the last) of the scan."""
        return self._batches(ranges, self.size, first_index)

    def _batches(
        self, ranges: Iterable[tuple[int, int]], size: int, first_index: int
    ) -> list[Batch]:
        pieces = [piece for first, end in ranges for piece in _pieces(first, end, size)]
        files = model_files.ranges(model_files.files_of(self.search))
        return [
            Batch(
                index=index,
                workload=_STREAMS,
                count=count,
                inputs=files,
                parameters={"first": first},
                outputs=(PlannedOutput(name=self._name(first, count), returned=True),),
            )
            for index, (first, count) in enumerate(pieces, start=first_index)
        ]

    def _name(self, first: int, count: int) -> str:
        return f"scan.{first:010d}-{first + count - 1:010d}.npy"

    def cost_key(self, batch: Batch) -> str:
        """Pixels of a band of declination cost about the same: events are not evenly spread."""
        first = int(batch.parameters["first"])
        if batch.count >= self.pixels:
            return "skies"
        _, dec = centres(self.nside, self.first_pixel + (first + batch.count // 2) % self.pixels)
        return f"band {int((np.sin(dec) + 1) * _BANDS / 2)}"

    def divide(self, batch: Batch, size: int, *, first_index: int) -> list[Batch]:
        """The batch as batches of at most `size` pixels."""
        first = int(batch.parameters["first"])
        return self._batches([(first, first + batch.count)], size, first_index)

    def run(self, batch: Batch, folder: Path) -> Results:  # noqa: ARG002  # nothing is written
        """Scan the batch's pixels."""
        began = time.perf_counter()
        search = Search.load(self._located(batch))
        prepared = time.perf_counter() - began
        tables, unconverged = [], 0
        for sky, first, count in scans.sky_ranges(
            int(batch.parameters["first"]), batch.count, self.pixels
        ):
            began = time.perf_counter()
            evaluator = self.evaluator(search, sky)
            prepared += time.perf_counter() - began
            table, missed = self.scan(evaluator, sky, first, count)
            tables.append(table)
            unconverged += missed
        counters = {
            "pixels": float(batch.count),
            "not_converged": float(unconverged),
            PREPARE_SECONDS: prepared,
        }
        data = scans.encode(np.concatenate(tables))
        return Results(counters=counters, files={batch.outputs[0].name: data})

    def _located(self, batch: Batch) -> SearchConfig:
        """With the samples where this host has them."""
        files = model_files.files_of(self.search)
        return self.search.located(model_files.places(files, batch.inputs))

    def evaluator(self, search: Search, sky: int) -> Evaluator:
        """The test statistic of a sky, for sources with the extension that the search looks for."""
        extension = float(np.radians(self.search.signal.extension))
        return Evaluator(search, self.events(search, sky), extension=extension)

    def events(self, search: Search, sky: int) -> Events:
        """The events of a sky: observed, or scrambled in right ascension, with a source if there
        is one.
        """
        if self.unblind:
            return search.observed()
        streams = self.streams().at(sky)
        scrambled = search.scrambled(streams.rng("scramble"))
        if self.source is None:
            return scrambled
        one = self.source
        signal = search.inject(
            streams.rng("inject"),
            np.radians(one.dec),
            np.radians(one.ra),
            one.n_sig,
            one.flux,
            extension=np.radians(one.extension),
        )
        return Events.joined([scrambled, signal])

    def streams(self) -> TrialStreams:
        """The random streams of the skies."""
        one = self.source
        point = {} if one is None else {name: getattr(one, name) for name in one.__struct_fields__}
        return TrialStreams(seed=self.seed, model=_STREAMS, point=point)

    def scan(
        self, evaluator: Evaluator, sky: int, first: int, count: int
    ) -> tuple[scans.Table, int]:
        """The rows of `count` pixels of a sky from `first` (in the band) on, or of the hottest of
        them; and how many fits did not converge.
        """
        number = self.first_pixel + first + np.arange(count)
        ra, dec = centres(self.nside, number)
        found = evaluator.scan(ra, dec)
        missed = int(np.count_nonzero(~found.converged))
        table = np.zeros(count, scans.PIXEL if self.keep == "maps" else scans.HOTTEST)
        for name in ("ts", "n_s", "gamma"):
            table[name] = getattr(found, name)
        if self.keep == "maps":
            return table, missed
        table["sky"], table["pixel"], table["ra"], table["dec"] = sky, number, ra, dec
        table["mlog10p"] = self._heat(dec, table["ts"])
        return scans.hottest_of(table), missed

    def _heat(self, dec: Any, ts: Any) -> Any:
        return np.nan if self.significance is None else self.significance.mlog10p(dec, ts)

    def merge(self, request: MergeRequest) -> list[MergedFile]:
        """A map of each complete sky, the hottest pixel of each, and of a single sky a table of
        its hottest spots.
        """
        from dask_runner.workloads import skyscan_merge  # noqa: PLC0415  (hosts do not merge)

        return skyscan_merge.merge(self, request)

    def label(self, sky: int) -> str | int:
        """What a map's header calls a sky."""
        return "observed" if self.unblind else sky

    def map_of(self, pieces: Sequence[scans.Piece], sky: int) -> SkyMap:
        """The map of a sky of a scan that keeps maps."""
        table = scans.read_sky(pieces, sky, self.pixels)
        return sky_map(self.nside, self.first_pixel, table, self.significance)

    def hottest_row(self, found: SkyMap, sky: int) -> scans.Table:
        """The hottest pixel of a map, as a scan that keeps only those has it."""
        known = np.flatnonzero(np.isfinite(found.columns["ts"]))
        table = np.zeros(len(known), scans.HOTTEST)
        table["sky"], table["pixel"] = sky, self.first_pixel + known
        table["ra"], table["dec"] = found.ra[known], found.dec[known]
        table["mlog10p"] = np.nan
        for name, values in found.columns.items():
            table[name] = values[known]
        return scans.hottest_of(table)


def _pieces(first: int, end: int, size: int) -> list[tuple[int, int]]:
    """Ranges of equal size as far as possible: (first, count)."""
    number = -((first - end) // size)
    edges = [first + (end - first) * k // number for k in range(number + 1)]
    return [(low, high - low) for low, high in pairwise(edges)]
