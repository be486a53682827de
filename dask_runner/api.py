"""The product in a script or a notebook: start a run, look at outcomes, rerun, load the results.

The same pipeline as the command line's; nothing is printed and nothing exits. Errors are the
classes of `dask_runner.errors`; a failed batch is not an error but an entry of `Run.failed`.
"""

import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from dask_runner import merge as merging
from dask_runner import pipeline, run_folder, trial_results, trial_runs, verify
from dask_runner.batch import Outcome
from dask_runner.control import Control
from dask_runner.errors import FailedBatchesError, UsageError
from dask_runner.files import text_to_path
from dask_runner.manifest import RunState, Verdict, read_state
from dask_runner.opening import Target
from dask_runner.progress import Progress, choose
from dask_runner.seeds import Value
from dask_runner.settings import load_settings
from dask_runner.summary import Summary, summarize
from dask_runner.trials.loading import TrialData
from dask_runner.workloads.command import Command
from dask_runner.workloads.generate import Generate
from dask_runner.workloads.interface import Workload
from dask_runner.workloads.reconstruct import Reconstruct

if TYPE_CHECKING:
    from dask_runner.histograms.result import HistogramResult


class Run:
    """A run on disk. What it tells is read anew from the manifest when asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __repr__(self) -> str:
        return f"Run({os.fspath(self.path)!r})"

    @property
    def timestamp(self) -> str:
        return self.path.name

    @property
    def state(self) -> RunState:
        """The fold of the manifest: plan, verdicts, outputs."""
        return read_state(self.path)

    @property
    def summary(self) -> Summary:
        return summarize(self.state)

    @property
    def failed(self) -> list[Outcome]:
        """The last outcome of each failed batch, with its cause and log."""
        state = self.state
        last = (state.last_outcome(index) for index in state.indices(Verdict.FAILED))
        return [outcome for outcome in last if outcome is not None]

    def outcomes(self) -> Iterator[Outcome]:
        """The outcome that decided each batch that has one, in order of the batches."""
        state = self.state
        for index in state.indices(*Verdict):
            outcome = state.last_outcome(index)
            if outcome is not None:
                yield outcome

    def outputs(self, ending: str = "") -> list[Path]:
        """The published files in order of the batches, or those whose name has `ending` in it."""
        state = self.state
        return [
            state.folder.output(text_to_path(output.name))
            for index in state.indices(Verdict.DONE)
            for output in state.outputs(index)
            if ending in output.name
        ]

    def rerun(
        self,
        *,
        accept_changed_inputs: bool = False,
        progress: bool = False,
        cluster: str = "",
        hosts: str = "",
        max_slots: int = 0,
        accept_numerics: bool = False,
        **overrides: Any,
    ) -> "Run":
        """Do what is not done. `overrides` are keys of the run section of the settings; for the
        others, see `start`.
        """
        now = _settings({}, {}).cluster
        request = pipeline.RerunRequest(
            accept_changed_inputs=accept_changed_inputs,
            overrides=overrides,
            target=Target(
                cluster=cluster,
                hosts=hosts,
                max_slots=max_slots,
                staging=now.staging,
                cache=now.cache,
                accept_numerics=accept_numerics,
            ),
        )
        with _control() as control:
            pipeline.rerun(self.path, request, control=control, progress=_progress(wanted=progress))
        return self

    def verify(self) -> verify.Verification:
        """Hash all outputs and inputs again."""
        state = self.state
        return verify.verify(state, state.folder, thorough=True)

    def merge(
        self,
        folder: Path | str | None = None,
        *,
        acceptance: float = 1.0,
        to: Sequence[Path | str] = (),
    ) -> merging.MergeResult:
        """Join the outputs into one file of each kind; `to` names the files of histograms."""
        state = self.state
        target = None if folder is None else Path(folder)
        named = [Path(path) for path in to]
        return merging.merge(state, state.folder, target=target, acceptance=acceptance, to=named)

    def histograms(self, *, acceptance: float = 1.0) -> "HistogramResult":
        """The merged histograms of a run of `histogram`, by name, with the cutflow.

        Raises FailedBatchesError if less than `acceptance` of the events is done, UsageError for a
        run of another workload.
        """
        from dask_runner import histogram_results  # noqa: PLC0415  (uproot only if wanted)

        return histogram_results.load(self.state, acceptance=acceptance)

    def arrays(self, kind: str = "NTUP", tree: str = "events", *, partial: bool = False) -> Any:
        """A tree of all published files of a kind, in event order, as an awkward array.

        Raises FailedBatchesError if batches are missing, unless `partial`.
        """
        state = self.state
        missing = state.failed.batches + state.pending.batches
        if missing and not partial:
            raise FailedBatchesError(
                f"{missing} batches of run {self.timestamp} are not done",
                hint="rerun() does them; partial=True loads what there is",
            )
        files = self.outputs(f".{kind}.")
        if not files:
            raise UsageError(f"run {self.timestamp} has published no {kind} file")
        from dask_runner import rootfiles  # noqa: PLC0415  (uproot only if wanted)

        return rootfiles.as_awkward(files, tree)


def generate(evnt_dir: Path | str, *, extend: bool = False, **options: Any) -> Run:
    """Generate events into `evnt_dir`.

    `options`: keys of the generate section (`batch_size`, `files`, `run_number`, `mh` ...), and
    those of `start`.
    """
    sections, rest = _split(options, "generate")
    settings = _settings({**sections, "generate.evnt_dir": os.fspath(evnt_dir)}, rest)
    workload = Generate.from_settings(settings, extend=extend)
    return _start(workload, settings, outputs=Path(settings.generate.evnt_dir), **rest)


def reconstruct(evnt_dir: Path | str, **options: Any) -> Run:
    """Simulate, digitize and reconstruct the events of the files in `evnt_dir`.

    `options`: keys of the reconstruct section (`patterns`, `keep`, `steps`) and of the run section
    (`batch_size`, `slots`, `seed`, `attempts` ...), and those of `start`.
    """
    sections, rest = _split(options, "reconstruct")
    settings = _settings({**sections, "generate.evnt_dir": os.fspath(evnt_dir)}, rest)
    return _start(Reconstruct.from_settings(settings), settings, **rest)


def command(
    words: list[str],
    number: int | None = None,
    *,
    outputs: tuple[str, ...] = (),
    setup: Path | str | None = None,
    parameters: Path | str = "",
    merge_command: str = "",
    **options: Any,
) -> Run:
    """Run a program `number` times, or once for each line of the CSV file `parameters`; the words
    may have placeholders ({index} {seed} {output}).
    """
    sections, rest = _split(options, "run")
    settings = _settings(sections, rest)
    workload = Command.from_options(
        words=words,
        number=number,
        outputs=list(outputs),
        setup=None if setup is None else Path(setup),
        parameters=os.fspath(parameters),
        merge_command=merge_command,
        seed=settings.run.seed,
        shipped=bool(rest.get("ship")),
    )
    return _start(workload, settings, **rest)


def start(workload: Workload, **options: Any) -> Run:
    """Run a workload of your own: see `dask_runner.workloads.interface`.

    `options`: keys of the run section, and `runs` (folder), `output_dir`, `label`, `first`,
    `settings` (file), `import_path` (folders put first on the batches' import path), `ship` (files
    and folders that the batches get, wherever they run), `cluster` (its name), `hosts` (a pattern),
    `max_slots`, `accept_numerics` (True: use hosts too that compute other bits), `progress` (True:
    show it on stderr).
    """
    sections, rest = _split(options, "run")
    settings = _settings(sections, rest)
    return _start(workload, settings, **rest)


def open_run(timestamp: str = "last", *, runs: Path | str = "runs") -> Run:
    """A run on disk by its timestamp, a unique prefix of it, or `last`."""
    return Run(run_folder.find(Path(runs), timestamp))


def throw_trials(
    model: str,
    number: int | str | Sequence[str],
    *,
    grid: Mapping[str, Iterable[Value]] | Sequence[str] = (),
    fixed: Mapping[str, Value] | None = None,
    batch_size: int = 0,
    model_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> Run:
    """Throw `number` trials of each point of a model, given as on the command line: by name,
    `package.module:function` or `./file.py:function`. `grid` holds the values of each parameter
    (their product), or texts as of --grid; `model_options` are `config`, `workspace` ... of a
    built-in model.

    `options`: keys of the trials section (`batch_seconds` ...) and of the run section (`seed`,
    `slots` ...), and those of `start`. Raises UsageError and BadInputError as the command does.
    """
    sections, rest = _split(options, "trials")
    settings = _settings(sections, rest)
    target = _target(settings, rest)
    request = trial_runs.TrialRequest(
        model=model,
        points=trial_runs.make_points(grid, fixed or {}),
        counts=(number,) if isinstance(number, str) else _counts(number),
        options=dict(model_options or {}),
        batch_size=batch_size,
        ship=tuple(Path(path) for path in rest.get("ship", ())),
        import_path=tuple(str(Path(path).absolute()) for path in rest.get("import_path", ())),
    )
    planned = trial_runs.plan(request, settings, target)
    rest["ship"] = planned.ship
    return _start(planned.workload, settings, **rest)


def histogram(
    *,
    files: str | Sequence[str] = (),
    tree: str = "",
    fill: str | Sequence[str] = (),
    bins: str | Sequence[Any] = (),
    names: str | Sequence[str] = (),
    where: str = "",
    where_event: str | Sequence[str] = (),
    weight: str = "",
    samples: Mapping[str, str] | None = None,
    by_sample: bool = False,
    config: Path | str | None = None,
    function: str = "",
    branches: Sequence[str] = (),
    skim: str | Sequence[str] = (),
    batch_size: int = 0,
    **options: Any,
) -> Run:
    """Fill histograms from trees of ROOT files, or write a skim, as the command of that name:
    `bins` are texts as of --bins, or (N, low, high), or a list of edges, one for each `fill`.

    `options`: keys of the histogram section and of the run section, `chunk` (entries that a
    function sees at once), and those of `start`. Raises UsageError and BadInputError as the
    command does.
    """
    from dask_runner import histogram_runs  # noqa: PLC0415  (uproot only if wanted)
    from dask_runner.histograms.drafting import Asked  # noqa: PLC0415  (see above)
    from dask_runner.workloads.histogram import CHUNK  # noqa: PLC0415  (see above)

    chunk = options.pop("chunk", CHUNK)
    sections, rest = _split(options, "histogram")
    settings = _settings(sections, rest)
    asked = Asked(
        config=None if config is None else Path(config),
        files=_several(files),
        tree=tree,
        fill=_several(fill),
        bins=_bins(bins),
        names=_several(names),
        weight=weight,
        where=where,
        where_event=_several(where_event),
        samples=tuple(f"{name}={pattern}" for name, pattern in (samples or {}).items()),
        by_sample=by_sample,
        function=function,
        branches=tuple(branches),
        skim=_several(skim),
    )
    request = histogram_runs.HistogramRequest(
        asked=asked,
        batch_size=batch_size,
        chunk=chunk,
        ship=tuple(Path(path) for path in rest.get("ship", ())),
        import_path=tuple(str(Path(path).absolute()) for path in rest.get("import_path", ())),
    )
    planned = histogram_runs.plan(request, settings, _target(settings, rest))
    rest["ship"] = planned.ship
    return _start(planned.workload, settings, **rest)


def _several(texts: str | Sequence[str]) -> tuple[str, ...]:
    return (texts,) if isinstance(texts, str) else tuple(texts)


def _bins(given: Any) -> tuple[str, ...]:
    """As --bins takes them: a tuple of numbers is (N, low, high), a list of numbers are edges."""
    if isinstance(given, str):
        return (given,)
    if not isinstance(given, Iterable):
        return (_bins_text(given),)
    if given and all(isinstance(one, int | float) for one in given):
        given = [given]
    return tuple(one if isinstance(one, str) else _bins_text(one) for one in given)


def _bins_text(numbers: Any) -> str:
    if not isinstance(numbers, Iterable):
        raise UsageError(f"bins={numbers!r}: not (N, low, high), edges, or a text as of --bins")
    text = ",".join(repr(number) for number in numbers)
    return text if isinstance(numbers, tuple) else f"[{text}]"


def scan_sky(config: Path | str, **options: Any) -> Run:
    """Scan a sky for point sources as the command `skyscan` does: `config` is the TOML file of the
    search.

    `options`: `nside`, `skies`, `min_dec`, `max_dec` (degrees), `unblind` (the reason to scan the
    observed sky), `inject` ("dec=..,ra=..,n_sig=.."), `keep`, `batch_size` (pixels), `background`
    (runs of background trials, or their timestamps in `runs`), `fit`; keys of the run section; and
    those of `start`. What it says: `dask_runner.conclusions.skies`.
    """
    from dask_runner import scan_runs  # noqa: PLC0415  (scipy only if wanted)

    names = scan_runs.ScanRequest.__struct_fields__
    own = {name: options.pop(name) for name in names if name in options}
    sections, rest = _split(options, "run")
    settings = _settings(sections, rest)
    runs = Path(settings.storage.runs)
    own["background"] = tuple(
        one.path if isinstance(one, Run) else run_folder.find(runs, one)
        for one in own.get("background", ())
    )
    request = scan_runs.ScanRequest(config=Path(config), **own)
    planned = scan_runs.plan(request, settings, _target(settings, rest))
    return _start(planned.workload, settings, notes=planned.notes, **rest)


def _counts(number: int | Sequence[str]) -> tuple[str, ...]:
    return (str(number),) if isinstance(number, int) else tuple(number)


def load_trials(*timestamps: str, runs: Path | str = "runs", partial: bool = False) -> TrialData:
    """The trials of one or more runs of the same model (default: the last run).

    Raises FailedBatchesError if batches are not done, unless `partial`.
    """
    paths = [run_folder.find(Path(runs), timestamp) for timestamp in timestamps or ("last",)]
    return trial_results.load(paths, partial=partial)


_START_OPTIONS = {
    *("runs", "output_dir", "label", "first", "settings", "import_path", "progress"),
    *("skip_bad_inputs", "ship", "cluster", "hosts", "max_slots", "accept_numerics"),
}


def _split(options: dict[str, Any], section: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of settings by dotted key, and those of `start`."""
    from dask_runner.settings.keys import KEYS  # noqa: PLC0415  (a table, needed here only)

    settings: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    for name, value in options.items():
        if name in _START_OPTIONS:
            rest[name] = value
        elif f"{section}.{name}" in KEYS:
            settings[f"{section}.{name}"] = value
        else:
            settings[f"run.{name}"] = value
    return settings, rest


