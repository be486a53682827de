"""The commands that dispatch batches: generate, run, command, rerun. What they take is here; what
they do with it is in `driving`.
"""

import os
from pathlib import Path
from typing import Annotated

import typer

from dask_runner.cli import driving, options
from dask_runner.cli.manners import How, dispatching
from dask_runner.errors import UsageError


@dispatching
def generate(
    *,
    events: Annotated[
        int | None,
        typer.Option("-b", "--batch-size", "--batch_size", min=1, help="Events in a file."),
    ] = None,
    files: Annotated[int | None, typer.Option("-n", "--files", min=1, help="Files.")] = None,
    evnt_dir: Annotated[
        Path | None, typer.Option("--evnt-dir", "--evnt_dir", help="Folder for the files.")
    ] = None,
    run_number: Annotated[
        int | None, typer.Option("--run-number", min=1, help="Sample of the table of run numbers.")
    ] = None,
    mh: Annotated[float | None, typer.Option(help="Mass of the heavy scalar in GeV.")] = None,
    ms: Annotated[float | None, typer.Option(help="Mass of the long-lived scalar in GeV.")] = None,
    ctau: Annotated[float | None, typer.Option(help="Mean proper decay length in mm.")] = None,
    process: Annotated[int | None, typer.Option(help="1: gluon fusion, 3: with a W boson.")] = None,
    pythia_card: Annotated[
        Path | None, typer.Option("--pythia-card", help="A Pythia command file instead.")
    ] = None,
    extend: Annotated[
        bool, typer.Option("--extend", help="Add files to those in the folder.")
    ] = False,
    ship: options.Ship = None,
    seed: options.Seed = None,
    how: How,
) -> None:
    """Generate events: -n files of -b events, the same events whatever -b and -n."""
    loaded = how.load(
        {
            "generate.batch_size": events,
            "generate.files": files,
            "generate.evnt_dir": _text(evnt_dir),
            "generate.run_number": run_number,
            "generate.mh": mh,
            "generate.ms": ms,
            "generate.ctau": ctau,
            "generate.process": process,
            "generate.pythia_card": _text(pythia_card),
            "run.seed": seed,
        }
    )
    from dask_runner.workloads.generate import Generate

    workload = Generate.from_settings(loaded.settings, extend=extend)
    outputs = Path(loaded.settings.generate.evnt_dir)
    driving.dispatch(workload, loaded, how.manner(loaded), outputs=outputs, ship=ship)


@dispatching
def run(
    *,
    batch_size: Annotated[
        int | None,
        typer.Option("-b", "--batch-size", "--batch_size", min=1, help="Events in a batch."),
    ] = None,
    evnt_dir: Annotated[
        Path | None, typer.Option("--evnt-dir", "--evnt_dir", help="Folder of EVNT files.")
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="PATH_OR_URL",
            help="An input instead of those of --evnt-dir, URL#sha256=HEX is checked; repeat.",
        ),
    ] = None,
    pattern: Annotated[
        list[str] | None, typer.Option("--pattern", help="Names of input files; may be repeated.")
    ] = None,
    keep: Annotated[
        list[str] | None, typer.Option("--keep", help="Format to keep (AOD, NTUP ...); repeat.")
    ] = None,
    output_dir: options.Output = None,
    skip_bad_inputs: Annotated[
        bool, typer.Option("--skip-bad-inputs", help="Leave out inputs that cannot be read.")
    ] = False,
    ship: options.Ship = None,
    seed: options.Seed = None,
    how: How,
) -> None:
    """Simulate, digitize and reconstruct events of EVNT files, in batches of -b."""
    if inputs and (evnt_dir or pattern):
        raise UsageError("--input names all inputs: without --evnt-dir and --pattern")
    loaded = how.load(
        {
            "run.batch_size": batch_size,
            "generate.evnt_dir": _text(evnt_dir),
            "reconstruct.patterns": tuple(pattern) if pattern else None,
            "reconstruct.keep": tuple(keep) if keep else None,
            "run.seed": seed,
        }
    )
    from dask_runner.workloads.reconstruct import Reconstruct

    workload = Reconstruct.from_settings(loaded.settings, inputs or ())
    driving.dispatch(
        workload,
        loaded,
        how.manner(loaded),
        outputs=output_dir,
        ship=ship,
        skip_bad_inputs=skip_bad_inputs,
    )


@dispatching
def command(
    *,
    words: Annotated[list[str], typer.Argument(metavar="-- COMMAND...", help="The program.")],
    number: Annotated[
        int | None, typer.Option("-n", "--number", min=1, help="Number of batches.")
    ] = None,
    output: Annotated[
        list[str] | None,
        typer.Option("--output", help="Name of an output, with placeholders; may be repeated."),
    ] = None,
    setup: Annotated[
        Path | None, typer.Option("--setup", help="Shell file sourced before the program.")
    ] = None,
    parameters: Annotated[
        str,
        typer.Option("--parameters", help="A CSV file whose columns are placeholders; - is stdin."),
    ] = "",
    merge_command: Annotated[
        str, typer.Option("--merge-command", help="How `merge` joins: {inputs} {output}.")
    ] = "",
    output_dir: options.Output = None,
    ship: options.Ship = None,
    seed: options.Seed = None,
    how: How,
) -> None:
    """Run any program as batches: `command -n 200 -- ./my_job.sh {index} {seed} {output}`."""
    loaded = how.load({"run.seed": seed})
    from dask_runner.workloads.command import Command

    workload = Command.from_options(
        words=words,
        number=number,
        outputs=output or [],
        setup=setup,
        parameters=parameters,
        merge_command=merge_command,
        seed=loaded.settings.run.seed,
        shipped=bool(ship),
    )
    driving.dispatch(workload, loaded, how.manner(loaded), outputs=output_dir, ship=ship)


@dispatching
def rerun(
    timestamp: options.Timestamp,
    *,
    batch: Annotated[
        list[int] | None, typer.Option("--batch", help="Only this batch; may be repeated.")
    ] = None,
    cause: Annotated[
        str, typer.Option("--cause", help="Only batches that failed with this kind or fingerprint.")
    ] = "",
    accept_changed_inputs: Annotated[
        bool, typer.Option("--accept-changed-inputs", help="Go on with inputs that have changed.")
    ] = False,
    break_lock: Annotated[
        bool, typer.Option("--break-lock", help="Take the lock of a driver on another host.")
    ] = False,
    how: How,
) -> None:
    """Do what is not done of a run: failed, pending and lost batches, with the same seeds."""
    path = how.run_path(timestamp)
    target = how.target(how.load())
    from dask_runner.pipeline import RerunRequest, Selection

    request = RerunRequest(
        selection=Selection(batches=tuple(batch or ()), cause=cause, first=how.first),
        accept_changed_inputs=accept_changed_inputs,
        break_lock=break_lock,
        overrides=how.overrides(),
        argv=options.argv(),
        label=how.label,
        target=target,
    )
    if how.dry:
        from dask_runner.pipeline import dry_rerun

        driving.show_dry_run(dry_rerun(path, request), json=how.json)
    if how.detach:
        driving.detach(path, request, json=how.json)
    driving.rerun(path, request, quiet=how.quiet, json=how.json)


def _text(path: Path | None) -> str | None:
    return None if path is None else os.fspath(path)
