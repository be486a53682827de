"""Which code made this: versions of everything that can change a result."""

import hashlib
import platform
from functools import cache
from importlib import metadata
from pathlib import Path

from dask_runner.version import __version__

_PACKAGES = (
    "numpy",
    "scipy",
    "awkward",
    "uproot",
    "pythia8mc",
    "fastjet",
    "dask",
    "distributed",
    "msgspec",
)


@cache
def versions() -> dict[str, str]:
    """Versions by name, without importing anything; what is not installed is left out."""
    found = {"python": platform.python_version(), "dask-runner": code_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


@cache
def code_version() -> str:
    """The version and a hash of the package's sources: tells edited checkouts apart."""
    digest = hashlib.sha256()
    package = Path(__file__).parent
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    return f"{__version__}+{digest.hexdigest()[:12]}"