def _settings(overrides: Mapping[str, Any], rest: Mapping[str, Any]) -> Any:
    file = rest.get("settings")
    given = dict(overrides)
    if "runs" in rest:
        given["storage.runs"] = os.fspath(rest["runs"])
    return load_settings(None if file is None else Path(file), os.environ, given).settings


def _start(
    workload: Workload,
    settings: Any,
    *,
    outputs: Path | None = None,
    progress: bool = False,
    **options: Any,
) -> Run:
    request = pipeline.RunRequest(
        workload=workload,
        settings=settings,
        outputs=Path(options["output_dir"]) if "output_dir" in options else outputs,
        label=options.get("label", ""),
        first=options.get("first"),
        import_path=tuple(str(Path(path).absolute()) for path in options.get("import_path", ())),
        ship=tuple(Path(path) for path in options.get("ship", ())),
        skip_bad_inputs=options.get("skip_bad_inputs", False),
        target=_target(settings, options),
        notes=options.get("notes", ()),
    )
    with _control() as control:
        folder, manifest = pipeline.create(request)
        with manifest:
            pipeline.run(
                folder,
                manifest,
                first=request.first,
                target=request.target,
                control=control,
                progress=_progress(wanted=progress),
            )
    return Run(folder.path)


def _target(settings: Any, options: Mapping[str, Any]) -> Target:
    return Target(
        cluster=options.get("cluster", settings.cluster.name),
        hosts=options.get("hosts", ""),
        max_slots=options.get("max_slots", 0),
        staging=settings.cluster.staging,
        cache=settings.cluster.cache,
        accept_numerics=options.get("accept_numerics", False),
    )


@contextmanager
def _control() -> Iterator[Control]:
    """Ctrl-C drains where Python lets us hear of it: in the main thread."""
    control = Control()
    main = threading.current_thread() is threading.main_thread()
    with control.signals() if main else nullcontext():
        yield control


def _progress(*, wanted: bool) -> Progress:
    return choose(Console(stderr=True, emoji=False), not wanted)
