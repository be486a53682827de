"""The family of trial models. To add one: a module, a line here, a test.

A model is named by its key here, or as `package.module:function` if it is a user's.
"""

import importlib
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import msgspec
from msgspec import Struct

from dask_runner.batch import InputRange
from dask_runner.errors import UsageError
from dask_runner.files import sha256
from dask_runner.model_files import ModelFile, NeedsFiles, files_of, places
from dask_runner.trials.model import FunctionModel, Model

# Import paths, not classes: only the model in use is imported.
MODELS = {
    "coincidence": "dask_runner.trials.models.coincidence:Coincidence",
    "counting": "dask_runner.trials.models.counting:Counting",
    "gaussian": "dask_runner.trials.models.gaussian:Gaussian",
    "point-source": "dask_runner.trials.models.point_source:PointSource",
    "pyhf": "dask_runner.trials.models.pyhf_model:Pyhf",
    "spectrum": "dask_runner.trials.models.spectrum:Spectrum",
}

# What they import only when they run, and a host may as well import once.
PRELOAD: dict[str, tuple[str, ...]] = {"coincidence": ("healpy", "astropy.io.fits")}


class ModelSpec(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A model as JSON. `configuration` is that of a built-in one; a user's has the SHA-256 of its
    module's file instead, so that no other code takes its place on a host or in a rerun. `files`
    are what it reads on a host.
    """

    name: str
    configuration: dict[str, Any] = {}
    sha256: str = ""
    files: tuple[ModelFile, ...] = ()


def spec_of(name: str, model: Model) -> ModelSpec:
    """The JSON form of a model that was made under this name."""
    if name in MODELS:
        configuration = msgspec.to_builtins(model)
        return ModelSpec(name=name, configuration=configuration, files=files_of(model))
    return ModelSpec(name=name, sha256=_source_hash(name))


def load(spec: ModelSpec) -> Model:
    """Make the model. Raises UsageError if it cannot be imported, or is not the one that was
    planned.
    """
    if spec.name in MODELS:
        try:
            return cast("Model", msgspec.convert(spec.configuration, _import(MODELS[spec.name])))
        except msgspec.ValidationError as error:
            raise UsageError(f"model {spec.name}: wrong configuration: {error}") from error
    model = load_users(spec.name)
    found = _source_hash(spec.name)
    if spec.sha256 and found != spec.sha256:
        raise UsageError(
            f"model {spec.name}: {_source(spec.name)} here is not the file that the run was "
            "planned with",
            hint="put the same version there, or have it sent along: --model ./FILE.py:FUNCTION",
        )
    return model


def load_at(spec: ModelSpec, inputs: Sequence[InputRange]) -> Model:
    """The model on this host: `inputs` are those of a batch. Raises BatchFailedError if a file that
    it needs is not what it was; and as `load` does.
    """
    model = load(spec)
    if not spec.files:
        return model
    assert isinstance(model, NeedsFiles)
    return cast("Model", model.located(places(spec.files, inputs)))


def identity(spec: ModelSpec) -> Any:
    """Equal for specs of the same model: their trials may be looked at together."""
    if spec.name not in MODELS:
        return spec.name, spec.sha256
    own = getattr(_import(MODELS[spec.name]), "identity", dict)
    return spec.name, own(spec.configuration), tuple(file.sha256 for file in spec.files)


def builtin(name: str) -> Any:
    """The class of a built-in model. Raises UsageError for an unknown name."""
    if name not in MODELS:
        raise UsageError(
            f"no model {name!r}",
            hint=f"one of {', '.join(MODELS)}, your own as package.module:function, or a file: "
            "./my_trials.py:function",
        )
    return _import(MODELS[name])


def load_users(name: str) -> Model:
    """The model `package.module:function`: a function, a class to be called without arguments, or
    an object. Raises UsageError.
    """
    found = _import(name)
    if inspect.isclass(found):
        try:
            found = found()
        except (Exception, SystemExit) as error:
            raise UsageError(
                f"model {name}: cannot be made: {type(error).__name__}: {error}"
            ) from error
    if isinstance(found, Model):
        return found
    if not callable(found):
        raise UsageError(f"model {name} is no function", hint="def trial(rng, **point): ...")
    return FunctionModel(found, name)


def _import(target: str) -> Any:
    module_name, _, names = target.partition(":")
    if not names:
        raise UsageError(f"model {target!r} names no function", hint="package.module:function")
    try:
        found: Any = importlib.import_module(module_name)
        for name in names.split("."):
            found = getattr(found, name)
    except (Exception, SystemExit) as error:
        # Whatever the module does when it is imported: the user must see it.
        missing = isinstance(error, ModuleNotFoundError)
        raise UsageError(
            f"model {target!r} cannot be imported: {type(error).__name__}: {error}",
            hint="modules of your own are sent along with --ship FILE.py" if missing else "",
        ) from error
    return found


def _source(name: str) -> Path | None:
    module = importlib.import_module(name.partition(":")[0])
    file = getattr(module, "__file__", None)
    return None if file is None else Path(file)


def _source_hash(name: str) -> str:
    path = _source(name)
    return "" if path is None or not path.is_file() else sha256(path)
