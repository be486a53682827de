"""Files of plots for the commands that conclude: their names, and which plot is drawn."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from dask_runner.cli.console import err
from dask_runner.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from dask_runner.histograms.result import HistogramResult
    from dask_runner.trials.loading import TrialData

_MOST_PLOTS = 100


def check_plots(plot: list[Path] | None) -> None:
    """Before the work and the unblinding: names and libraries are right."""
    if plot:
        from dask_runner.reports.plots import check_path, particle_style

        for path in plot:
            check_path(path)
        with particle_style():
            pass


def draw(figure: Any, paths: list[Path]) -> None:
    from dask_runner.reports.plots import save

    for path in paths:
        err.print(f"plot: {save(figure, path)}", markup=False)


def sensitivity(result: Any, axis: str, plot: list[Path], fits: list[Path]) -> None:
    """Against a parameter, or the only fit if none varies; and the fits."""
    if not plot and not fits:
        return
    from dask_runner.reports import plots

    axis = axis or plots.longest_axis(result)
    if axis:
        draw(plots.against(result, axis), plot) if plot else None
    else:
        fits = [*plot, *fits]
    if not fits:
        return
    _check_number(len(result.strengths))
    for one in result.strengths:
        several = len(result.strengths) > 1
        draw(plots.fractions(result, one), _of_point(fits, one.point, several=several))


def distribution(trials: "TrialData", result: Any, plot: list[Path]) -> None:
    from dask_runner.reports import plots

    _check_number(len(result.points))
    for found, (point, there) in zip(result.points, trials, strict=True):
        values = there.column(result.field)
        figure = plots.background if found.thresholds else plots.column
        several = len(result.points) > 1
        draw(figure(found, values, result.field), _of_point(plot, point, several=several))


def sky(run: Path, plot: list[Path], *, partial: bool) -> "Callable[[], None]":
    """What draws the map of a scan, after all that can be wrong was looked at."""
    from dask_runner.conclusions import skies

    scan = skies.load(run, partial=partial)
    view, found = skies.view(scan), scan.map(0)

    def draw_it() -> None:
        from dask_runner.reports import plots

        draw(plots.mollweide(view, found), plot)

    return draw_it


def check_histograms(
    result: "HistogramResult", plot: list[Path] | None, *, stack: bool = False
) -> None:
    """Before anything is merged: at least one histogram can be drawn."""
    if not plot:
        return
    from dask_runner.reports import plots

    if not result.histograms:
        raise UsageError("there is no histogram to draw", hint="a skim has only a cutflow")
    if stack and not any(filled.spec.by_sample for filled in result.histograms):
        raise UsageError("--stack: no histogram is by sample", hint="histogram --by-sample")
    _check_number(len(result.histograms), "histogram")
    refused = [plots.not_drawable(filled) for filled in result.histograms]
    if all(refused):
        raise UsageError(refused[0], hint="draw a projection of what is in the files")


def histograms(
    result: "HistogramResult",
    plot: list[Path],
    *,
    log: bool = False,
    stack: bool = False,
    norm: bool = False,
) -> None:
    """A picture of each histogram that has at most two axes, with its name in the file's name if
    there are several.
    """
    if not plot:
        return
    from dask_runner.reports import plots

    several = len(result.histograms) > 1
    for filled in result.histograms:
        if why := plots.not_drawable(filled):
            err.print(f"no plot of {why}", markup=False)
            continue
        name = filled.spec.name
        paths = [p.with_name(f"{p.stem}.{name}{p.suffix}") if several else p for p in plot]
        draw(plots.histogram(filled, result, log=log, stack=stack, norm=norm), paths)


def _of_point(paths: list[Path], point: dict[str, Any], *, several: bool) -> list[Path]:
    """A name of its own for each point."""
    from dask_runner.trials.points import point_label

    if not several:
        return paths
    return [path.with_name(f"{path.stem}.{point_label(point)}{path.suffix}") for path in paths]


def _check_number(plots: int, each: str = "point") -> None:
    if plots > _MOST_PLOTS:
        hint = "--at NAME=VALUE takes some" if each == "point" else "draw them from the ROOT file"
        raise UsageError(f"{plots} plots, one for each {each}, are too many", hint=hint)
