"""Published pixels of a scan -> maps, a table of hottest spots, the hottest pixel of each sky.

Owns the names and the content of merged files. Refuses a hottest pixel of a sky that is not
complete: it would be too cold.
"""

import csv
import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dask_runner.errors import UsageError
from dask_runner.files import text_to_path
from dask_runner.sky import scans
from dask_runner.sky.skymaps import SkyMap, Spot, hottest_spots, write_fits
from dask_runner.workloads.interface import MergedFile, MergeRequest, Part

if TYPE_CHECKING:
    from dask_runner.workloads.skyscan import SkyScan

# Of the table of hottest spots.
_SPOTS: Final = 20
_APART: Final = float(np.radians(3.0))


def merge(scan: "SkyScan", request: MergeRequest) -> list[MergedFile]:
    """The files, in `request.folder`. Raises UsageError if no sky is complete, unless it is the
    only one, of which a map is made as far as it goes.
    """
    pieces = pieces_of(request.parts)
    skies = scans.complete_skies(pieces, scan.pixels)
    if scan.keep == "maps" and scan.skies == 1 and not _extended(pieces, scan):
        found = scan.map_of(pieces, 0)
        return [
            _write_map(found, scan.label(0), request, "skymap.fits"),
            _write_spots(found, request.folder),
        ]
    if not skies:
        raise UsageError("no sky is complete", hint="dask-runner rerun TIMESTAMP")
    if scan.keep == "hottest":
        rows = scans.read_hottest(pieces)
        return [_write_hottest(rows[np.isin(rows["sky"], skies)], request.folder)]
    merged, hottest = [], []
    for sky in skies:
        found = scan.map_of(pieces, sky)
        merged.append(_write_map(found, sky, request, f"skymap.{sky:06d}.fits"))
        hottest.append(scan.hottest_row(found, sky))
    return [*merged, _write_hottest(np.concatenate(hottest), request.folder)]


def _extended(pieces: Iterable[scans.Piece], scan: "SkyScan") -> bool:
    """Skies may have been added to the one that there was."""
    return any(piece.first + piece.count > scan.pixels for piece in pieces)


def pieces_of(parts: Iterable[Part]) -> list[scans.Piece]:
    """The files of published batches."""
    return [
        scans.Piece(
            path=part.folder / text_to_path(part.batch.outputs[0].name),
            first=int(part.batch.parameters["first"]),
            count=part.batch.count,
        )
        for part in parts
    ]


def _write_map(found: SkyMap, sky: str | int, request: MergeRequest, name: str) -> MergedFile:
    target = request.folder / name
    known = int(np.count_nonzero(np.isfinite(found.columns["ts"])))
    header: dict[str, str | int | float] = {
        "RUN": str(request.metadata.get("run", "")),
        "SKY": sky,
        "MISSING": len(found.columns["ts"]) - known,
    }
    write_fits(found, target, header)
    return MergedFile(
        path=os.fspath(target),
        bytes=target.stat().st_size,
        entries=known,
        content_hash=_hash(found.columns),
    )


def _hash(columns: Mapping[str, Any]) -> str:
    """Of what hosts have computed, where instructions are pinned; p-values are added here."""
    digest = hashlib.sha256()
    for name in scans.PIXEL.names or ():
        digest.update(np.ascontiguousarray(columns[name]).tobytes())
    return digest.hexdigest()


def _write_hottest(rows: scans.Table, folder: Path) -> MergedFile:
    data = scans.encode(rows)
    target = folder / "hottest.npy"
    target.write_bytes(data)
    return MergedFile(
        path=os.fspath(target),
        bytes=len(data),
        entries=len(rows),
        content_hash=hashlib.sha256(rows.tobytes()).hexdigest(),
    )


def _write_spots(found: SkyMap, folder: Path) -> MergedFile:
    """Degrees and numbers for people, with every digit."""
    target = folder / "spots.csv"
    spots = hottest_spots(found, _SPOTS, _APART)
    with target.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        names = Spot.__struct_fields__
        writer.writerow(names)
        writer.writerows([getattr(spot, name) for name in names] for spot in spots)
    return MergedFile(path=os.fspath(target), bytes=target.stat().st_size, entries=len(spots))
