"""What `--ship` names: copied into the run folder when the run is made, hashed, never changed.

Owns the copy and that nothing else is used in its place, by a rerun after years or by the plan.
Links inside a shipped folder are followed, those that lead out of it are refused; `__pycache__` is
left out. How the copy comes to the hosts is for `staging` to know.
"""

import logging
import os
import secrets
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from msgspec import Struct

from dask_runner import run_folder, trees, workloads
from dask_runner.batch import WorkloadSpec
from dask_runner.errors import BadInputError, StorageError, UsageError
from dask_runner.files import fsync_folder, path_to_text, text_to_path
from dask_runner.manifest import Header, Shipment, ShippedItem
from dask_runner.run_folder import RunFolder
from dask_runner.versions import modules_needed
from dask_runner.workloads.interface import Workload
from dask_runner.workloads.shipped import module_name

_log = logging.getLogger(__name__)

# Every host gets it all.
_MUCH = 100_000_000


def ship(paths: Sequence[Path], folder: RunFolder) -> Shipment:
    """Copy files and folders into the run folder. Raises UsageError for what cannot be shipped,
    StorageError if the disk fails.
    """
    named = _named(paths)
    beside = folder.shipments / f".{secrets.token_hex(8)}.part"
    try:
        beside.mkdir(parents=True)
        shipment = _copy_all(named, beside)
        beside.rename(folder.shipped(shipment.sha256))
        fsync_folder(folder.shipments)
    except OSError as error:
        raise StorageError(
            f"cannot copy what is shipped to {folder.shipments}: {error}",
            hint="nothing was started",
        ) from error
    size = sum(item.bytes for item in shipment.items)
    if size > _MUCH:
        _log.warning(
            "%.0f MB are shipped, to each host that does not see the run folder; are data better "
            "given as inputs?",
            size / 1e6,
        )
    return shipment


def shipped_folder(header: Header, folder: RunFolder) -> Path | None:
    """The folder of what the run has shipped, None if nothing. Raises BadInputError if it is not
    as it was.
    """
    if header.shipped is None:
        return None
    path = folder.shipped(header.shipped.sha256)
    for item in header.shipped.items:
        copy = path / text_to_path(item.name)
        try:
            good = trees.measure(copy).sha256 == item.sha256
        except (OSError, UsageError) as error:
            raise _damaged(copy, f"cannot be read: {error}") from error
        if not good:
            raise _damaged(copy, "has changed")
    if trees.measure(path).sha256 != header.shipped.sha256:
        raise _damaged(path, "holds more than was shipped")
    return path


def load_workload(header: Header, folder: RunFolder) -> Workload:
    """The run's workload, as it was shipped if it was. Raises UsageError, BadInputError."""
    return workloads.load(header.workload, header.import_path, shipped_folder(header, folder))


def preload(workload: Workload, shipment: Shipment | None) -> tuple[str, ...]:
    """The modules that the warm processes import: those that are shipped are each run's own."""
    if shipment is None:
        return workload.preload
    shipped = {text_to_path(item.name).name.partition(".")[0] for item in shipment.items}
    return tuple(name for name in workload.preload if name.partition(".")[0] not in shipped)


class Shipped(Struct, frozen=True, kw_only=True):
    """A workload as it is in the copy of what was shipped."""

    workload: Any
    shipment: Shipment


class Tried(Struct, frozen=True, kw_only=True):
    """The same without a run; `folder` is None and `workload` as it was if nothing is shipped."""

    workload: Any
    preload: tuple[str, ...]
    folder: Path | None = None


@contextmanager
def planned_from_copy(
    paths: Sequence[Path], folder: RunFolder, spec: WorkloadSpec, import_path: Sequence[str]
) -> Iterator[Shipped]:
    """Ship, and give the workload as it is in the copy, to be planned; if that fails, nothing of
    the claimed run folder is left.
    """
    try:
        shipment = ship(paths, folder)
        copy = folder.shipped(shipment.sha256)
        workload = workloads.load(spec, import_path, copy)
        yield Shipped(workload=workload, shipment=shipment)
    except BaseException:
        run_folder.disclaim(folder)
        raise


@contextmanager
def tried(paths: Sequence[Path], workload: Workload, import_path: Sequence[str]) -> Iterator[Tried]:
    """The workload as it would be in the copy, for as long as this is open."""
    if not paths:
        yield Tried(workload=workload, preload=workload.preload)
        return
    with tempfile.TemporaryDirectory(prefix="dask-runner-") as place:
        folder = RunFolder.at(Path(place))
        shipment = ship(paths, folder)
        copy = folder.shipped(shipment.sha256)
        workload = workloads.load(workloads.spec_of(workload), import_path, copy)
        yield Tried(workload=workload, preload=preload(workload, shipment), folder=copy)


def _named(paths: Sequence[Path]) -> dict[str, Path]:
    """The paths by the names that they will have in the copy."""
    named: dict[str, Path] = {}
    for path in paths:
        given = Path(os.path.abspath(path.expanduser()))  # noqa: PTH100 - the name of a link is kept
        if not given.exists():
            raise UsageError(f"--ship {path}: no such file or folder")
        if not given.name:
            raise UsageError(f"--ship {path}: has no name")
        if given.name in named:
            raise UsageError(f"--ship {path}: {named[given.name]} has the same name")
        module = module_name(given)
        if module in sys.stdlib_module_names or module in modules_needed():
            raise UsageError(
                f"--ship {path}: would take the place of the module {module}, which is imported "
                "before anything that is shipped",
                hint="give it another name",
            )
        named[given.name] = given
    return named


def _copy_all(named: dict[str, Path], target: Path) -> Shipment:
    items = []
    for name, source in sorted(named.items()):
        trees.copy(source, target / name)
        measure = trees.measure(target / name)
        items.append(
            ShippedItem(name=path_to_text(name), sha256=measure.sha256, bytes=measure.bytes)
        )
    fsync_folder(target)
    return Shipment(sha256=trees.measure(target).sha256, items=tuple(items))


def _damaged(path: Path, what: str) -> BadInputError:
    return BadInputError(
        f"{path}: {what}; the run was made with other bytes",
        hint="bring back the run's copy, or start a new run",
    )
