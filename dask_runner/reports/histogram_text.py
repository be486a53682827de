"""A merge of histograms as text: files, what was read, each histogram's numbers, the cutflow."""

from collections.abc import Callable, Sequence
from typing import Any

from rich.text import Text

from dask_runner.histogram_results import AxisSummary, HistogramReport, HistogramSummary
from dask_runner.histograms.result import Cut
from dask_runner.reports.layout import Pieces, more, plural, table
from dask_runner.reports.numbers import with_error

_SHOWN = 20
_SIGN = "+-"


def report(view: HistogramReport) -> Pieces:
    """The whole report."""
    pieces: Pieces = [_file(file) for file in view.files]
    pieces += [Text(f"plot: {path}") for path in view.plots]
    pieces.append(Text(f"{view.events_read} of {view.events_asked} events read"))
    pieces += [Text(f"  missing: {line}") for line in view.missing[:_SHOWN]]
    pieces += more(_SHOWN, len(view.missing), "ranges are missing")
    if view.histograms:
        pieces += [Text(), _histograms(view.histograms)]
    for sample in dict.fromkeys(cut.sample for cut in view.cutflow):
        pieces += [Text(), _cutflow(sample, [c for c in view.cutflow if c.sample == sample])]
    return pieces


def _file(file: Any) -> Text:
    entries = "" if file.entries is None else f"  {file.entries} entries"
    content = f"\n  content {file.content_hash}" if file.content_hash else ""
    return Text(f"{file.path}  {file.bytes} bytes{entries}{content}")


def _histograms(found: Sequence[HistogramSummary]) -> Any:
    columns = (
        "histogram", "*axis", ">bins", ">mean", ">deviation", ">below", ">above", ">entries",
        ">integral", ">NaN",
    )  # fmt: skip
    rows = []
    for one in found:
        entries = "-" if one.entries is None else one.entries
        totals = (entries, with_error(one.integral, one.integral_error, _SIGN), one.nan)
        for k, axis in enumerate(one.axes):
            first = k == 0
            place = _axis(axis, counted=one.entries is not None)
            rows.append((one.name if first else "", *place, *(totals if first else ("", "", ""))))
    return table("", columns, rows)


def _axis(axis: AxisSummary, *, counted: bool) -> tuple[object, ...]:
    mean = "-" if axis.mean is None else f"{axis.mean:.5g}"
    deviation = "-" if axis.deviation is None else f"{axis.deviation:.4g}"
    bins = f"{axis.bins} in {axis.low:g} .. {axis.high:g}"
    if axis.categories:
        return axis.label, plural(axis.bins, "category"), mean, deviation, "-", "-"
    outside = (axis.underflow, axis.overflow) if counted else ("-", "-")
    return axis.label, bins, mean, deviation, *outside


def _cutflow(sample: str, cuts: Sequence[Cut]) -> Any:
    weighted = any(cut.weights != cut.count for cut in cuts)
    columns = ("*cut", "of", ">left", ">of before", ">of all", *((">weights",) if weighted else ()))
    rows = []
    for cut in cuts:
        same = [other for other in cuts if other.level == cut.level]
        place = same.index(cut)
        rows.append(
            (
                cut.name,
                f"{cut.level}s",
                cut.count,
                _share(cut.count, same[place - 1].count) if place else "",
                _share(cut.count, same[0].count) if place else "",
                *((f"{cut.weights:.6g}",) if weighted else ()),
            )
        )
    return table(f"cutflow of {sample}" if sample else "cutflow", columns, rows)


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.2f} %" if whole else "-"


LAYOUTS: dict[type[Any], Callable[[Any], Pieces]] = {HistogramReport: report}
