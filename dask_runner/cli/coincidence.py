"""The commands for coincidences: table, pvalue, observe. They conclude from runs of the trial model
`coincidence`.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dask_runner.cli import drawing, options
from dask_runner.cli.console import err, report
from dask_runner.errors import UsageError

if TYPE_CHECKING:
    from dask_runner.conclusions.coincidence_background import Background
    from dask_runner.conclusions.coincidences import Trials

app = typer.Typer(
    no_args_is_help=True, help="Coincidences of sky maps with lists of neutrinos, from trials."
)

Timestamps = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="TIMESTAMP...", help="Runs of one model: timestamps or `last`.", show_default="last"
    ),
]
Top = Annotated[
    int, typer.Option("--top", min=0, help="Show so many trials with the highest odds (0: all).")
]
Partial = Annotated[
    bool, typer.Option("--partial", help="Take what is done of runs that are not complete.")
]
Plot = Annotated[
    list[Path] | None, typer.Option("--plot", help="Draw it: FILE.png or FILE.pdf; repeat.")
]
To = Annotated[
    Path | None, typer.Option("--to", help="All trials into a new file: FILE.csv or FILE.parquet.")
]
BackgroundName = Annotated[
    str,
    typer.Option(
        "--background",
        help="Trials without signal: a run, or a file of `table --distribution`.",
        show_default="those of the same run",
    ),
]
Detector = Annotated[
    str, typer.Option("--detector", help="The class.", show_default="the only one")
]


@app.command()
def table(
    timestamps: Timestamps = None,
    *,
    top: Top = 20,
    to: To = None,
    distribution: Annotated[
        Path | None,
        typer.Option("--distribution", help="Trials without signal as FILE.npz or FILE.h5."),
    ] = None,
    partial: Partial = False,
    runs: options.Runs = None,
    settings: options.SettingsFile = None,
    json: options.Json = False,
) -> None:
    """One table of all trials: log10 odds, number of events, map, batch."""
    from msgspec.structs import replace

    from dask_runner.conclusions import coincidence_background, coincidences

    _check(to)
    if distribution is not None:
        coincidence_background.check_target(distribution)
    trials = _load(timestamps, runs, settings, partial=partial)
    result = coincidences.table(trials, top=top)
    if distribution is not None:
        coincidence_background.write(coincidences.background_of(trials), distribution)
        result = replace(result, distribution=str(distribution))
    if to is not None:
        result = replace(result, file=_write(trials, None, to))
    _show(result, json=json)


@app.command()
def pvalue(
    timestamps: Timestamps = None,
    *,
    background: BackgroundName = "",
    odds: Annotated[
        list[float] | None,
        typer.Option("--odds", help="p-value of this log10 odds, not of trials; repeat."),
    ] = None,
    detector: Detector = "",
    top: Top = 20,
    to: To = None,
    plot: Plot = None,
    partial: Partial = False,
    runs: options.Runs = None,
    settings: options.SettingsFile = None,
    json: options.Json = False,
) -> None:
    """p-values of odds: counted, and from a fitted tail beyond the trials; it is said which."""
    drawing.check_plots(plot)
    from msgspec.structs import replace

    from dask_runner.conclusions import coincidences

    _check(to)
    if odds:
        known = _background(background, timestamps, runs, settings, None)
        name = _detector(detector, known)
        result = coincidences.CoincidencePs(
            runs=(),
            background=known.names,
            points=(),
            rows=(),
            given=tuple(coincidences.given(known, name, value) for value in odds),
        )
        _show(result, json=json)
        _draw(None, known, plot, {name: odds[-1]})
        return
    trials = _load(timestamps, runs, settings, partial=partial)
    known = _background(background, timestamps, runs, settings, trials)
    result = coincidences.pvalues(trials, known, top=top)
    if to is not None:
        result = replace(result, file=_write(trials, known, to))
    _show(result, json=json)
    _draw(trials, known, plot, {})


@app.command()
def observe(
    timestamps: Timestamps = None,
    *,
    sky_map: Annotated[Path, typer.Option("--map", help="The map that was observed (FITS).")],
    events: Annotated[Path, typer.Option("--list", help="The neutrinos around it (CSV, JSON).")],
    unblind: Annotated[
        str,
        typer.Option("--unblind", metavar="REASON", help="Why; recorded with the result."),
    ],
    time: Annotated[
        float | None,
        typer.Option("--time", help="MJD of the map's event.", show_default="DATE-OBS"),
    ] = None,
    detector: Detector = "",
    background: BackgroundName = "",
    plot: Plot = None,
    plot_map: Annotated[
        list[Path] | None, typer.Option("--plot-map", help="Draw the map with the neutrinos.")
    ] = None,
    runs: options.Runs = None,
    settings: options.SettingsFile = None,
    json: options.Json = False,
) -> None:
    """The odds of an observed map and list with the window, energies and prior of a run, and their
    p-value.
    """
    drawing.check_plots([*(plot or ()), *(plot_map or ())])
    from dask_runner.conclusions.coincidence_observed import Pair, around, observe
    from dask_runner.conclusions.unblinding import decision

    order = decision(unblind, None)
    assert order is not None
    trials = _load(timestamps, runs, settings, partial=False)
    known = _background(background, timestamps, runs, settings, trials)
    name = _detector(detector, known)
    pair = Pair(map=sky_map, events=events, detector=name, reason=order.reason, time=time)
    result = observe(trials, known, pair)
    report(result, json=json)
    _draw(None, known, plot, {name: result.log10_odds})
    if plot_map:
        from dask_runner.reports.plots.pairs import pair as picture

        drawing.draw(picture(*around(trials, pair), title=sky_map.name), plot_map)


def _load(
    timestamps: list[str] | None, runs: Path | None, settings: Path | None, *, partial: bool
) -> "Trials":
    from dask_runner.conclusions.coincidences import load

    paths = [options.run_path(name, runs, settings) for name in timestamps or ["last"]]
    return load(list(dict.fromkeys(paths)), partial=partial)


def _background(
    name: str,
    timestamps: list[str] | None,
    runs: Path | None,
    settings: Path | None,
    trials: "Trials | None",
) -> "Background":
    from dask_runner.conclusions import coincidence_background, coincidences

    if coincidence_background.is_file(name):
        return coincidence_background.read(Path(name).expanduser())
    if name or trials is None:
        trials = _load([name] if name else timestamps, runs, settings, partial=False)
    return coincidences.background_of(trials)


def _detector(name: str, known: "Background") -> str:
    if not name and len(known.odds) > 1:
        raise UsageError(
            f"which class? there are {', '.join(known.odds)}",
            hint=f"--detector {next(iter(known.odds))}",
        )
    return name or next(iter(known.odds))


def _check(to: Path | None) -> None:
    if to is not None:
        from dask_runner.conclusions.exporting import check_target

        if to.suffix == ".root":
            raise UsageError(f"--to {to}: a tree cannot hold names of maps", hint="FILE.csv")
        check_target(to)


def _write(trials: "Trials", known: "Background | None", to: Path) -> str:
    from dask_runner.conclusions.coincidences import full_table
    from dask_runner.conclusions.exporting import write_table

    return write_table(full_table(trials, known), to).path


def _show(result: Any, *, json: bool) -> None:
    for warning in result.warnings:
        err.print(f"warning: {warning}", markup=False)
    report(result, json=json)


def _draw(
    trials: "Trials | None",
    known: "Background",
    plot: list[Path] | None,
    marked: dict[str, float],
) -> None:
    """A picture for each class: with several, the name of the class goes into the file's name."""
    if not plot:
        return
    from dask_runner.reports.plots.coincidences import odds

    names = list(marked or known.odds)
    for name in names:
        signals = {}
        for detector, n_sig, rows in [] if trials is None else trials.points():
            if trials is not None and trials.detectors[detector] == name and n_sig:
                signals[f"n_sig = {n_sig:g}"] = trials.rows["log10_odds"][rows]
        title = "" if name == "all" else f"Class {name}"
        figure = odds(known.of(name), signals, title=title, marked=marked.get(name))
        many = len(names) > 1
        drawing.draw(figure, [p.with_stem(f"{p.stem}_{name}") if many else p for p in plot])
