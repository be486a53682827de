"""Importing a model here as its batches will import it: what a host lacks is found out at once.

Owns the copy of what would be shipped, and that this process is afterwards as it was.
"""

import importlib
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from dask_runner import shipping
from dask_runner.run_folder import RunFolder
from dask_runner.workloads.shipped import VARIABLE, module_names, put_first, show


@contextmanager
def copied(paths: Sequence[Path]) -> Iterator[Path | None]:
    """The folder that hosts would get of what is shipped, None if nothing is."""
    if not paths:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="dask-runner-") as place:
        folder = RunFolder.at(Path(place))
        yield folder.shipped(shipping.ship(paths, folder).sha256)


@contextmanager
def as_on_hosts(shipped: Path | None, import_path: Sequence[str]) -> Iterator[None]:
    """Import what batches import: what is shipped and in `import_path`, not what happens to be in
    the user's current folder or beside the model's file. Afterwards this process is as it was.
    """
    names = set() if shipped is None else set(module_names(shipped))
    path, modules, no_bytecode = [*sys.path], _modules(names), sys.dont_write_bytecode
    variables = {name: os.environ.get(name) for name in (VARIABLE, "PYTHONDONTWRITEBYTECODE")}
    try:
        if sys.path and sys.path[0] in {"", os.getcwd()} - _configured():  # noqa: PTH109
            del sys.path[0]
        sys.path[:0] = import_path
        if shipped is not None:
            put_first(shipped)
            show(shipped)
        yield
    finally:
        sys.path[:], sys.dont_write_bytecode = path, no_bytecode
        for name in _modules(names):
            del sys.modules[name]
        sys.modules.update(modules)
        importlib.invalidate_caches()
        for name, value in variables.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _configured() -> set[str]:
    """The folders that processes which are started here import from."""
    return set(os.environ.get("PYTHONPATH", "").split(os.pathsep))


def _modules(names: set[str]) -> dict[str, ModuleType]:
    """Those under these top-level names that are imported now."""
    return {name: it for name, it in sys.modules.items() if name.partition(".")[0] in names}
