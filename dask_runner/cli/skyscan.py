"""The commands of scans of the sky: skyscan, and what is concluded from maps: skymap, hottest."""

from pathlib import Path
from typing import Annotated

import typer

from dask_runner.cli import drawing, driving, options
from dask_runner.cli.conclusions import Partial, Timestamps
from dask_runner.cli.console import err, escape, report
from dask_runner.cli.manners import How, dispatching
from dask_runner.errors import UsageError

Background = Annotated[
    list[str] | None,
    typer.Option(
        "--background",
        metavar="TIMESTAMP",
        help="Background trials of the model point-source over declinations: they turn TS into p; "
        "repeat.",
    ),
]
Fit = Annotated[
    str,
    typer.Option("--fit", help="Of background trials: chi2, or scale (chi2 with a free scale)."),
]


@dispatching
def skyscan(
    *,
    config: Annotated[
        Path | None, typer.Option("--config", help="TOML file of the search.")
    ] = None,
    nside: Annotated[int, typer.Option("--nside", help="Of the HEALPix grid, a power of 2.")] = 64,
    min_dec: Annotated[float, typer.Option("--min-dec", help="Lowest declination (deg).")] = -90.0,
    max_dec: Annotated[float, typer.Option("--max-dec", help="Highest declination (deg).")] = 90.0,
    skies: Annotated[
        int | None, typer.Option("-n", "--skies", min=1, help="Scrambled skies in all.")
    ] = None,
    unblind: Annotated[
        str | None,
        typer.Option(
            "--unblind",
            metavar="REASON",
            help="Scan the observed sky; the reason is recorded in the manifest.",
        ),
    ] = None,
    inject: Annotated[
        str,
        typer.Option(
            "--inject",
            metavar="dec=..,ra=..,n_sig=..",
            help="A source in each scrambled sky (deg, expected events); also index, cutoff (GeV), "
            "extension (deg).",
        ),
    ] = "",
    background: Background = None,
    fit: Fit = "chi2",
    keep: Annotated[
        str,
        typer.Option(
            "--keep",
            help="maps, or hottest: only the hottest pixel of each sky.",
            show_default="maps of one sky, hottest of many",
        ),
    ] = "",
    batch_size: Annotated[
        int,
        typer.Option(
            "-b",
            "--pixels",
            "--batch-size",
            min=0,
            help="Pixels in a batch (0: by time, about 30 s).",
        ),
    ] = 0,
    extend: Annotated[
        str, typer.Option("--extend", metavar="TIMESTAMP", help="Add skies to a run, to -n in all.")
    ] = "",
    output_dir: options.Output = None,
    seed: options.Seed = None,
    how: How,
) -> None:
    """Scan skies for point sources: a HEALPix grid of test statistics, split over the hosts."""
    loaded = how.load({"run.seed": seed})
    manner = how.manner(loaded, of_run=bool(extend))
    if extend:
        given = (config, seed, unblind, output_dir, *(background or ()), inject or None)
        if any(value is not None for value in given):
            raise UsageError("--extend adds skies, and nothing else can be changed: -n NUMBER")
        _extend(how.run_path(extend), skies, manner)
        return
    if config is None:
        raise UsageError("which search? --config FILE.toml", hint="see docs/point-source.md")
    from dask_runner.scan_runs import ScanRequest, plan

    request = ScanRequest(
        config=config,
        nside=nside,
        min_dec=min_dec,
        max_dec=max_dec,
        skies=1 if skies is None else skies,
        unblind=unblind,
        inject=inject,
        keep=keep,
        batch_size=batch_size,
        background=_paths(background, how.runs, how.settings),
        fit=fit,
    )
    planned = plan(request, loaded.settings, manner.target)
    if not how.dry:
        for note in planned.workload.notes:
            err.print(note, markup=False)
    driving.dispatch(planned.workload, loaded, manner, outputs=output_dir, notes=planned.notes)


def _extend(path: Path, skies: int | None, manner: driving.Manner) -> None:
    from functools import partial

    from dask_runner import pipeline
    from dask_runner.manifest import read_state
    from dask_runner.scan_runs import more_skies

    if skies is None:
        raise UsageError("how many skies in all? -n NUMBER")
    make = partial(more_skies, skies=skies)
    if manner.dry:
        found = make(read_state(path))
        err.print(f"run {escape(path.name)} would get {len(found.batches)} batches")
        raise typer.Exit
    number = pipeline.extend(path, make)
    err.print(f"run {escape(path.name)}: {number} new batches")
    driving.extended(path, manner)


