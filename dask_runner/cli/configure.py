"""The commands that deal with configuration: init, settings."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dask_runner.cli.console import err, out, print_json
from dask_runner.cli.options import Json, Runs, SettingsFile, settings_for
from dask_runner.errors import StorageError, UsageError

if TYPE_CHECKING:
    from rich.table import Table


def init(
    *,
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that are there.")] = False,
) -> None:
    """Write hostfile.txt and settings.toml, with every key explained, into this folder."""
    from dask_runner.files import write_atomic
    from dask_runner.hostfile import HOSTFILE_TEXT
    from dask_runner.settings.text import settings_toml

    texts = {Path("hostfile.txt"): HOSTFILE_TEXT, Path("settings.toml"): settings_toml()}
    present = [str(path) for path in texts if path.exists() or path.is_symlink()]
    if present and not force:
        raise UsageError(
            f"{' and '.join(present)} would be overwritten; nothing was written",
            hint="--force overwrites; or go to another folder",
        )
    for path, text in texts.items():
        try:
            write_atomic(path, text.encode())
        except OSError as error:
            raise StorageError(f"{path}: cannot be written: {error.strerror}") from error
        err.print(f"wrote {path}")


def settings(*, file: SettingsFile = None, runs: Runs = None, json: Json = False) -> None:
    """Show every setting in force and where it is from."""
    loaded = settings_for(file, {}, runs=runs)
    rows = {key: (_value(loaded.settings, key), origin) for key, origin in loaded.origin.items()}
    if json:
        print_json({key: {"value": value, "origin": at} for key, (value, at) in rows.items()})
        return
    out.print(table(rows))


def table(rows: dict[str, tuple[Any, str]]) -> "Table":
    """Keys with their values and where these are from."""
    from rich.table import Table
    from rich.text import Text

    from dask_runner.settings.text import toml_value

    shown = Table(box=None, pad_edge=False)
    shown.add_column("key", no_wrap=True)
    shown.add_column("value", overflow="fold")
    shown.add_column("from", no_wrap=True)
    for key, (value, origin) in rows.items():
        style = "dim" if origin == "default" else ""
        # Text, since [word] in a string would be taken for markup.
        shown.add_row(key, Text(toml_value(value)), Text(origin), style=style)
    return shown


def _value(loaded: Any, dotted: str) -> Any:
    section, _, name = dotted.partition(".")
    return getattr(getattr(loaded, section), name)
