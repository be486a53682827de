"""Workspaces of pyhf: read, patched, checked; the one place where pyhf itself is needed.

Owns the translation of what JSON, schema and pyhf object to into errors that name file and place.
Models are built without pyhf's own validation: that uses a part of jsonschema that is deprecated.
"""

import importlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from dask_runner.errors import BadInputError, UsageError
from dask_runner.trials.models.pyhf_layout import Layout, layout_of
from dask_runner.trials.models.pyhf_likelihood import Likelihood

_INSTALL = 'pip install "dask-runner[stats]"'
_SHOWN = 200
_AGREES = 1e-6
# Where the likelihoods are compared: these shares of a parameter's range, but of at most 6, away
# from its start.
_STEPS = (0.0, 0.02, -0.02, 0.25, -0.25)
_RANGE = 6.0


def read_workspace(path: Path, patches: Sequence[Path] = ()) -> dict[str, Any]:
    """The patched workspace. Raises BadInputError with file and place for what is no JSON, does
    not follow pyhf's schema, or cannot be patched; UsageError without pyhf.
    """
    _import("pyhf")
    workspace = _read_json(path)
    for patch in patches:
        workspace = _patched(workspace, patch)
    where = " with ".join([str(path), *[str(patch) for patch in patches]])
    _validate(workspace, where)
    _check_observations(workspace, where)
    return dict(workspace)


def choose_measurement(workspace: Mapping[str, Any], name: str) -> str:
    """The measurement of this name, or the first. Raises UsageError if there is none."""
    names = [str(measurement["name"]) for measurement in workspace["measurements"]]
    if name and name not in names:
        raise UsageError(
            f"the workspace has no measurement {name!r}", hint=f"it has: {', '.join(names)}"
        )
    return name or names[0]


def make_layout(workspace: Mapping[str, Any], measurement: str, where: str) -> Layout:
    """Have pyhf make the model. Raises BadInputError if it refuses, or if the measurement has no
    parameter of interest; UsageError if pyhf's likelihood is not ours.
    """
    pyhf = _import("pyhf")
    config = next(m for m in workspace["measurements"] if m["name"] == measurement)["config"]
    if not config["poi"]:
        raise BadInputError(f"{where}: measurement {measurement!r} has no parameter of interest")
    spec = {"channels": workspace["channels"], "parameters": config["parameters"]}
    try:
        model = pyhf.Model(spec, poi_name=config["poi"], validate=False)
        layout = layout_of(model.config)
        likelihood = Likelihood(workspace["channels"], layout)
    except UsageError:
        raise
    except Exception as error:
        # pyhf notices some mistakes only where they make it stumble.
        raise BadInputError(
            f"{where}: measurement {measurement!r}: {type(error).__name__}: {_short(error)}"
        ) from error
    _compare(likelihood, layout, model, where)
    return layout


def observed_counts(workspace: Mapping[str, Any], layout: Layout) -> np.ndarray[Any, Any]:
    """The observed counts in the order of the model's bins. Only for those who unblind."""
    counts = np.zeros(layout.bins)
    for observation in workspace["observations"]:
        if observation["name"] in layout.offsets:
            first = layout.offsets[observation["name"]]
            counts[first : first + len(observation["data"])] = observation["data"]
    return counts


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UsageError(f"model pyhf: {name} is not installed", hint=_INSTALL) from error


def _read_json(path: Path) -> Any:
    def refuse(constant: str) -> NoReturn:
        raise BadInputError(f"{path}: {constant} is not a number")

    try:
        return json.loads(path.read_bytes(), parse_constant=refuse)
    except OSError as error:
        raise BadInputError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise BadInputError(f"{path}: not JSON: {error}") from error


def _patched(workspace: Any, path: Path) -> Any:
    patch, jsonpatch = _read_json(path), _import("jsonpatch")
    if isinstance(patch, dict) and "patches" in patch:
        raise BadInputError(
            f"{path}: a set of patches, not one",
            hint=f"pyhf patchset extract {path} --name NAME --output-file patch.json",
        )
    for number, operation in enumerate(patch if isinstance(patch, list) else [patch]):
        try:
            workspace = jsonpatch.apply_patch(workspace, [operation])
        except Exception as error:
            # Wrong operations raise what they happen to run into.
            place = operation.get("path", "") if isinstance(operation, dict) else ""
            raise BadInputError(
                f"{path}: operation {number} at {place!r} cannot be applied: {_short(error)}"
            ) from error
    return workspace


