"""Independent batches of physics work over a Dask cluster of department machines."""

from dask_runner.version import __version__

__all__ = ["__version__"]
