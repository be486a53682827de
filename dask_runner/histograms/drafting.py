"""What a user asks for, on the command line, in a TOML file or from Python -> a job.

Owns names, defaults and what goes together; every expression is parsed here once, so that nothing
that cannot be evaluated reaches a plan. What is given beside a file takes its key's place;
histograms are added to those of the file.
"""

import re
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from dask_runner.errors import UsageError
from dask_runner.histograms.binning import from_edges, from_numbers, parse_axes, split_axes
from dask_runner.histograms.config import Bins, Config, HistogramKeys, texts
from dask_runner.histograms.expressions import Expression
from dask_runner.histograms.spec import SAMPLE, Axis, HistogramSpec, Job, Sample

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+=-]*")
# Names of other things in the merged files.
_RESERVED = ("cutflow", "cutflow_weights", "metadata")
_LONGEST_NAME = 80
_MOST_CELLS = 20_000_000


class Asked(Struct, frozen=True, kw_only=True):
    """What is asked for, as the options of the command say it. `fill`, `bins` and `names` stand at
    the same places; one `bins` serves all. `samples` are NAME=GLOB.
    """

    config: Path | None = None
    files: tuple[str, ...] = ()
    tree: str = ""
    fill: tuple[str, ...] = ()
    bins: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    weight: str = ""
    where: str = ""
    where_event: tuple[str, ...] = ()
    samples: tuple[str, ...] = ()
    by_sample: bool = False
    function: str = ""
    branches: tuple[str, ...] = ()
    skim: tuple[str, ...] = ()


class Draft(Struct, frozen=True, kw_only=True):
    """A job without what only the inputs and the function tell: `files` are patterns that begin in
    `files_folder`, those of samples in `samples_folder`; `function` is as given, in
    `function_folder`, and its histograms have a row for each sample with `by_sample`; `skim` may
    have patterns. `places` says of expressions, by what they call their place, where they stand.
    """

    job: Job
    files: tuple[str, ...]
    files_folder: Path
    samples_folder: Path
    function: str = ""
    function_folder: Path
    branches: tuple[str, ...] = ()
    by_sample: bool = False
    places: dict[str, str] = {}


def draft(asked: Asked) -> Draft:
    """Raises UsageError with the option, or the file, line and key, that is wrong."""
    config = Config(asked.config)
    keys, here = config.keys, Path.cwd()
    tree = asked.tree or keys.tree
    if not tree:
        raise UsageError("which tree? --tree NAME", hint="as in --tree TTbar/mytree")
    samples = _samples(asked, config)
    job = Job(
        tree=tree,
        where=_checked(asked.where, "--where", keys.where, config, "where"),
        where_event=_event_cuts(asked, config),
        weight=_checked(asked.weight, "--weight", keys.weight, config, "weight"),
        samples=samples,
        skim=asked.skim or texts(keys.skim),
    )
    histograms = (*_of_file(config, samples), *_of_options(asked, keys.by_sample, samples, config))
    function = asked.function or keys.function
    _check_together(job, histograms, function, by_sample=asked.by_sample)
    branches = asked.branches or texts(keys.branches)
    if branches and not function:
        raise UsageError("--branches is what a function reads, and there is no --function")
    _check_names(histograms, samples)
    files = asked.files or texts(keys.files)
    if not files and not samples:
        raise UsageError("which files? --files 'data/*.root'")
    return Draft(
        job=replace(job, histograms=histograms),
        files=files,
        files_folder=here if asked.files else config.folder,
        samples_folder=here if asked.samples else config.folder,
        function=function,
        function_folder=here if asked.function else config.folder,
        branches=branches,
        by_sample=asked.by_sample or keys.by_sample,
        places=_places(asked, config),
    )


def with_samples(spec: HistogramSpec, samples: Sequence[Sample], place: str) -> HistogramSpec:
    """The histogram with a row for each sample. Raises UsageError if there are no samples."""
    if not samples:
        raise UsageError(f"{place}: by sample, but there are no samples", hint="--sample NAME=GLOB")
    names = tuple(sample.name for sample in samples)
    axis = Axis(kind="category", name=SAMPLE, label=SAMPLE, categories=names)
    return replace(spec, axes=(axis, *spec.axes))


