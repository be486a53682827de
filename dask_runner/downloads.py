"""Inputs that are URLs: their syntax, fetching them, this machine's copies.

Owns what may be fetched (http and https) or read where it is, and how patient we are. Refuses to
know what is in a file.
"""

import http.client
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

from dask_runner.errors import BadInputError, StorageError, UsageError
from dask_runner.file_cache import FileCache, Item, default_folder
from dask_runner.files import path_to_text, sha256

_TIMEOUT = 30.0
_BLOCK = 1 << 20
_LIMIT = 50_000_000_000
# Of what nobody has told the size of.
_LARGEST = _LIMIT
# Slower than this, in bytes per s, is standing still.
SLOWEST = 20_000
_GRACE = 60.0
_LONGEST = 255
# Addresses from which ranges are read.
SCHEMES = ("http", "https", "root", "roots", "xroot", "xroots")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_HASH = re.compile(r"sha256=([0-9a-fA-F]{64})")
_HOLDER = "driver"


def is_url(text: str) -> bool:
    """Whether the path of an input is a URL: other paths of inputs are absolute."""
    return text.startswith(("http://", "https://"))


def is_address(text: str) -> bool:
    """Whether the path of an input is not a path but an address, as `root://...`: a URL too."""
    return _SCHEME.match(text) is not None


def check_address(text: str) -> None:
    """Raises UsageError for an address from which we cannot read."""
    scheme = _SCHEME.match(text)
    if scheme is None or scheme[1].lower() not in SCHEMES:
        raise UsageError(
            f"{text}: this is not read from where it is",
            hint=f"addresses begin with {', '.join(f'{name}://' for name in SCHEMES)}",
        )
    if not text.isascii() or not text.isprintable() or " " in text:
        raise UsageError(f"{text!r}: is not a URL", hint="percent-encode special characters")
    if "*" in text:
        raise UsageError(f"{text}: servers are not asked for patterns", hint="name each file")
    try:
        parts = urlsplit(text)
        good = bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise UsageError(f"{text!r}: is not a URL", hint="as in root://host.name//path/file.root")
    if parts.password is not None or (parts.username is not None and scheme[1].startswith("http")):
        # It would be in the manifest, in logs and on every host.
        raise UsageError(f"a URL with a user's secret in it: {parts.hostname}")


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


def fetch(url: str, target: Path, size: int = 0) -> None:
    """Write what the URL gives to `target`: `size` bytes, as far as that is known. Raises
    BadInputError with the cause, also if it takes too long; StorageError if it cannot be written.
    """
    opener = urllib.request.OpenerDirector()
    # Not the usual opener: it would follow a redirection to ftp, and knows file: too.
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        _Redirections(),
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
            found = _copy(url, response, target, size)
    except urllib.error.HTTPError as error:
        error.close()
        raise BadInputError(f"{url}: the server says {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", "") or error
        raise BadInputError(f"{url}: cannot be fetched: {reason}") from error
    if expected.isdecimal() and found != int(expected):
        raise BadInputError(f"{url}: ended after {found} of {expected} bytes")


class _Redirections(urllib.request.HTTPRedirectHandler):
    """What was asked for so that nobody can read or change it is not asked for in another way."""

    def redirect_request(  # noqa: PLR0917  (it is called so)
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if req.type == "https" and not newurl.startswith("https:"):
            raise urllib.error.URLError(f"is redirected from https to {newurl}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _copy(url: str, response: http.client.HTTPResponse, target: Path, known: int) -> int:
    size, limit = 0, known or _LARGEST
    began = time.monotonic()
    try:
        file = target.open("wb")
    except OSError as error:
        raise _unwritable(target, error) from error
    with file:
        # What there is: a whole block of a slow server may take days.
        while block := response.read1(_BLOCK):
            if size + len(block) > limit:
                what = "its content has changed: " if known else ""
                raise BadInputError(f"{url}: {what}more than {limit} bytes")
            if (taken := time.monotonic() - began) > _GRACE + size / SLOWEST:
                raise BadInputError(f"{url}: {size} bytes in {taken:.0f} s, which is too slow")
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
        fetch(url, target, size)
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
