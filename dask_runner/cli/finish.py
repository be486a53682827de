"""The commands for what a run has made: verify, merge, replay, clean."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dask_runner.cli import drawing, options
from dask_runner.cli.console import err, escape, out, print_json, report
from dask_runner.errors import EXIT_DONE, EXIT_FAILED_BATCHES, UsageError
from dask_runner.execution.process_tree import flush_c_streams

if TYPE_CHECKING:
    from dask_runner.manifest import RunState
    from dask_runner.merge import MergeResult

_LINES_SHOWN = 20


def verify(
    timestamp: options.Timestamp,
    *,
    runs: options.Runs = None,
    settings: options.SettingsFile = None,
    json: options.Json = False,
) -> None:
    """Hash every published output and every input again; say what is not as recorded."""
    from dask_runner.verify import verify as check

    state = _state(timestamp, runs, settings)
    found = check(state, state.folder, thorough=True)
    if json:
        print_json(found)
    else:
        for item in found.lost:
            out.print(escape(f"lost: batch {item.batch}: {item.path} {item.reason}"))
        for line in found.changed_inputs:
            out.print(escape(f"input changed: {line}"))
        for path in found.stray:
            out.print(escape(f"not published by this run: {path}"))
        size = found.bytes / 1e6
        out.print(f"{found.batches} done batches, {found.files} files, {size:.1f} MB: ", end="")
        out.print("all as recorded" if found.good else "NOT as recorded")
        if found.lost:
            err.print(f"make them again: dask-runner rerun {state.header.timestamp}")
    raise typer.Exit(EXIT_DONE if found.good else EXIT_FAILED_BATCHES)


def merge(
    timestamp: options.Timestamp,
    *,
    output_dir: Annotated[
        Path | None,
        typer.Option(
            "--output-dir", "-o", help="Folder.", show_default="merged, in the run folder"
        ),
    ] = None,
    to: Annotated[
        list[Path] | None,
        typer.Option(
            "--to",
            help="Histograms: FILE.root, FILE.npz or FILE.json; a skim: FILE.root, FILE.parquet or "
            "FILE.json (its cutflow); repeat.",
            show_default="ROOT and JSON, in the folder",
        ),
    ] = None,
    plot: Annotated[
        list[Path] | None,
        typer.Option(
            "--plot", help="Draw the histograms, or the map: FILE.png or FILE.pdf; repeat."
        ),
    ] = None,
    log: Annotated[bool, typer.Option("--log", help="Plots with a logarithmic scale.")] = False,
    stack: Annotated[
        bool, typer.Option("--stack", help="Plots with the samples upon each other.")
    ] = False,
    norm: Annotated[
        bool, typer.Option("--norm", help="Plots of shares: the sum of each sample is 1.")
    ] = False,
    acceptance: Annotated[float, typer.Option(help="Share of the events that must be done.")] = 1.0,
    runs: options.Runs = None,
    settings: options.SettingsFile = None,
    json: options.Json = False,
) -> None:
    """Join the outputs into one file of each kind, in event order, and print their hashes; or add
    up histograms, write them and draw them.
    """
    if to and output_dir is not None:
        raise UsageError("--to names the files: --output-dir has nothing to say beside it")
    looks = {"--log": log, "--stack": stack, "--norm": norm}
    if not plot and any(looks.values()):
        given = " ".join(name for name, wanted in looks.items() if wanted)
        raise UsageError(f"{given} is about plots", hint="--plot FILE.png draws one")
    drawing.check_plots(plot)
    from dask_runner.merge import merge as join

    state = _state(timestamp, runs, settings)
    filled, draw_sky = None, None
    if plot and state.header.workload.name == "skyscan":
        draw_sky = drawing.sky(state.folder.path, plot, partial=acceptance < 1)
    elif plot or state.header.workload.name == "histogram":
        from dask_runner import histogram_results

        filled = histogram_results.load(state, acceptance=acceptance)
        drawing.check_histograms(filled, plot, stack=stack)
    result = join(state, state.folder, target=output_dir, acceptance=acceptance, to=to or ())
    if filled is not None:
        drawing.histograms(filled, plot or [], log=log, stack=stack, norm=norm)
        report(histogram_results.report(state, filled, result), json=json)
    elif json:
        print_json(result)
    else:
        _show_merged(result)
    if draw_sky is not None:
        draw_sky()


def _show_merged(result: "MergeResult") -> None:
    for file in result.files:
        entries = "" if file.entries is None else f"  {file.entries} entries"
        out.print(escape(f"{file.path}  {file.bytes} bytes{entries}"))
        if file.content_hash:
            out.print(f"  content {file.content_hash}")
    out.print(f"{result.events} of {result.events_total} events")
    for line in result.missing[:_LINES_SHOWN]:
        out.print(escape(f"  missing: {line}"))
    if len(result.missing) > _LINES_SHOWN:
        out.print(f"  ... and {len(result.missing) - _LINES_SHOWN} more ranges")


def replay(
    timestamp: options.Timestamp,
    batch: Annotated[int, typer.Argument(help="Index of the batch.")],
    *,
    pdb: Annotated[bool, typer.Option("--pdb", help="Debug where it raises.")] = False,
    folder: Annotated[
        Path | None,
        typer.Option("--folder", help="Folder to run in.", show_default="a new one here"),
    ] = None,
    runs: options.Runs = None,
    settings: options.SettingsFile = None,
    json: options.Json = False,
) -> None:
    """Run one planned batch here in the terminal, without a cluster; keep its folder."""
    from dask_runner.execution.numerics import is_pinned, pinned_environment

    if not is_pinned():
        # NumPy reads these when it is imported: only a new interpreter can have them.
        os.execve(  # noqa: S606  (our own command line again)
            sys.executable,
            [sys.executable, "-P", "-m", "dask_runner", *sys.argv[1:]],
            {**os.environ, **pinned_environment()},
        )
    from dask_runner.replaying import replay_batch

    state = _state(timestamp, runs, settings)
    with _words_to_stderr():
        result = replay_batch(state, batch, folder=folder, pdb=pdb)
    if json:
        print_json(result)
    else:
        out.print(escape(result.describe()))
    raise typer.Exit(EXIT_DONE if result.good else EXIT_FAILED_BATCHES)


@contextmanager
def _words_to_stderr() -> Iterator[None]:
    """What the batch says is talk, also what its C++ parts say: stdout is for the result."""
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        flush_c_streams()
        os.dup2(kept, 1)
        os.close(kept)


def clean(
    timestamp: options.Timestamp,
    *,
    outputs: Annotated[
        bool, typer.Option("--outputs", help="Remove the published outputs too.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    runs: options.Runs = None,
    settings: options.SettingsFile = None,
    json: options.Json = False,
) -> None:
    """Remove the attempt folders and logs of a run; its manifest stays."""
    from dask_runner.cleaning import clean as remove
    from dask_runner.cleaning import survey

    state = _state(timestamp, runs, settings)
    found = survey(state, outputs=outputs)
    what = f"{found.files} files ({found.bytes / 1e6:.1f} MB) in {len(found.folders)} folders"
    for folder in found.folders:
        err.print(escape(folder))
    if outputs:
        what += f", {found.outputs} of them published outputs"
    if not yes and not _confirmed(f"remove {what}?"):
        raise UsageError("nothing was removed", hint="--yes does not ask")
    remove(state, outputs=outputs)
    if json:
        print_json(found)
    else:
        out.print(escape(f"removed {what}; the manifest is in {state.folder.path}"))


def _confirmed(question: str) -> bool:
    try:
        return typer.confirm(question, err=True)
    except typer.Abort:
        # The end of stdin is nobody's yes.
        err.print()
        return False


def _state(timestamp: str, runs: Path | None, settings: Path | None) -> "RunState":
    from dask_runner.manifest import read_state

    return read_state(options.run_path(timestamp, runs, settings))