def skymap(
    timestamp: options.Timestamp = "last",
    *,
    sky: Annotated[int, typer.Option("--sky", min=0, help="Which sky, of several.")] = 0,
    spots: Annotated[int, typer.Option("--spots", min=1, help="How many hot spots.")] = 10,
    apart: Annotated[
        float, typer.Option("--apart", min=0, help="Spots are so far from each other (deg).")
    ] = 3.0,
    background: Background = None,
    fit: Fit = "chi2",
    to: Annotated[
        Path | None, typer.Option("--to", help="Write the map: a new HEALPix FILE.fits.")
    ] = None,
    plot: Annotated[
        list[Path] | None,
        typer.Option("--plot", help="Draw the map: FILE.png or FILE.pdf; repeat."),
    ] = None,
    quantity: Annotated[
        str,
        typer.Option(
            "--quantity",
            help="What --plot shows: mlog10p, ts, n_s or gamma.",
            show_default="mlog10p, or ts without p-values",
        ),
    ] = "",
    plot_p: Annotated[
        list[Path] | None,
        typer.Option("--plot-p", help="Draw TS against -log10 p; repeat."),
    ] = None,
    partial: Partial = False,
    runs: options.Runs = None,
    settings: options.SettingsFile = None,
    json: options.Json = False,
) -> None:
    """The hottest spots of a scanned sky, its map as FITS and as a picture."""
    drawing.check_plots([*(plot or ()), *(plot_p or ())])
    from dask_runner.conclusions import skies
    from dask_runner.sky.skymaps import check_target, save_fits

    if to is not None:
        check_target(to)
    scan = skies.load(
        options.run_path(timestamp, runs, settings),
        partial=partial,
        background_runs=_paths(background, runs, settings),
        fit=fit,
    )
    found = skies.view(scan, sky, number=spots, apart=apart)
    _warn(found.warnings)
    report(found, json=json)
    if to is not None:
        save_fits(scan.map(sky), to, {"RUN": scan.name, "SKY": scan.workload.label(sky)})
        err.print(f"map: {to}", markup=False)
    if plot or plot_p:
        from dask_runner.reports import plots

        found_map = scan.map(sky)
        if plot:
            drawing.draw(plots.mollweide(found, found_map, quantity), plot)
        if plot_p:
            drawing.draw(plots.ts_against_p(found, found_map), plot_p)


def hottest(
    timestamps: Timestamps = None,
    *,
    observed: Annotated[
        str,
        typer.Option(
            "--observed",
            metavar="TIMESTAMP",
            help="The scan of which the hottest spot is judged: of the observed sky, or of one "
            "with an injected source.",
        ),
    ] = "",
    sky: Annotated[int, typer.Option("--sky", min=0, help="Which sky of --observed.")] = 0,
    pre_trial: Annotated[
        float | None,
        typer.Option("--pre-trial", min=0, max=1, help="Judge this p-value of a hottest spot."),
    ] = None,
    background: Background = None,
    fit: Fit = "chi2",
    plot: Annotated[
        list[Path] | None, typer.Option("--plot", help="Draw it: FILE.png or FILE.pdf; repeat.")
    ] = None,
    partial: Partial = False,
    runs: options.Runs = None,
    settings: options.SettingsFile = None,
    json: options.Json = False,
) -> None:
    """The hottest spot of each of many skies, and the post-trial p-value of an observed one."""
    drawing.check_plots(plot)
    if observed and pre_trial is not None:
        raise UsageError("--observed or --pre-trial: one of them is judged")
    from functools import partial as bound

    from dask_runner.conclusions import skies

    load = bound(
        skies.load,
        partial=partial,
        background_runs=_paths(background, runs, settings),
        fit=fit,
    )
    paths = [options.run_path(name, runs, settings) for name in timestamps or ["last"]]
    result = skies.hottest(
        [load(path) for path in dict.fromkeys(paths)],
        observed=load(options.run_path(observed, runs, settings)) if observed else None,
        sky=sky,
        pre_trial=pre_trial,
    )
    _warn(result.warnings)
    report(result, json=json)
    if plot:
        from dask_runner.reports import plots

        drawing.draw(plots.hottest(result), plot)


def _paths(
    timestamps: list[str] | None, runs: Path | None, settings: Path | None
) -> tuple[Path, ...]:
    found = (options.run_path(name, runs, settings) for name in timestamps or ())
    return tuple(dict.fromkeys(found))


def _warn(warnings: tuple[str, ...]) -> None:
    for warning in warnings:
        err.print(f"warning: {warning}", markup=False)
