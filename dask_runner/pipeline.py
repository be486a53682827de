"""run and rerun: one line for each step of the flow. The whole product can be read from here.

    plan -> manifest -> cluster -> dispatch (-> batch process -> publish -> record) -> summary

`run` makes the manifest; from there on `run` and `rerun` are the same code (`drive`).
"""

import logging
import socket
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import msgspec
from msgspec import Struct, field

from dask_runner import run_folder, shipping
from dask_runner.control import Control
from dask_runner.dispatch import Dispatcher
from dask_runner.dry_run import DryRun, check, existing_outputs
from dask_runner.errors import BadInputError, UsageError
from dask_runner.files import path_to_text
from dask_runner.identity import user_name, whoami
from dask_runner.manifest import (
    Extension,
    Header,
    Manifest,
    Note,
    NoteKind,
    RunState,
    Shipment,
    Verdict,
    read_state,
)
from dask_runner.opening import (
    Target,
    check_numerics,
    cluster_note,
    describe_cluster,
    effective_settings,
    end_note,
    host_lines,
    limits,
    open_cluster,
    rules,
)
from dask_runner.orders import Policy
from dask_runner.progress import Progress
from dask_runner.publish import Publisher
from dask_runner.recovery import recover
from dask_runner.roster import wanted_hosts
from dask_runner.run_folder import RunFolder
from dask_runner.settings import Settings
from dask_runner.staging import Staging
from dask_runner.summary import Summary, summarize
from dask_runner.transport import Events, put_note
from dask_runner.verify import changed_inputs, lost_batches, refused_inputs, verify
from dask_runner.versions import code_version, versions
from dask_runner.workloads import spec_of
from dask_runner.workloads.interface import Plan, Workload

_log = logging.getLogger(__name__)

_SHOWN = 10


class RunRequest(Struct, frozen=True, kw_only=True):
    """A run that is wanted: `first` limits how many batches are dispatched now; with
    `skip_bad_inputs` a plan with problems is run without them. `ship` are files and folders that
    the batches get, modules among them before any other. `notes` are recorded before
    anything is done.
    """

    workload: Any
    settings: Settings
    outputs: Path | None = None
    label: str = ""
    first: int | None = None
    argv: tuple[str, ...] = ()
    import_path: tuple[str, ...] = ()
    ship: tuple[Path, ...] = ()
    skip_bad_inputs: bool = False
    target: Target = Target()
    notes: tuple[Note, ...] = ()


class Selection(Struct, frozen=True, kw_only=True):
    """Which of the batches that are not done a rerun takes: all, these, or those that failed with
    this kind or fingerprint; at most `first` of them.
    """

    batches: tuple[int, ...] = ()
    cause: str = ""
    first: int | None = None


class RerunRequest(Struct, frozen=True, kw_only=True):
    """`overrides` replaces values of the run section of the settings (slots, attempts ...).
    `resume` says that this is the background driver of a run that was only planned. A `label`
    replaces the one that the run has.
    """

    selection: Selection = field(default_factory=Selection)
    accept_changed_inputs: bool = False
    break_lock: bool = False
    overrides: dict[str, Any] = field(default_factory=dict)
    argv: tuple[str, ...] = ()
    resume: bool = False
    label: str = ""
    target: Target = Target()


def create(request: RunRequest) -> tuple[RunFolder, Manifest]:
    """Plan the run, claim its folder and write the manifest, whose lock we then hold.

    Raises BadInputError if inputs cannot be used, UsageError if there is nothing to do.
    """
    outputs, shipment = _outputs(request), None
    if request.ship:
        folder = run_folder.claim(Path(request.settings.storage.runs), outputs)
        spec = spec_of(request.workload)
        with shipping.planned_from_copy(request.ship, folder, spec, request.import_path) as copy:
            plan, shipment = _plan(request, copy.workload, outputs), copy.shipment
    else:
        plan = _plan(request, request.workload, outputs)
        folder = run_folder.claim(Path(request.settings.storage.runs), outputs)
    header = _header(request, folder, shipment)
    manifest = Manifest.create(folder, header, plan.inputs, plan.batches)
    for note in request.notes:
        manifest.record(note, durable=True)
    if plan.problems:
        manifest.record(
            Note(
                kind="skipped-inputs",
                text="these inputs were left out on request",
                data={"problems": list(plan.problems)},
                who=whoami(),
            )
        )
    return folder, manifest


