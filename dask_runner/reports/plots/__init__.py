"""Pictures of conclusions: figures of matplotlib, and files of them in PNG and PDF.

To add one: a module, a line here, a test. Each function takes a result (`conclusions.results`) and
gives a figure, which `save` writes.
"""

from dask_runner.reports.plots.bands import brazil
from dask_runner.reports.plots.columns import background, column
from dask_runner.reports.plots.declinations import fluxes, parameters
from dask_runner.reports.plots.histograms import histogram, not_drawable
from dask_runner.reports.plots.passing import against, fractions, longest_axis
from dask_runner.reports.plots.skymaps import hottest, mollweide, ts_against_p
from dask_runner.reports.plots.strengths import strength
from dask_runner.reports.plots.style import check_path, particle_style, save

__all__ = [
    "against",
    "background",
    "brazil",
    "check_path",
    "column",
    "fluxes",
    "fractions",
    "histogram",
    "hottest",
    "longest_axis",
    "mollweide",
    "not_drawable",
    "parameters",
    "particle_style",
    "save",
    "strength",
    "ts_against_p",
]
