"""Which code made this: versions of everything that can change a result, and what it needs."""

import hashlib
import platform
import re
from functools import cache
from importlib import metadata
from pathlib import Path

from dask_runner.version import __version__

_PACKAGES = (
    "numpy",
    "scipy",
    "awkward",
    "uproot",
    "boost-histogram",
    "pythia8mc",
    "fastjet",
    "dask",
    "distributed",
    "msgspec",
)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SEPARATORS = re.compile(r"[-_.]+")


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
def modules_needed() -> frozenset[str]:
    """The top-level modules of dask-runner and of all that it needs, as far as they are installed:
    by the time that a user's code is imported, any of them may be loaded.
    """
    modules = metadata.packages_distributions()
    needed: set[str] = set()
    coming = {"dask-runner", *_PACKAGES}
    while coming:
        name = coming.pop()
        needed.add(name)
        try:
            lines = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        # What only an extra needs is needed by nobody here.
        coming |= {_name_in(line) for line in lines if "extra ==" not in line} - needed
    found = {
        module
        for module, packages in modules.items()
        if any(_normal(package) in needed for package in packages)
    }
    return frozenset({"dask_runner", *found})


def _name_in(requirement: str) -> str:
    match = _NAME.match(requirement)
    return _normal(match[0]) if match else ""


def _normal(name: str) -> str:
    """A package's name in the one form that all its spellings have."""
    return _SEPARATORS.sub("-", name).lower()


@cache
def code_version() -> str:
    """The version and a hash of the package's sources: tells edited checkouts apart."""
    digest = hashlib.sha256()
    package = Path(__file__).parent
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    return f"{__version__}+{digest.hexdigest()[:12]}"
