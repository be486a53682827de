"""Where printed things go: data to stdout, talk to stderr; and how a run is found."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape

from dask_runner.errors import RunnerError


class _Output(Console):
    """Ends quietly, and well, when who reads us (head, less) has seen enough."""

    def on_broken_pipe(self) -> None:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        raise SystemExit(0)


out = _Output(highlight=False, soft_wrap=not sys.stdout.isatty())
err = Console(stderr=True, highlight=False, soft_wrap=not sys.stderr.isatty())

__all__ = ["configure_logging", "err", "escape", "out", "print_error", "print_json", "writing"]


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    data = msgspec.json.format(msgspec.json.encode(value, enc_hook=_encode), indent=2)
    with writing():
        sys.stdout.write(data.decode() + "\n")


@contextmanager
def writing() -> Iterator[None]:
    """Around what is written to stdout without rich: a closed pipe is no error."""
    try:
        yield
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
