"""Where printed things go: data to stdout, talk to stderr; and how a run is found."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import msgspec
from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape

from dask_runner.errors import RunnerError


def _open_standard_streams() -> None:
    """A closed descriptor of 0 to 2 would become that of the next file opened: the manifest."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    # Python has none where the descriptor was closed.
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


_open_standard_streams()


def silence(descriptor: int) -> None:
    """Send to nowhere what is written to `descriptor`, also what waits in Python's buffer."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, descriptor)
    os.close(null)


class ForgivingStream:
    """stderr, whose reader may have gone and whose disk may be full: no reason to end a run."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            silence(2)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            silence(2)


class _Output(Console):
    """Ends quietly, and well, when who reads us (head, less) has seen enough."""

    def on_broken_pipe(self) -> None:
        silence(1)
        raise SystemExit(0)


# A word between colons is a word: no :boom: of a function, path or port.
out = _Output(highlight=False, emoji=False, soft_wrap=not sys.stdout.isatty())
err = Console(stderr=True, highlight=False, emoji=False, soft_wrap=not sys.stderr.isatty())

__all__ = [
    "ForgivingStream",
    "configure_logging",
    "err",
    "escape",
    "out",
    "print_error",
    "print_json",
    "report",
    "silence",
    "writing",
]


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    data = msgspec.json.format(msgspec.json.encode(value, enc_hook=_encode), indent=2)
    with writing():
        sys.stdout.write(data.decode() + "\n")


def report(view: Any, *, json: bool) -> None:
    """Show a view on stdout. If nobody reads it any more, the exit code is still what counts."""
    from dask_runner.reports import REPORTS

    try:
        REPORTS["json" if json else "terminal"](view, out)
        sys.stdout.flush()
    except BrokenPipeError:
        silence(1)


@contextmanager
def writing() -> Iterator[None]:
    """Around what is written to stdout without rich: a closed pipe is no error."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        out.on_broken_pipe()


def _encode(value: Any) -> Any:
    if isinstance(value, Path):
        return os.fspath(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def print_error(error: RunnerError) -> None:
    """What is wrong, then what to do."""
    err.print(f"[bold red]error:[/] {escape(error.message)}")
    if error.hint:
        err.print(f"[bold]hint:[/] {escape(error.hint)}")


def configure_logging(*, verbose: bool) -> None:
    """Our own talk to stderr; of libraries only warnings, and of Dask nothing that the agent or
    the manifest says better.
    """
    handler = RichHandler(console=err, show_time=False, show_path=False, markup=False)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    logging.getLogger("dask_runner").setLevel(logging.INFO if verbose else logging.WARNING)
    for name in ("distributed", "tornado", "asyncio", "asyncssh"):
        logging.getLogger(name).setLevel(logging.INFO if verbose else logging.CRITICAL)
