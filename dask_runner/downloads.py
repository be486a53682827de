"""Inputs that are URLs: their syntax, fetching them, this machine's copies.

Owns what may be fetched (http and https) and how patient we are. Refuses to know what is in a file.
"""

import http.client
import os
import re
import shutil
import urllib.error
import urllib.request
from functools import cache
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlsplit

from dask_runner.errors import BadInputError, StorageError, UsageError
from dask_runner.file_cache import FileCache, Item, default_folder
from dask_runner.files import path_to_text, sha256

_TIMEOUT = 30.0
_BLOCK = 1 << 20
_LIMIT = 50_000_000_000
_LONGEST = 255
_HASH = re.compile(r"sha256=([0-9a-fA-F]{64})")
_HOLDER = "driver"


def is_url(text: str) -> bool:
    """Whether the path of an input is a URL: other paths of inputs are absolute."""
    return text.startswith(("http://", "https://"))


def split_hash(text: str) -> tuple[str, str]:
    """`URL#sha256=HEX` as URL and hash ("" if there is none). Raises UsageError for what we cannot
    fetch.
    """
    url, _, fragment = text.partition("#")
    known = _HASH.fullmatch(fragment)
    if fragment and known is None:
        raise UsageError(f"--input {text}: after # only sha256= with 64 hex digits is known")
    try:
        parts = urlsplit(url)
        good = bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good or not url.isascii() or not url.isprintable() or " " in url:
        raise UsageError(
            f"--input {text!r}: is not a URL", hint="percent-encode special characters"
        )
    if parts.username is not None or parts.password is not None:
        # It would be in the manifest, in logs and on every host.
        raise UsageError(f"--input: a URL with a user name in it: {parts.hostname}")
    return url, known[1].lower() if known else ""


def name_of(url: str) -> str:
    """The file name in a URL, as path text."""
    name = os.fsdecode(unquote_to_bytes(urlsplit(url).path.rpartition("/")[2]))
    bad = name in {"", ".", ".."} or "/" in name or "\0" in name
    return "download" if bad or len(os.fsencode(name)) > _LONGEST else path_to_text(name)


def fetch(url: str, target: Path) -> None:
    """Write what the URL gives to `target`. Raises BadInputError with the cause, StorageError if
    it cannot be written.
    """
    opener = urllib.request.OpenerDirector()
    # Not the usual opener: it would follow a redirection to ftp, and knows file: too.
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    request = urllib.request.Request(  # noqa: S310  (only http and https are known to the opener)
        url, headers={"User-Agent": "dask-runner", "Accept-Encoding": "identity"}
    )
    try:
        with opener.open(request, timeout=_TIMEOUT) as response:
            expected = response.headers.get("Content-Length", "")
            size = _copy(response, target)
    except urllib.error.HTTPError as error:
        error.close()
        raise BadInputError(f"{url}: the server says {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", "") or error
        raise BadInputError(f"{url}: cannot be fetched: {reason}") from error
    if expected.isdecimal() and size != int(expected):
        raise BadInputError(f"{url}: ended after {size} of {expected} bytes")


def _copy(response: http.client.HTTPResponse, target: Path) -> int:
    size = 0
    try:
        file = target.open("wb")
    except OSError as error:
        raise _unwritable(target, error) from error
    with file:
        while block := response.read(_BLOCK):
            try:
                file.write(block)
                file.flush()
            except OSError as error:
                raise _unwritable(target, error) from error
            size += len(block)
    return size


def _unwritable(target: Path, error: OSError) -> StorageError:
    return StorageError(f"cannot write {target}: {error.strerror}")


def local_copy(url: str, hash_: str = "", size: int = 0) -> tuple[Path, str]:
    """This machine's copy of a URL, fetched if need be, and its SHA-256. It stays until this
    process ends. Raises BadInputError if it cannot be had, or has not the hash `hash_`.
    """
    files = _cache(default_folder())
    name = name_of(url)
    if not hash_:
        return _first_copy(files, url, name)
    item = Item(sha256=hash_, name=name, bytes=size)

    def fill(target: Path) -> None:
        fetch(url, target)
        found = sha256(target)
        if found != hash_:
            raise BadInputError(
                f"{url}: its content has changed: sha256 {found[:12]}... instead of {hash_[:12]}..."
            )

    return files.get(item, _HOLDER, fill), hash_


def _first_copy(files: FileCache, url: str, name: str) -> tuple[Path, str]:
    """Of a URL of which nobody has told what it should be."""
    unknown = Item(sha256="", name=name, bytes=0)
    incoming = files.begin(unknown, _HOLDER)
    try:
        fetch(url, incoming)
        found = sha256(incoming)
        item = Item(sha256=found, name=name, bytes=incoming.stat().st_size)
        return files.get(item, _HOLDER, lambda target: _move(incoming, target)), found
    finally:
        files.abandon(incoming)


def _move(source: Path, target: Path) -> None:
    shutil.move(source, target)


@cache
def _cache(folder: Path) -> FileCache:
    return FileCache(folder, _LIMIT)
