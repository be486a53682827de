"""The family of reports: ways to show a Summary, or a view that `listing` or `detail` made.

To add one: a module, a line here, a test.
"""

from collections.abc import Callable
from typing import Any

from rich.console import Console

from dask_runner.reports import json, terminal

# Writes a view to a console; which views, the module says.
Report = Callable[[Any, Console], None]

REPORTS: dict[str, Report] = {
    "terminal": terminal.write,
    "json": json.write,
}
