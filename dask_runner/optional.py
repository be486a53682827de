"""Libraries that not everybody has: imported when needed, with a hint if they are missing."""

import importlib
from typing import Any

from dask_runner.errors import UsageError


def imported(module: str, extra: str) -> Any:
    """The module, which the extra of that name installs. Raises UsageError."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(
            f"{module.partition('.')[0]} is not installed ({error})",
            hint=f"pip install 'dask-runner[{extra}]'",
        ) from error
