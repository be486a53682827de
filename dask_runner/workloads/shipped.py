"""The folder of what a run has shipped (`--ship`), as the code of a batch sees it.

Owns its place on the import path: first, also for modules that this process has imported already.
"""

import importlib
import os
import sys
from pathlib import Path
from typing import Final

# Where programs find the folder.
VARIABLE: Final = "DASK_RUNNER_SHIPPED"


def put_first(folder: Path) -> None:
    """From now on this process imports what is in the folder from there."""
    path = os.fspath(folder)
    sys.dont_write_bytecode = True
    sys.path[:] = [path, *(other for other in sys.path if other != path)]
    importlib.invalidate_caches()
    names = set(module_names(folder))
    for name in [name for name in sys.modules if name.partition(".")[0] in names]:
        module_file = getattr(sys.modules[name], "__file__", None) or ""
        if not module_file.startswith(path + os.sep):
            del sys.modules[name]


def show(folder: Path | None) -> None:
    """Tell the programs that this process starts where the folder is."""
    if folder is None:
        os.environ.pop(VARIABLE, None)
        return
    os.environ[VARIABLE] = os.fspath(folder)
    # The copy stays as it is, as far as that is up to us.
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"


def module_names(folder: Path) -> list[str]:
    """The names under which what is in the folder can be imported."""
    return [name for entry in folder.iterdir() if (name := module_name(entry))]


def module_name(path: Path) -> str:
    """The name under which a file or folder can be imported, "" if there is none."""
    name = path.name if path.is_dir() else path.name.partition(".")[0]
    importable = path.is_dir() or path.name == f"{name}.py" or path.suffix == ".so"
    return name if importable and name.isidentifier() else ""
