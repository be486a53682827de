"""What a driver may ask of a host's agent (channel.Call), by name.

Each operation gets the agent's context and the arguments as they came, returns a JSON value, and
may raise: the words of the error are the answer then. It runs in a thread of its own, and may wait.
Paths in arguments and values are path text. To add one: a function, a line in the registry.
"""

import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from stat import S_ISREG
from typing import Any, Final

from msgspec import Struct, field

from dask_runner.cluster.channel import AgentConfig
from dask_runner.cluster.host import cache as host_cache
from dask_runner.errors import UsageError
from dask_runner.execution.slot import remove_tree
from dask_runner.file_cache import FileCache
from dask_runner.files import fingerprint, path_to_text, text_to_path

_LONGEST_TOKEN: Final = 4096
_HOLDER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*/[0-9a-f]+")


class Context(Struct, frozen=True, kw_only=True):
    """The agent's side: its configuration, its private folder on this host, and the caches that
    it has opened (see `host_cache`).
    """

    config: AgentConfig
    folder: Path
    caches: dict[str, FileCache] = field(default_factory=dict)

    @property
    def attempts(self) -> Path:
        """Where runs without a shared folder have their attempts."""
        return self.folder / "attempts"


def look(context: Context, arguments: dict[str, Any]) -> dict[str, bool]:
    """Whether the file `path` is here and holds `token`, and whether files can be made beside it:
    then this host has the driver's folder.
    """
    del context
    path = text_to_path(arguments["path"])
    try:
        with path.open("rb") as file:
            content = file.read(_LONGEST_TOKEN)
    except OSError:
        content = b""
    seen = content.strip() == arguments["token"].encode()
    return {"seen": seen, "writable": seen and _writable(path.parent)}


def _writable(folder: Path) -> bool:
    # Tried, not asked: a file server has its own mind about permissions.
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def folder(context: Context, arguments: dict[str, Any]) -> str:
    """The path of a private folder for the attempts of the driver `holder`, made if it is not
    there.
    """
    path = _folder_of(context, arguments["holder"])
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path_to_text(path)


def _folder_of(context: Context, holder: str) -> Path:
    if not _HOLDER.fullmatch(holder):
        raise UsageError(f"not the name of a driver: {holder!r}")
    return context.attempts / holder.replace("/", ".")


def remove(context: Context, arguments: dict[str, Any]) -> None:
    """Remove the file or folder `path`, which must be among this agent's attempts."""
    path = text_to_path(arguments["path"])
    # Of the parent: a link is removed itself, not what it leads to.
    place = path.parent.resolve() / path.name
    attempts = context.attempts.resolve()
    if path.name in {"", ".."} or place == attempts or not place.is_relative_to(attempts):
        raise UsageError(f"{path} is not among the attempts of this host, and stays")
    if place.is_dir() and not place.is_symlink():
        remove_tree(place)
    else:
        place.unlink(missing_ok=True)


def remove_all(context: Context, arguments: dict[str, Any]) -> None:
    """Remove all of the `paths`, as `remove` does."""
    for path in arguments["paths"]:
        remove(context, {"path": path})


def driver_over(context: Context, arguments: dict[str, Any]) -> None:
    """The driver that is called `holder` is gone, and perhaps could not take its leave: nothing of
    it stays here. Another one of the same run may have begun.
    """
    holder = arguments["holder"]
    path = _folder_of(context, holder)
    if path.is_dir():
        remove_tree(path)
    host_cache.release_driver(context, holder)


def stat(context: Context, arguments: dict[str, Any]) -> list[dict[str, Any] | None]:
    """`size` in bytes, `mtime` in s and `fingerprint` (as in InputFile) of each of the `paths`;
    null for what is not there, cannot be read or is no file.
    """
    del context
    return [_stat(text_to_path(text)) for text in arguments["paths"]]


def _stat(path: Path) -> dict[str, Any] | None:
    try:
        state = path.stat()
        # A pipe would be waited for.
        if not S_ISREG(state.st_mode):
            return None
        return {
            "size": state.st_size,
            "mtime": state.st_mtime,
            "fingerprint": fingerprint(path),
        }
    except OSError:
        return None


Operation = Callable[[Context, dict[str, Any]], Any]

OPERATIONS: Final[dict[str, Operation]] = {
    "driver-over": driver_over,
    "folder": folder,
    "look": look,
    "remove": remove,
    "remove-all": remove_all,
    "stat": stat,
    **host_cache.OPERATIONS,
}