def _places(asked: Asked, config: Config) -> dict[str, str]:
    """Where the expressions of a TOML file stand."""
    options = {"where": asked.where, "weight": asked.weight, "where_event": asked.where_event}
    found = {
        name: f"--{name.replace('_', '-')}" if given else config.place(name)
        for name, given in options.items()
    }
    for name in config.keys.histograms:
        key = f"histograms.{name}"
        found[f"histogram {name}"] = config.place(f"{key}.fill")
        found[f"histogram {name}: where"] = config.place(f"{key}.where")
        found[f"histogram {name}: weight"] = config.place(f"{key}.weight")
    return found


def _samples(asked: Asked, config: Config) -> tuple[Sample, ...]:
    given: dict[str, str] = {}
    for text in asked.samples:
        name, equals, pattern = text.partition("=")
        if not (equals and pattern) or name in given:
            raise UsageError(f"--sample {text}: not a new NAME=GLOB")
        given[name] = pattern
    found: Mapping[str, str] = given or config.keys.samples
    for name in found:
        place = f"--sample {name}" if given else config.place(f"samples.{name}")
        check_name(name, place)
    return tuple(Sample(name=name, pattern=pattern) for name, pattern in found.items())


def _event_cuts(asked: Asked, config: Config) -> tuple[str, ...]:
    cuts = asked.where_event or texts(config.keys.where_event)
    place = "--where-event" if asked.where_event else config.place("where_event")
    return tuple(_parsed(cut, place) for cut in cuts)


def _of_options(
    asked: Asked, by_sample: bool, samples: Sequence[Sample], config: Config
) -> list[HistogramSpec]:
    if asked.bins and not asked.fill:
        raise UsageError("--bins without --fill: bins of what?")
    if len(asked.bins) not in {1, len(asked.fill)}:
        if not asked.fill:
            return []
        raise UsageError(
            f"{len(asked.fill)} --fill and {len(asked.bins)} --bins",
            hint="one --bins for each --fill in the same order, or one for all: N,low,high",
        )
    if len(asked.names) > len(asked.fill):
        raise UsageError(f"{len(asked.names)} --name and {len(asked.fill)} --fill")
    taken = set(config.keys.histograms) | set(asked.names)
    specs = []
    for number, fill in enumerate(asked.fill):
        expressions = split_axes(fill, "--fill")
        axes = parse_axes(asked.bins[number if len(asked.bins) > 1 else 0], "--bins")
        name = asked.names[number] if number < len(asked.names) else _name_of(expressions, taken)
        taken.add(name)
        spec = _spec(name, expressions, axes, (), "--fill")
        own = asked.by_sample or by_sample
        specs.append(with_samples(spec, samples, "--by-sample") if own else spec)
    return specs


def _of_file(config: Config, samples: Sequence[Sample]) -> list[HistogramSpec]:
    specs = []
    for name, keys in config.keys.histograms.items():
        key = f"histograms.{name}"
        check_name(name, config.place(key))
        fill = (
            split_axes(keys.fill, config.place(f"{key}.fill"))
            if isinstance(keys.fill, str)
            else keys.fill
        )
        axes = _axes_of(keys, config, key)
        spec = _spec(name, fill, axes, texts(keys.label), config.place(f"{key}.fill"))
        spec = replace(
            spec,
            weight=_parsed(keys.weight, config.place(f"{key}.weight")),
            where=_parsed(keys.where, config.place(f"{key}.where")),
        )
        own = config.keys.by_sample if keys.by_sample is None else keys.by_sample
        place = config.place(f"{key}.by_sample")
        specs.append(with_samples(spec, samples, place) if own else spec)
    return specs


def _axes_of(keys: HistogramKeys, config: Config, key: str) -> tuple[Axis, ...]:
    if bool(keys.bins) == bool(keys.edges):
        raise UsageError(f"{config.place(key)}: either bins or edges", hint="bins = [200, 0, 2000]")
    if keys.edges:
        return (from_edges(keys.edges, config.place(f"{key}.edges")),)
    return _axes_of_bins(keys.bins, config.place(f"{key}.bins"))


