"""Files of merged histograms: ROOT, npz and JSON; docs/histograms.md says what is in them.

Owns the names inside the files, and that no number is rounded on its way. Equal results give equal
bytes, whatever the batches were. Refuses to replace files: that is the caller's affair.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from dask_runner.errors import UsageError
from dask_runner.histograms.conversion import uhi_name
from dask_runner.histograms.result import Cut, Filled, HistogramResult, Numbers
from dask_runner.histograms.spec import Axis, HistogramSpec

SCHEMA = "dask-runner/histograms/1"
CUTFLOW = "cutflow"
_UHI_SCHEMA = 1
_ROOT_AXES = 3
_LETTERS = "xyz"


def write(result: HistogramResult, path: Path, metadata: dict[str, Any]) -> None:
    """Write a result to a new file; the ending of the name says the format. `metadata` is what the
    merge says of the run. Raises UsageError for another ending, and for what ROOT cannot hold.
    """
    check_name(path.name)
    WRITERS[path.suffix](result, path, {**metadata, **facts(result)})


def check_name(name: str) -> None:
    """Raises UsageError unless the name ends as one of the formats."""
    if Path(name).suffix not in WRITERS:
        raise UsageError(
            f"--to {name}: the ending says the format", hint=f"one of {', '.join(WRITERS)}"
        )


def facts(result: HistogramResult) -> dict[str, Any]:
    """What is true of the whole result."""
    return {
        "schema": SCHEMA,
        "events_read": result.events_read,
        "events_asked": result.events_asked,
        "missing": list(result.missing),
        CUTFLOW: msgspec.to_builtins(result.cutflow),
    }


def _write_json(result: HistogramResult, path: Path, metadata: dict[str, Any]) -> None:
    document = {
        **metadata,
        "histograms": {filled.spec.name: as_uhi(filled) for filled in result.histograms},
    }
    path.write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n")


def as_uhi(filled: Filled) -> dict[str, Any]:
    """A histogram in the JSON form of Scikit-HEP's UHI (https://uhi.readthedocs.io, schema 1), from
    which hist and boost-histogram make theirs; what they do not know is in `metadata`. Underflow
    and overflow are in the arrays.
    """
    spec = filled.spec
    storage: dict[str, Any] = {"type": "int", "values": filled.counts.tolist()}
    if filled.weighted:
        storage = {
            "type": "weighted",
            "values": filled.values.tolist(),
            "variances": filled.variances.tolist(),
        }
    return {
        "uhi_schema": _UHI_SCHEMA,
        "axes": [_uhi_axis(axis) for axis in spec.axes],
        "storage": storage,
        "metadata": {
            "name": spec.name,
            "fill": list(spec.fill),
            "where": spec.where,
            "weight": spec.weight,
            "entries": filled.entries,
            "nan": filled.nan,
            **({"counts": filled.counts.tolist()} if filled.weighted else {}),
        },
    }


def _uhi_axis(axis: Axis) -> dict[str, Any]:
    metadata = {"name": uhi_name(axis), "label": axis.label}
    if axis.kind == "category":
        return {
            "type": "category_str",
            "categories": list(axis.categories),
            "flow": False,
            "metadata": metadata,
        }
    flow = {"underflow": True, "overflow": True, "circular": False, "metadata": metadata}
    if axis.kind == "variable":
        return {"type": "variable", "edges": [_number(edge) for edge in axis.edges], **flow}
    return {
        "type": "regular",
        "lower": axis.start,
        "upper": axis.stop,
        "bins": axis.bins,
        **flow,
    }


def _number(value: float) -> float | msgspec.Raw:
    """JSON has no infinite numbers, but larger ones than a double holds, which are read as such."""
    if np.isfinite(value):
        return value
    return msgspec.Raw(b"1e999" if value > 0 else b"-1e999")


def _write_npz(result: HistogramResult, path: Path, metadata: dict[str, Any]) -> None:
    """For each histogram NAME the arrays NAME/values, NAME/variances, NAME/counts and NAME/edges_x
    (or NAME/categories_x), and the same with underflow and overflow as NAME/flow/values ...
    """
    arrays: dict[str, Any] = {"metadata": np.array(msgspec.json.encode(metadata).decode())}
    for filled in result.histograms:
        name = filled.spec.name
        for what in ("values", "variances", "counts"):
            array = getattr(filled, what)
            arrays[f"{name}/{what}"] = array[filled.inner]
            arrays[f"{name}/flow/{what}"] = array
        for letter, axis in zip(_axis_letters(filled), filled.spec.axes, strict=True):
            if axis.kind == "category":
                arrays[f"{name}/categories_{letter}"] = np.array(axis.categories, dtype=str)
            else:
                arrays[f"{name}/edges_{letter}"] = axis.all_edges
    # An open file, for numpy would add .npz to a name that does not end so. It writes no dates.
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)


def _axis_letters(filled: Filled) -> list[str]:
    """`x`, `y`, `z`, `3` ..., beginning behind the axis of the sample, which is called so."""
    numbers = len(filled.spec.axes) - filled.spec.by_sample
    letters = [_LETTERS[k] if k < len(_LETTERS) else str(k) for k in range(numbers)]
    return ["sample", *letters] if filled.spec.by_sample else letters


def _write_root(result: HistogramResult, path: Path, metadata: dict[str, Any]) -> None:
    """TH1D, TH2D, TH3D under their names; those by sample once as the sum, and for each sample in
    its folder; the cutflow with a labelled bin for each cut.
    """
    from dask_runner import rootfiles  # noqa: PLC0415  (uproot only if wanted)

    plain: dict[str, Any] = {}
    for filled in result.histograms:
        for folder, one in _by_sample(filled):
            plain[f"{folder}/{filled.spec.name}" if folder else filled.spec.name] = _plain(one)
    for name, one in _cutflows(result.cutflow).items():
        plain.setdefault(name, one)
    rootfiles.write_histograms(path, plain, metadata)


def _by_sample(filled: Filled) -> list[tuple[str, Filled]]:
    """The histogram, or its sum over the samples and that of each sample, with the folder's name.

    A sum of doubles over samples is rounded once for each sample, in the order of the samples.
    """
    if not filled.spec.by_sample:
        return [("", filled)]
    sample, *axes = filled.spec.axes
    spec = msgspec.structs.replace(filled.spec, axes=tuple(axes))
    whole = msgspec.structs.replace(
        filled,
        spec=spec,
        counts=filled.counts.sum(axis=0),
        values=filled.values.sum(axis=0),
        variances=filled.variances.sum(axis=0),
    )
    parts = [
        (
            name,
            msgspec.structs.replace(
                filled,
                spec=spec,
                counts=filled.counts[k],
                values=filled.values[k],
                variances=filled.variances[k],
            ),
        )
        for k, name in enumerate(sample.categories)
    ]
    return [("", whole), *parts]


def _plain(filled: Filled) -> Any:
    from dask_runner import rootfiles  # noqa: PLC0415  (see above)

    axes = filled.spec.axes
    if len(axes) > _ROOT_AXES:
        raise UsageError(
            f"{filled.spec.name}: ROOT's histograms have up to {_ROOT_AXES} axes, not {len(axes)}",
            hint="--to NAME.npz or NAME.json holds any number",
        )
    # ROOT has underflow and overflow for labelled bins too.
    room = [(1, 1) if axis.kind == "category" else (0, 0) for axis in axes]
    return rootfiles.PlainHistogram(
        title=_title(filled.spec),
        axes=tuple(
            rootfiles.PlainAxis(
                edges=axis.all_edges,
                regular=axis.kind == "regular",
                title=axis.label or axis.name,
                labels=axis.categories,
            )
            for axis in axes
        ),
        values=np.pad(filled.values, room),
        variances=np.pad(filled.variances, room),
        entries=float(filled.entries),
    )


def _title(spec: HistogramSpec) -> str:
    """What is filled and where, as TTree::Draw has it."""
    what = " : ".join(spec.fill) or spec.name
    return f"{what} {{{spec.where}}}" if spec.where else what


def _cutflows(cutflow: Sequence[Cut]) -> dict[str, Any]:
    """Counts, and sums of weights where they are others, of all samples and of each."""
    found = {}
    for sample in dict.fromkeys(cut.sample for cut in cutflow):
        cuts = [cut for cut in cutflow if cut.sample == sample]
        folder = f"{sample}/" if sample else ""
        counts = np.array([cut.count for cut in cuts], np.float64)
        weights = np.array([cut.weights for cut in cuts], np.float64)
        found[f"{folder}{CUTFLOW}"] = _plain_cutflow(cuts, counts, counts)
        if (weights != counts).any():
            # Their errors are not known: squares of weights are not summed for cuts.
            none = np.zeros_like(weights)
            found[f"{folder}{CUTFLOW}_weights"] = _plain_cutflow(cuts, weights, none)
    return found


def _plain_cutflow(cuts: list[Cut], values: Numbers, variances: Numbers) -> Any:
    from dask_runner import rootfiles  # noqa: PLC0415  (see above)

    labels = tuple(cut.name if cut.level == "event" else f"objects: {cut.name}" for cut in cuts)
    edges = np.arange(len(cuts) + 1, dtype=np.float64)
    return rootfiles.PlainHistogram(
        title=CUTFLOW,
        axes=(rootfiles.PlainAxis(edges=edges, labels=labels),),
        values=np.pad(values, 1),
        variances=np.pad(variances, 1),
        entries=float(cuts[0].count),
    )


WRITERS: dict[str, Callable[[HistogramResult, Path, dict[str, Any]], None]] = {
    ".root": _write_root,
    ".npz": _write_npz,
    ".json": _write_json,
}
