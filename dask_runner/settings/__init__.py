"""settings.toml -> frozen Settings, with the origin of every value.

`schema` holds every key, default and explanation; `loader` the order of precedence; `checks` the
rules between keys; `toml_lines` where a key stands in a file; `text` the schema as text to read.
"""

from dask_runner.settings.loader import LoadedSettings, load_settings
from dask_runner.settings.schema import (
    DEFAULT_STEPS,
    GenerateSettings,
    Geometry,
    ReconstructSettings,
    RunDefaults,
    Settings,
    StepSettings,
    Storage,
)

__all__ = [
    "DEFAULT_STEPS",
    "GenerateSettings",
    "Geometry",
    "LoadedSettings",
    "ReconstructSettings",
    "RunDefaults",
    "Settings",
    "StepSettings",
    "Storage",
    "load_settings",
]
