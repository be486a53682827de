"""The cache of a host as operations of its agent: what a driver asks for before it sends files.

Owns which arguments they take. Paths are path text; `cache` is the folder; "" is that of the
cluster's settings, or the user's own.
"""

from typing import Any, Protocol

import msgspec

from dask_runner import downloads
from dask_runner.cluster.channel import AgentConfig
from dask_runner.errors import BadInputError, StorageError
from dask_runner.file_cache import FileCache, Item, default_folder
from dask_runner.files import path_to_text, sha256, text_to_path


class Context(Protocol):
    """What the agent gives to its operations."""

    @property
    def config(self) -> AgentConfig: ...
    @property
    def caches(self) -> dict[str, FileCache]: ...


def has(context: Context, arguments: dict[str, Any]) -> list[str]:
    """The path of each of `items`, "" for those that are not there. Those that are stay until
    `holder` releases them, once for each time that they were found.
    """
    items = msgspec.convert(arguments["items"], list[Item])
    files = _cache(context, arguments)
    found: list[str] = []
    try:
        for item in items:
            path = files.find(item, arguments["holder"])
            found.append("" if path is None else path_to_text(path))
    except BaseException:
        hashes = [item.sha256 for item, path in zip(items, found, strict=False) if path]
        files.release(arguments["holder"], hashes)
        raise
    return found


def begin(context: Context, arguments: dict[str, Any]) -> str:
    """Where to push `item` to; makes room for it."""
    item = msgspec.convert(arguments["item"], Item)
    return path_to_text(_cache(context, arguments).begin(item, arguments["holder"]))


def commit(context: Context, arguments: dict[str, Any]) -> None:
    """`item` is at `incoming` now: check it and take it in."""
    item = msgspec.convert(arguments["item"], Item)
    _cache(context, arguments).commit(item, text_to_path(arguments["incoming"]))


def abandon(context: Context, arguments: dict[str, Any]) -> None:
    """What was to come to `incoming` will not."""
    _cache(context, arguments).abandon(text_to_path(arguments["incoming"]))


def fetch_url(context: Context, arguments: dict[str, Any]) -> None:
    """Fetch `item` from `url`, if it is not there."""
    item = msgspec.convert(arguments["item"], Item)
    files, holder = _cache(context, arguments), arguments["holder"]

    def fill(target: Any) -> None:
        downloads.fetch(arguments["url"], target, item.bytes)
        found = sha256(target)
        if found != item.sha256:
            raise BadInputError(
                f"{arguments['url']} gives other content here: sha256 {found[:12]}... instead of "
                f"{item.sha256[:12]}..."
            )

    files.get(item, holder, fill)
    files.release(holder, [item.sha256])


def release(context: Context, arguments: dict[str, Any]) -> None:
    """`holder` does not use the `hashes` any longer; null: nothing at all."""
    _cache(context, arguments).release(arguments["holder"], arguments["hashes"])


def release_driver(context: Context, holder: str) -> None:
    """The driver is gone: what it held, under its own name and more, may be removed."""
    for files in list(context.caches.values()):
        files.release_all(holder)


def _cache(context: Context, arguments: dict[str, Any]) -> FileCache:
    text = arguments["cache"] or context.config.cache
    if text not in context.caches:
        folder = text_to_path(text).expanduser() if text else default_folder()
        if not folder.is_absolute():
            raise StorageError(
                f"cluster.cache: {text!r} is not an absolute path", hint="or begin it with ~/"
            )
        # Two threads at once: the first one's stays.
        context.caches.setdefault(text, FileCache(folder, context.config.cache_limit))
    return context.caches[text]


OPERATIONS = {
    "cache-has": has,
    "cache-begin": begin,
    "cache-commit": commit,
    "cache-abandon": abandon,
    "cache-fetch-url": fetch_url,
    "cache-release": release,
}