def _plan(request: RunRequest, workload: Workload, outputs: Path | None) -> Plan:
    plan = workload.plan()
    check_plan(plan, skip_bad_inputs=request.skip_bad_inputs)
    if outputs is not None and (taken := existing_outputs(plan, outputs)):
        raise UsageError(
            "\n  ".join(taken[:_SHOWN]), hint="choose another folder, or remove what is there"
        )
    return plan


def run(
    folder: RunFolder,
    manifest: Manifest,
    *,
    first: int | None = None,
    target: Target = Target(),  # noqa: B008  (frozen)
    control: Control,
    progress: Progress,
) -> Summary:
    """Do a new run as far as it goes: a failed batch is in the summary, not an exception."""
    selection = Selection(first=first)
    drive(folder, manifest, selection=selection, target=target, control=control, progress=progress)
    return summarize(manifest.state)


def rerun(path: Path, request: RerunRequest, *, control: Control, progress: Progress) -> Summary:
    """Do what is not done of the run at `path`, after completing what a crash interrupted."""
    with Manifest.open(path, break_lock=request.break_lock) as manifest:
        folder = manifest.folder
        manifest.record(
            Note(
                kind=NoteKind.RERUN,
                text="background driver began" if request.resume else "rerun began",
                data={
                    "argv": list(request.argv),
                    "versions": versions(),
                    "label": request.label,
                },
                who=whoami(),
            )
        )
        recover(manifest, folder, accept_changed_inputs=request.accept_changed_inputs)
        drive(
            folder,
            manifest,
            selection=request.selection,
            target=request.target,
            overrides=request.overrides,
            control=control,
            progress=progress,
        )
        return summarize(manifest.state)


def extend(path: Path, make: Callable[[RunState], Extension]) -> int:
    """Add work to the run at `path`, as `make` says after looking at what there is; `rerun` does
    it. Returns the number of new batches. Raises UsageError if the run has got others meanwhile.
    """
    # Without the lock: `make` may try the model in a child, which would hold the lock beyond us.
    state = read_state(path)
    planned = len(state.batches)
    extension = make(state)
    if not extension.batches:
        return 0
    with Manifest.open(path) as manifest:
        if len(manifest.state.batches) != planned:
            raise UsageError(
                f"run {manifest.folder.timestamp} was extended by another command meanwhile",
                hint="look at it, then do it again",
            )
        taken = existing_outputs(Plan(batches=list(extension.batches)), manifest.folder.outputs)
        if taken:
            raise UsageError("\n  ".join(taken[:_SHOWN]), hint="move away what is there")
        manifest.record(extension, durable=True)
        return len(extension.batches)


def drive(
    folder: RunFolder,
    manifest: Manifest,
    *,
    selection: Selection,
    target: Target,
    control: Control,
    progress: Progress,
    overrides: dict[str, Any] | None = None,
) -> None:
    """From "cluster open" on: dispatch what is selected and not done."""
    state, header = manifest.state, manifest.state.header
    settings = effective_settings(header, overrides or {})
    wanted = select(state, selection)
    if not wanted:
        return
    workload = shipping.load_workload(header, folder)
    preload = shipping.preload(workload, header.shipped)
    policy = Policy(
        attempts=settings.run.attempts,
        timeout_factor=settings.run.timeout_factor,
        largest_group=settings.run.group,
        limits=limits(settings),
        rules=rules(settings, target),
        versions=versions(),
        preload=preload,
        target=settings.trials.batch_seconds,
    )
    with open_cluster(settings, preload, header, target) as cluster, progress:
        hosts = wanted_hosts(cluster, target.hosts)
        progress.say(describe_cluster(cluster, hosts, target))
        bits = check_numerics(state, cluster, hosts, accept=target.accept_numerics)
        manifest.record(cluster_note(cluster, hosts, bits))
        events: Events = SimpleQueue()
        staging = Staging.of(
            manifest,
            cluster,
            mode=target.staging,
            cache=target.cache,
            note=partial(put_note, events),
            say=progress.say,
        )
        Dispatcher(
            manifest=manifest,
            publisher=Publisher(folder, manifest),
            cluster=cluster,
            staging=staging,
            events=events,
            spec=header.workload,
            workload=workload,
            bits=bits,
            policy=policy,
            control=control,
            progress=progress,
        ).run(wanted)
        manifest.record(end_note(control, staging.decisions()), durable=True)