def _axes_of_bins(bins: Bins, place: str) -> tuple[Axis, ...]:
    if isinstance(bins, str):
        return parse_axes(bins, place)
    rows = [row for row in bins if isinstance(row, tuple)]
    if rows:
        return tuple(from_numbers(row, place) for row in rows)
    return (from_numbers([number for number in bins if not isinstance(number, tuple)], place),)


def _spec(
    name: str, fill: Sequence[str], axes: Sequence[Axis], labels: Sequence[str], place: str
) -> HistogramSpec:
    if len(fill) not in {1, 2}:
        raise UsageError(f"{place}: one expression or two, not {len(fill)}")
    if len(axes) != len(fill):
        raise UsageError(
            f"{place}: {' : '.join(fill)}: {len(fill)} axes, but bins for {len(axes)}",
            hint="two axes as --fill 'x : y' --bins '50,0,1 : 20,-3,3'",
        )
    if not all(fill):
        raise UsageError(f"{place}: empty expression")
    if labels and len(labels) != len(fill):
        raise UsageError(f"{place}: {len(fill)} axes, but {len(labels)} labels")
    texts_of_axes = labels or fill
    named = tuple(
        replace(axis, name="xy"[number], label=text)
        for number, (axis, text) in enumerate(zip(axes, texts_of_axes, strict=True))
    )
    spec = HistogramSpec(name=name, fill=tuple(_parsed(one, place) for one in fill), axes=named)
    if prod(axis.extent for axis in named) > _MOST_CELLS:
        raise UsageError(f"{place}: {name} has more than {_MOST_CELLS} bins")
    return spec


def _parsed(text: str, place: str) -> str:
    """The expression again, if it is one; "" is none. Raises UsageError."""
    return Expression(text, place).text if text else ""


def _checked(option: str, place: str, key: str, config: Config, name: str) -> str:
    return _parsed(option, place) if option else _parsed(key, config.place(name))


def _check_together(
    job: Job, histograms: Sequence[HistogramSpec], function: str, *, by_sample: bool
) -> None:
    if job.skim and (histograms or function):
        raise UsageError(
            "a run makes histograms or a skim, not both", hint="leave --skim or --fill out"
        )
    if job.skim and by_sample:
        raise UsageError(
            "--by-sample does nothing to a skim", hint="a skim for each sample is a run for each"
        )
    if not (job.skim or histograms or function):
        raise UsageError(
            "what is to be filled? --fill EXPRESSION --bins N,low,high",
            hint="or --config FILE.toml, --function ./FILE.py:NAME, --skim BRANCH",
        )
    if function and not histograms and (job.where or job.weight):
        what = "where" if job.where else "weight"
        raise UsageError(
            f"--{what} does nothing to what a function fills", hint="the function may do it itself"
        )


def _check_names(histograms: Sequence[HistogramSpec], samples: Sequence[Sample]) -> None:
    seen = {sample.name for sample in samples}
    for spec in histograms:
        check_name(spec.name, f"histogram {spec.name}")
        if spec.name in seen:
            raise UsageError(f"two histograms or samples have the name {spec.name}")
        seen.add(spec.name)


def check_name(name: str, place: str) -> None:
    """Raises UsageError for what cannot be the name of a histogram or sample."""
    if not _NAME.fullmatch(name) or len(name) > _LONGEST_NAME or name in _RESERVED:
        raise UsageError(
            f"{place}: {name!r} cannot be its name",
            hint=f"letters, digits and _ . + = -, at most {_LONGEST_NAME}, not "
            f"{', '.join(_RESERVED)}",
        )


def _name_of(expressions: Sequence[str], taken: set[str]) -> str:
    """A name made of what is filled."""
    plain = "__".join(re.sub(r"[^A-Za-z0-9_]+", "_", one).strip("_") for one in expressions)
    plain = plain[: _LONGEST_NAME - 4] or "histogram"
    name, number = plain, 1
    while name in taken or name in _RESERVED:
        number += 1
        name = f"{plain}_{number}"
    return name