def _validate(workspace: Any, where: str) -> None:
    """Check against the schema of the workspace's version. Raises BadInputError for the most
    telling mistake.
    """
    pyhf, jsonschema, referencing = map(_import, ("pyhf", "jsonschema", "referencing.jsonschema"))
    version = workspace.get("version") if isinstance(workspace, dict) else None
    if not isinstance(version, str):
        raise BadInputError(f"{where}: not a workspace: it has no version")
    try:
        definitions = pyhf.schema.load_schema(f"{version}/defs.json")
    except FileNotFoundError as error:
        raise BadInputError(
            f"{where}: version {version!r} of workspaces is not known to pyhf {pyhf.__version__}"
        ) from error
    registry = referencing.EMPTY_REGISTRY.with_contents(
        [(definitions["$id"], definitions)], default_specification=referencing.DRAFT6
    )
    schema = {"$ref": f"{definitions['$id']}#/definitions/workspace"}
    validator = jsonschema.Draft6Validator(schema, registry=registry)
    mistake = jsonschema.exceptions.best_match(validator.iter_errors(workspace))
    if mistake is not None:
        raise BadInputError(f"{where}: {_place(mistake.absolute_path)}: {_short(mistake.message)}")


def _check_observations(workspace: Mapping[str, Any], where: str) -> None:
    """Each channel has observed counts, as many as bins; their values are none of our business."""
    seen = {observation["name"]: observation["data"] for observation in workspace["observations"]}
    for number, channel in enumerate(workspace["channels"]):
        name, place = channel["name"], f"channels[{number}]"
        bins = len(channel["samples"][0]["data"])
        if name not in seen:
            raise BadInputError(f"{where}: {place}: channel {name!r} has no observation")
        if len(seen[name]) != bins:
            raise BadInputError(
                f"{where}: {place}: channel {name!r} has {bins} bins, its observation "
                f"{len(seen[name])}"
            )
        for k, sample in enumerate(channel["samples"]):
            if len(sample["data"]) != bins:
                raise BadInputError(
                    f"{where}: {place}.samples[{k}].data: {len(sample['data'])} bins, the first "
                    f"sample has {bins}"
                )


def _compare(likelihood: Likelihood, layout: Layout, model: Any, where: str) -> None:
    """Raises UsageError unless expectations and likelihood are pyhf's at some values of the
    parameters.
    """
    start = np.array(layout.start)
    low, high = np.array(layout.low), np.array(layout.high)
    counts = np.maximum(likelihood.expected(start), 0)
    counts[layout.bins :] = likelihood.nominal_counts
    data = [*counts[: layout.bins], *model.config.auxdata]
    # Alternating, so that the effects of parameters do not cancel.
    unit = np.minimum(high - low, _RANGE) * np.where(np.arange(len(start)) % 2, 1.0, -0.7)
    differences, same, largest = [], True, 1.0
    for step in _STEPS:
        theta = np.where(layout.fixed, start, np.clip(start + step * unit, low, high))
        with np.errstate(all="ignore"):
            ours, theirs = likelihood.expected(theta), model.expected_data(theta.tolist())
            other = -float(np.asarray(model.logpdf(theta.tolist(), data))[0])
        same = same and np.allclose(ours[: layout.bins], theirs[: layout.bins], rtol=_AGREES)
        value = likelihood.value(theta, counts, likelihood.nominal_normals)
        # Where a bin expects less than nothing, pyhf has no answer.
        if np.isfinite(value) and np.isfinite(other):
            differences.append(value - other)
            largest = max(largest, abs(other))
    if not same or (differences and np.ptp(differences) > _AGREES * largest):
        raise UsageError(
            f"{where}: our likelihood is not that of pyhf {_import('pyhf').__version__}",
            hint="please report it, with the workspace",
        )


def _place(path: Sequence[str | int]) -> str:
    """Where in the JSON: channels[0].samples[1].data."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.lstrip(".") or "top level"


def _short(message: object) -> str:
    text = " ".join(str(message).split())
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]} ..."
