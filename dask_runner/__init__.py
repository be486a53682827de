"""Independent batches of physics work over a Dask cluster of department machines.

`generate`, `reconstruct`, `command`, `histogram`, `scan_sky`, `start` and `open_run` return a
`Run`; see docs/python.md. They are imported when first asked for, so that the command line starts
fast.
"""

from typing import TYPE_CHECKING, Any

from dask_runner.version import __version__

if TYPE_CHECKING:
    from dask_runner.api import (
        Run,
        command,
        generate,
        histogram,
        load_trials,
        open_run,
        reconstruct,
        scan_sky,
        start,
        throw_trials,
    )
    from dask_runner.trials.model import vectorised

__all__ = [
    "Run",
    "__version__",
    "command",
    "generate",
    "histogram",
    "load_trials",
    "open_run",
    "reconstruct",
    "scan_sky",
    "start",
    "throw_trials",
    "vectorised",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "vectorised":
        from dask_runner.trials import model  # noqa: PLC0415  (hosts need nothing else)

        return model.vectorised
    from dask_runner import api  # noqa: PLC0415  (see above)

    return getattr(api, name)
