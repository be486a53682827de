"""The commands that conclude from trials: limits, cls, sensitivity, distribution, export.

What is wrong with an option is said before anything is loaded, and before anybody looks at data.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dask_runner.cli import drawing, options
from dask_runner.cli.console import err, report

if TYPE_CHECKING:
    from dask_runner.conclusions.runs import Loaded

Timestamps = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="TIMESTAMP...", help="Runs of one model: timestamps or `last`.", show_default="last"
    ),
]
Axis = Annotated[
    str,
    typer.Option(
        "--axis", help="The parameter along which.", show_default="the only one that varies"
    ),
]
At = Annotated[
    list[str] | None,
    typer.Option("--at", metavar="NAME=VALUE", help="Only points with this value; repeat."),
]
Partial = Annotated[
    bool, typer.Option("--partial", help="Take what is done of runs that are not complete.")
]
Plot = Annotated[
    list[Path] | None, typer.Option("--plot", help="Draw it: FILE.png or FILE.pdf; repeat.")
]
Unblind = Annotated[
    str | None,
    typer.Option(
        "--unblind",
        metavar="REASON",
        help="Look at observed data; reason, file and result are recorded in the manifest.",
    ),
]
Observed = Annotated[
    str | None,
    typer.Option(
        "--observed",
        help="The observed data: data.root:HISTOGRAM, a CSV file, or a number of events.",
        show_default="what the model names",
    ),
]
Signal = Annotated[str, typer.Option("--signal", help="The parameter that is signal strength.")]
Fit = Annotated[
    str,
    typer.Option(
        "--fit",
        help="Test statistics without signal: chi2, scale (chi2 with a free scale), discrete, or "
        "auto: discrete if they take few values.",
    ),
]
Floor = Annotated[
    float, typer.Option("--floor", min=0, help="Test statistics up to this count as 0.")
]


def limits(
    timestamps: Timestamps = None,
    *,
    field: Annotated[str, typer.Option("--field", help="The limit: a field.")] = "limit",
    axis: Axis = "",
    at: At = None,
    unblind: Unblind = None,
    observed: Observed = None,
    theory: Annotated[
        Path | None,
        typer.Option("--theory", help="CSV: mass (GeV), cross_section (pb); gives a mass limit."),
    ] = None,
    luminosity: Annotated[
        float, typer.Option("--luminosity", min=0, help="Turns events into cross sections.")
    ] = 0.0,
    acceptance: Annotated[
        float, typer.Option("--acceptance", help="Acceptance x efficiency, with --luminosity.")
    ] = 1.0,
    branching: Annotated[
        float, typer.Option("--branching", help="Branching ratio, with --luminosity.")
    ] = 1.0,
    unit: Annotated[str, typer.Option("--unit", help="Of the cross section: pb, fb.")] = "",
    axis_unit: Annotated[str, typer.Option("--axis-unit", help="Of the axis: GeV.")] = "",
    plot: Plot = None,
    partial: Partial = False,
    runs: options.Runs = None,
    settings: options.SettingsFile = None,
    json: options.Json = False,
) -> None:
    """Upper limits: expected band along an axis, observed, and up to where a theory is excluded."""
    drawing.check_plots(plot)
    from dask_runner.conclusions import runs as concluding
    from dask_runner.conclusions.theory import read_theory
    from dask_runner.conclusions.unblinding import decision

    order = decision(unblind, observed)
    factors = concluding.Factors(luminosity=luminosity, acceptance=acceptance, branching=branching)
    curve = None if theory is None else read_theory(theory, axis or "mass")
    loaded = _load(timestamps, runs, settings, partial=partial, at=at)
    result = concluding.limits(
        loaded,
        field=field,
        axis=axis,
        factors=factors,
        theory=curve,
        order=order,
        unit=unit,
        axis_unit=axis_unit,
    )
    _show(result, json=json)
    if plot:
        from dask_runner.reports import plots

        drawing.draw(plots.brazil(result), plot)


def cls(
    timestamps: Timestamps = None,
    *,
    axis: Axis = "",
    level: Annotated[float, typer.Option("--level", help="Confidence of the upper limit.")] = 0.95,
    at: At = None,
    unblind: Unblind = None,
    observed: Observed = None,
    plot: Plot = None,
    partial: Partial = False,
    runs: options.Runs = None,
    settings: options.SettingsFile = None,
    json: options.Json = False,
) -> None:
    """CLs by trials of a pyhf workspace: expected band, observed, upper limit on the strength."""
    drawing.check_plots(plot)
    from dask_runner.conclusions import runs as concluding
    from dask_runner.conclusions.unblinding import decision

    order = decision(unblind, observed)
    loaded = _load(timestamps, runs, settings, partial=partial, at=at)
    result = concluding.cls(loaded, axis=axis, level=level, order=order)
    _show(result, json=json)
    if plot:
        from dask_runner.reports import plots

        drawing.draw(plots.strength(result), plot)


def sensitivity(
    timestamps: Timestamps = None,
    *,
    signal: Signal = "n_sig",
    field: Annotated[str, typer.Option("--field", help="The test statistic: a field.")] = "ts",
    beta: Annotated[float, typer.Option("--beta", help="Sensitivity: share that passes.")] = 0.9,
    sigma: Annotated[float, typer.Option("--sigma", help="Discovery: significance.")] = 5.0,
    discovery_beta: Annotated[
        float, typer.Option("--discovery-beta", help="Discovery: share that passes.")
    ] = 0.5,
    fit: Fit = "auto",
    floor: Floor = 0.0,
    axis: Annotated[
        str,
        typer.Option(
            "--axis", help="Plot against this parameter.", show_default="the one with most values"
        ),
    ] = "",
    at: At = None,
    plot: Plot = None,
    plot_fits: Annotated[
        list[Path] | None,
        typer.Option("--plot-fits", help="Draw the shares against the strength, for each point."),
    ] = None,
    plot_flux: Annotated[
        list[Path] | None,
        typer.Option("--plot-flux", help="Point sources: draw the fluxes against sin(dec)."),
    ] = None,
    pivot: Annotated[
        str,
        typer.Option(
            "--pivot",
            help="Point sources: fluxes at this energy, '100 TeV'.",
            show_default="that of the search",
        ),
    ] = "",
    flux_unit: Annotated[
        str,
        typer.Option(
            "--flux-unit",
            help="Point sources: 'GeV cm-2 s-1' (E^2 dN/dE) or 'TeV-1 cm-2 s-1' (dN/dE).",
            show_default="TeV cm-2 s-1",
        ),
    ] = "",
    partial: Partial = False,
    runs: options.Runs = None,
    settings: options.SettingsFile = None,
    json: options.Json = False,
) -> None:
    """Sensitivity and discovery potential: the signal with which a share of trials passes."""
    drawing.check_plots([*(plot or ()), *(plot_fits or ()), *(plot_flux or ())])
    from dask_runner.conclusions import runs as concluding
    from dask_runner.conclusions.strengths import wished

    flux = None
    if pivot or flux_unit or plot_flux:
        from dask_runner.conclusions import fluxes

        flux = fluxes.wished(pivot, flux_unit or fluxes.UNIT)
    wish = wished(
        signal=signal,
        field=field,
        beta=beta,
        sigma=sigma,
        discovery_beta=discovery_beta,
        fit=fit,
        floor=floor,
    )
    loaded = _load(timestamps, runs, settings, partial=partial, at=at)
    result = concluding.sensitivity(loaded, wish, flux)
    _show(result, json=json)
    drawing.sensitivity(result, axis, plot or [], plot_fits or [])
    if plot_flux:
        from dask_runner.reports import plots

        drawing.draw(plots.fluxes(result, axis), plot_flux)


def distribution(
    timestamps: Timestamps = None,
    *,
    field: Annotated[
        str, typer.Option("--field", help="Which field.", show_default="ts, or limit")
    ] = "",
    signal: Signal = "n_sig",
    quantile: Annotated[
        list[float] | None,
        typer.Option("--quantile", help="Which; repeat.", show_default="-2 to 2 sigma"),
    ] = None,
    sigma: Annotated[
        list[float] | None,
        typer.Option("--sigma", help="Thresholds; repeat.", show_default="3 and 5"),
    ] = None,
    fit: Fit = "auto",
    floor: Floor = 0.0,
    at: At = None,
    plot: Plot = None,
    axis: Annotated[
        str,
        typer.Option(
            "--axis", help="Of --plot-parameters.", show_default="the one with most values"
        ),
    ] = "",
    plot_parameters: Annotated[
        list[Path] | None,
        typer.Option(
            "--plot-parameters",
            help="Draw eta, ndof and scale of the fits against a parameter; sin(dec) for dec.",
        ),
    ] = None,
    partial: Partial = False,
    runs: options.Runs = None,
    settings: options.SettingsFile = None,
    json: options.Json = False,
) -> None:
    """The distribution of a field: quantiles; for test statistics a chi2 fit and thresholds."""
    drawing.check_plots([*(plot or ()), *(plot_parameters or ())])
    from dask_runner.conclusions import runs as concluding

    loaded = _load(timestamps, runs, settings, partial=partial, at=at)
    wanted = {"qs": quantile, "sigmas": sigma}
    given = {name: values for name, values in wanted.items() if values}
    result = concluding.distribution(
        loaded, field=field, signal=signal, fit=fit, floor=floor, **given
    )
    _show(result, json=json)
    if plot:
        drawing.distribution(loaded.trials, result, plot)
    if plot_parameters:
        from dask_runner.reports import plots

        drawing.draw(plots.parameters(result, axis), plot_parameters)


def export(
    timestamps: Timestamps = None,
    *,
    to: Annotated[
        Path, typer.Option("--to", help="The new file: FILE.parquet, FILE.csv or FILE.root.")
    ],
    at: At = None,
    partial: Partial = False,
    runs: options.Runs = None,
    settings: options.SettingsFile = None,
    json: options.Json = False,
) -> None:
    """Write all trials into one file, a column for each parameter and field, for other programs."""
    from dask_runner.conclusions.exporting import check_target
    from dask_runner.conclusions.exporting import export as write

    check_target(to)
    loaded = _load(timestamps, runs, settings, partial=partial, at=at)
    _warn(loaded.warnings)
    report(write(loaded.trials, to), json=json)


def _load(
    timestamps: list[str] | None,
    runs: Path | None,
    settings: Path | None,
    *,
    partial: bool,
    at: list[str] | None,
) -> "Loaded":
    from dask_runner.conclusions.runs import load

    paths = [options.run_path(name, runs, settings) for name in timestamps or ["last"]]
    return load(list(dict.fromkeys(paths)), partial=partial, at=at or ())


def _show(result: Any, *, json: bool) -> None:
    _warn(result.warnings)
    report(result, json=json)


def _warn(warnings: tuple[str, ...]) -> None:
    for warning in warnings:
        err.print(f"warning: {warning}", markup=False)
