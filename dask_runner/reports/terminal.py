"""Views as text for a terminal: which view is laid out by what."""

import importlib
import io
from collections.abc import Callable
from typing import Any

from rich.console import Console, Group
from rich.text import Text

from dask_runner.cluster.status import ClusterStatus
from dask_runner.reports import (
    cluster_text,
    detail_text,
    host_checks_text,
    listing_text,
    summary_text,
)
from dask_runner.reports.detail import BatchDetail, Errors, RunDetail
from dask_runner.reports.host_checks import HostChecks, HostKeys
from dask_runner.reports.layout import Pieces
from dask_runner.reports.listing import RunList, RunStatus, Status
from dask_runner.summary import Summary

_LAYOUTS: dict[type[Any], Callable[[Any], Pieces]] = {
    ClusterStatus: cluster_text.cluster,
    Summary: summary_text.summary,
    Errors: summary_text.errors,
    RunList: listing_text.run_list,
    RunStatus: listing_text.run_status,
    Status: listing_text.status,
    RunDetail: detail_text.run_detail,
    BatchDetail: detail_text.batch_detail,
    HostChecks: host_checks_text.host_checks,
    HostKeys: host_checks_text.host_keys,
}

# Modules of layouts that import scipy, by the module of the view.
_LATE = {
    "dask_runner.conclusions.coincidences": "dask_runner.reports.coincidence_text",
    "dask_runner.conclusions.sky_results": "dask_runner.reports.sky_text",
    "dask_runner.histogram_results": "dask_runner.reports.histogram_text",
}
_CONCLUSIONS = "dask_runner.reports.conclusion_text"

_UNLIMITED = 10_000


def write(view: Any, console: Console) -> None:
    """Write `view` to the console. Tables fit a terminal's width, and are as wide as they need in a
    file or a pipe; text is left whole, to be copied.
    """
    if console.is_terminal:
        _print(view, console)
        return
    page = io.StringIO()
    _print(view, Console(file=page, width=_UNLIMITED, color_system=None, emoji=False))
    console.file.write(page.getvalue())


def _layout(kind: type[Any]) -> Callable[[Any], Pieces]:
    if kind not in _LAYOUTS:
        # What made such a view has loaded the statistics already; other commands do without.
        module = importlib.import_module(_LATE.get(kind.__module__, _CONCLUSIONS))
        _LAYOUTS.update(module.LAYOUTS)
    return _LAYOUTS[kind]


def _print(view: Any, console: Console) -> None:
    for piece in _layout(type(view))(view):
        console.print(piece, soft_wrap=isinstance(piece, Text), highlight=False)


def render(view: Any) -> Group:
    """The same as one thing that can be redrawn in place."""
    return Group(*_layout(type(view))(view))
