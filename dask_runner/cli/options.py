"""The options that several commands share, and what they come to."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dask_runner import run_folder
from dask_runner.settings import LoadedSettings, load_settings

if TYPE_CHECKING:
    from dask_runner.opening import Target

SettingsFile = Annotated[
    Path | None,
    typer.Option(
        "--settings", help="Settings file.", show_default="./settings.toml if there is one"
    ),
]
Runs = Annotated[Path | None, typer.Option("--runs", help="Folder of the runs.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Timestamp = Annotated[
    str, typer.Argument(help="The run: its timestamp, a unique prefix of it, or `last`.")
]
Label = Annotated[str, typer.Option("--label", help="Text to know the run by.")]
First = Annotated[
    int | None,
    typer.Option("--first", min=1, help="Dispatch only N batches; `rerun` does the rest."),
]
Detach = Annotated[
    bool, typer.Option("--detach", help="Go on in the background, also after logout.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
Dry = Annotated[
    bool, typer.Option("--dry-run", "-t", help="Dry test: the plan and all checks; runs nothing.")
]
Slots = Annotated[
    int | None, typer.Option("--slots", min=0, help="Batches at a time (0: one for each core).")
]
MaxSlots = Annotated[
    int | None,
    typer.Option("--max-slots", min=1, help="Batches at a time in all, on all hosts together."),
]
Hosts = Annotated[
    str,
    typer.Option(
        "--hosts",
        help="Only these hosts: shell patterns with commas, !x leaves out.",
        show_default="all",
    ),
]
ClusterName = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        help="The cluster to use, or `local` for this machine.",
        show_default="the one that is up",
    ),
]
AcceptNumerics = Annotated[
    bool,
    typer.Option(
        "--accept-numerics",
        help="Use hosts too that compute other bits; the manifest keeps it on record.",
    ),
]
Seed = Annotated[int | None, typer.Option("--seed", min=0, help="Seed of the run.")]
Attempts = Annotated[
    int | None, typer.Option("--attempts", min=1, help="Attempts at a batch in all.")
]
Timeout = Annotated[
    float | None, typer.Option("--timeout", min=0, help="Wall time of a batch in s (0: none).")
]
Memory = Annotated[
    int | None, typer.Option("--memory", min=0, help="Memory of a batch in MB (0: no limit).")
]
Ship = Annotated[
    list[Path] | None,
    typer.Option(
        "--ship",
        help="File or folder that the batches get, modules before others; may be repeated.",
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output-dir", "-o", help="Folder for the outputs.", show_default="in the run folder"
    ),
]


def settings_for(
    file: Path | None, overrides: dict[str, Any], *, runs: Path | None = None
) -> LoadedSettings:
    """The settings in force; an option that was not given is None and overrides nothing."""
    given = {key: value for key, value in overrides.items() if value is not None}
    if runs is not None:
        given["storage.runs"] = os.fspath(runs)
    return load_settings(file, os.environ, given)


def run_path(timestamp: str, runs: Path | None, settings: Path | None) -> Path:
    """The folder of the run that a command names."""
    loaded = settings_for(settings, {}, runs=runs)
    return run_folder.find(Path(loaded.settings.storage.runs), timestamp)


def target(
    loaded: LoadedSettings, hosts: str, max_slots: int | None, *, accept_numerics: bool = False
) -> "Target":
    """What the user wants to dispatch to."""
    from dask_runner.opening import Target

    cluster = loaded.settings.cluster
    return Target(
        cluster=cluster.name,
        hosts=hosts,
        max_slots=max_slots or 0,
        staging=cluster.staging,
        cache=cluster.cache,
        accept_numerics=accept_numerics,
    )


def argv() -> tuple[str, ...]:
    """The command line as the user gave it."""
    return ("dask-runner", *sys.argv[1:])