def dry_run(request: RunRequest) -> DryRun:
    """The plan of a new run and all checks; changes nothing."""
    outputs = _outputs(request)
    with shipping.tried(request.ship, request.workload, request.import_path) as tried:
        return check(
            tried.workload,
            tried.workload.plan(),
            request.settings,
            outputs=outputs or Path(request.settings.storage.runs) / "TIMESTAMP" / "outputs",
            target=request.target,
            import_path=request.import_path,
            shipped=tried.folder,
            preload=tried.preload,
        )


def dry_rerun(path: Path, request: RerunRequest) -> DryRun:
    """What a rerun would do, without taking the lock."""
    state = read_state(path)
    folder = state.folder
    changed = changed_inputs(state.inputs, thorough=False)
    lost = lost_batches(verify(state, folder, thorough=False).lost)
    plan = Plan(
        batches=[state.batches[index] for index in select(state, request.selection, lost=lost)],
        inputs=tuple(state.inputs),
        problems=refused_inputs(state.inputs) if request.accept_changed_inputs else changed,
    )
    settings = effective_settings(state.header, request.overrides)
    workload = shipping.load_workload(state.header, folder)
    return check(
        workload,
        plan,
        settings,
        outputs=folder.outputs,
        rerun=True,
        target=request.target,
        import_path=state.header.import_path,
        shipped=shipping.shipped_folder(state.header, folder),
        preload=shipping.preload(workload, state.header.shipped),
    )


def check_plan(plan: Plan, *, skip_bad_inputs: bool = False) -> None:
    """Refuse a plan with bad inputs or without batches."""
    if plan.problems and not skip_bad_inputs:
        raise BadInputError(
            f"{len(plan.problems)} input(s) cannot be used:\n  " + "\n  ".join(plan.problems),
            hint="repair or remove them, or leave them out with --skip-bad-inputs",
        )
    if not plan.batches:
        raise UsageError("there is nothing to do: the plan has no batches")


def select(state: RunState, selection: Selection, *, lost: Sequence[int] = ()) -> list[int]:
    """The batches to dispatch, in order; `lost` are done ones that have to be done again. Raises
    UsageError for an unknown batch or cause.
    """
    for index in selection.batches:
        if not 0 <= index < len(state.batches):
            raise UsageError(f"no batch {index}: the run has 0 to {len(state.batches) - 1}")
        if state.verdict(index) is Verdict.DONE and index not in lost:
            _log.warning("batch %d is done already", index)
    wanted = [
        index
        for index in sorted({*state.indices(Verdict.PENDING, Verdict.FAILED), *lost})
        if (not selection.batches or index in selection.batches)
        and (not selection.cause or _has_cause(state, index, selection.cause))
    ]
    if selection.cause and not wanted:
        raise UsageError(
            f"no batch failed with {selection.cause!r}", hint="`dask-runner errors` lists causes"
        )
    if selection.first is not None:
        # In parts, what was never tried comes first: else failing batches would keep it waiting.
        wanted.sort(key=lambda index: state.verdict(index) is Verdict.FAILED)
    return wanted[: selection.first]


def _has_cause(state: RunState, index: int, cause: str) -> bool:
    failure = state.failure(index)
    return failure is not None and cause in {failure.kind, failure.fingerprint}


def _outputs(request: RunRequest) -> Path | None:
    if request.outputs is not None:
        return request.outputs
    configured = request.settings.storage.outputs
    return Path(configured) if configured else None


def _header(request: RunRequest, folder: RunFolder, shipment: Shipment | None) -> Header:
    return Header(
        timestamp=folder.timestamp,
        workload=spec_of(request.workload),
        seed=request.settings.run.seed,
        argv=tuple(path_to_text(word) for word in request.argv),
        label=request.label,
        user=user_name(),
        host=socket.gethostname(),
        hosts=host_lines(request.settings, request.target),
        code_version=code_version(),
        versions=versions(),
        settings=msgspec.to_builtins(request.settings),
        limits=msgspec.to_builtins(limits(request.settings)),
        first=request.first,
        import_path=request.import_path,
        shipped=shipment,
    )
