"""From trials to what they say: limits, CLs, sensitivities, distributions; and files for others.

Functions on `TrialData`, with or without runs: `conclusions.limits(trials)`. Results are plain
structs (`results`), shown by `reports` and drawn by `reports.plots`. Refuses to look at observed
data, but for `unblinding`. The formulas are those of `stats`.
"""

from dask_runner.conclusions.bands import limits
from dask_runner.conclusions.exclusion import cls
from dask_runner.conclusions.exporting import export
from dask_runner.conclusions.shapes import distribution
from dask_runner.conclusions.strengths import sensitivity

__all__ = ["cls", "distribution", "export", "limits", "sensitivity"]
