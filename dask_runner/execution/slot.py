"""The slot process: takes one group after the other from its worker, and gives outcomes back.

Forked from the zygote, so everything that a batch needs is imported already. Its end of file means
that the worker is gone: it kills what runs and ends. It never runs or reads foreign code or data
itself: that happens in processes that it forks and supervises.
"""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import stat
import struct
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any, Final

from msgspec import Struct, structs

from dask_runner.batch import FailureKind
from dask_runner.execution import payload, process_tree, validation
from dask_runner.execution.failures import Cause, cause_of
from dask_runner.execution.lease import LeaseReader
from dask_runner.execution.ledger import Ledger
from dask_runner.execution.payload import Seat
from dask_runner.execution.process_tree import Usage
from dask_runner.execution.supervisor import Control, Ending, Order, Supervisor, WorkerGoneError
from dask_runner.execution.task import Group, Limits, decode_group, encode_outcomes
from dask_runner.execution.wire import Channel
from dask_runner.files import text_to_path
from dask_runner.identity import user_name

GROUP: Final = 1
CANCEL: Final = 2
OUTCOMES: Final = 3
END: Final = 4
# The group has arrived. A slot that dies before it says so was idle, and no batch is to blame.
BEGUN: Final = 6
# Stop the processes of the running group; let them go on.
PAUSE: Final = 7
RESUME: Final = 8
# How many attempts of the group have an outcome, and which one is running.
PROGRESS: Final = struct.Struct(">II")
_STREAM_EVERY: Final = 0.2
_ORDERS: Final = {CANCEL: Order.CANCEL, PAUSE: Order.PAUSE, RESUME: Order.RESUME}


class SlotSettings(Struct, frozen=True, kw_only=True):
    """`scratch` is the slot's own folder, `room` the place of the marker (see marker.py), `nice`
    the least niceness of its batches, which end with the `lease`.
    """

    host: str
    scratch: Path
    lease: LeaseReader
    room: int = 0
    nice: int = 0


class LeaseOverError(Exception):
    """The driver counts what runs here as dead."""


def serve(connection: socket.socket, settings: SlotSettings) -> None:
    """The life of a slot process."""
    os.setsid()
    process_tree.become_subreaper()
    read, write = os.pipe()
    os.set_blocking(read, False)
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    # Only a signal with a handler writes to the wakeup descriptor.
    signal.signal(signal.SIGCHLD, lambda *_: None)
    slot = _Slot(Channel(connection), settings, read)
    try:
        slot.serve()
    except (WorkerGoneError, LeaseOverError, OSError):
        pass  # nobody is there any more who wants to hear what became of the group
    finally:
        process_tree.kill_until_empty()
        remove_slot_folder(settings.scratch)


class _Slot:
    def __init__(self, channel: Channel, settings: SlotSettings, wakeup: int) -> None:
        self._channel = channel
        self._settings = settings
        self._wakeup = wakeup
        self._priority: tuple[int, bool] | None = None
        self._user = user_name()
        self._scratch: tuple[str, Path | None] = ("", None)

    def serve(self) -> None:
        while (received := self._channel.receive()) is not None:
            tag, body = received
            if tag == GROUP:  # anything else now has come too late
                self._check_lease()
                self._channel.send(BEGUN)
                self._run(self._as_nice_as_the_host_wants(decode_group(body)))

    def _run(self, group: Group) -> None:
        nonce = b"\0" + secrets.token_bytes(15)
        ledger = Ledger(group, host=self._settings.host, user=self._user, nonce=nonce)
        immortal: list[int] = []
        try:
            scratch = self._make_scratch(group)
        except OSError as error:
            ledger.end(_cause_of_scratch(error), Usage())
        else:
            try:
                self._set_priority(group.limits)
                immortal = self._work(group, ledger, scratch, nonce)
            finally:
                self._clean(scratch)
        progress = PROGRESS.pack(ledger.settled, ledger.current)
        self._channel.send(END, progress + encode_outcomes(ledger.rest()))
        if immortal:
            # They come to the zygote, and the worker makes a new slot.
            os._exit(1)

    def _work(self, group: Group, ledger: Ledger, scratch: Path, nonce: bytes) -> list[int]:
        """Run, then validate. Returns the pids of processes that cannot be killed."""

        def work(log: int, reports: int) -> None:
            seat = Seat(
                scratch=scratch, nonce=nonce, log=log, reports=reports, room=self._settings.room
            )
            payload.run_batches(group, seat)

        control = self._control(_Stream(self._channel, ledger))
        supervisor = Supervisor(
            control=control,
            limits=group.limits,
            on_log=ledger.logs.feed,
            on_report=ledger.accept,
        )
        ending = supervisor.run(work)
        ledger.end(ending.cause, ending.usage)
        if ending.immortal:
            ledger.fail_all(_cause_of_immortal(ending))
        while not ending.immortal and ledger.to_validate():
            ending = self._validate(group, ledger, control)
        return ending.immortal

    def _validate(self, group: Group, ledger: Ledger, control: Control) -> Ending:
        """Validate in a process of its own. If that dies, the batch it was at has failed, and the
        next call goes on behind it.
        """
        todo = ledger.to_validate()
        tail = bytearray()

        def keep_tail(data: bytes) -> None:
            tail.extend(data)
            del tail[:-1000]

        supervisor = Supervisor(
            control=control,
            limits=structs.replace(group.limits, timeout=group.limits.validation_timeout),
            on_log=keep_tail,
            on_report=ledger.validated,
        )
        ending = supervisor.run(lambda _, reports: validation.validate_batches(todo, reports))
        left = ledger.to_validate()
        if left and ending.cause is not None:
            for position, _, _ in left if ending.cause.kind is FailureKind.CANCELLED else left[:1]:
                ledger.fail_validation(position, ending.cause, bytes(tail))
        elif left:
            ledger.fail_validation(
                left[0][0], Cause(kind=FailureKind.INTERNAL, message="no report")
            )
        return ending

    def _control(self, stream: "_Stream") -> Control:
        def tick() -> None:
            self._check_lease()
            stream.tick()

        return Control(
            control=self._channel.fileno(),
            wakeup=self._wakeup,
            on_control=self._told,
            on_tick=tick,
        )

    def _told(self) -> Order | None:
        received = self._channel.receive()
        if received is None:
            raise WorkerGoneError
        return _ORDERS.get(received[0])

    def _check_lease(self) -> None:
        if self._settings.lease.over():
            raise LeaseOverError

    def _as_nice_as_the_host_wants(self, group: Group) -> Group:
        if group.limits.nice >= self._settings.nice:
            return group
        limits = structs.replace(group.limits, nice=self._settings.nice)
        return structs.replace(group, limits=limits)

    def _make_scratch(self, group: Group) -> Path:
        """An empty private folder, in the slot's own folder or linked from there: if the slot dies,
        that is where the zygote or the worker finds it.
        """
        base, folder = self._scratch
        if folder is not None and base == group.limits.scratch and folder.is_dir():
            return folder
        folder = self._new_scratch(group)
        self._scratch = (group.limits.scratch, folder)
        return folder

    def _clean(self, scratch: Path) -> None:
        """An empty folder is kept for the next batch: making one costs as much as a small batch."""
        try:
            as_new = stat.S_IMODE(scratch.stat().st_mode) == stat.S_IRWXU
            reusable = as_new and not any(scratch.iterdir())
        except OSError:
            reusable = False
        if not reusable:
            remove_tree(scratch)
            (self._settings.scratch / scratch.name).unlink(missing_ok=True)
            self._scratch = ("", None)

    def _new_scratch(self, group: Group) -> Path:
        own = self._settings.scratch
        own.mkdir(mode=0o700, exist_ok=True)
        if not group.limits.scratch:
            return Path(tempfile.mkdtemp(prefix="batch-", dir=own))
        base = text_to_path(group.limits.scratch)
        folder = Path(tempfile.mkdtemp(prefix="dask-runner-", dir=base))
        (own / folder.name).symlink_to(folder)
        return folder

    def _set_priority(self, limits: Limits) -> None:
        """What is inherited and can be taken back, unlike the niceness of a process.

        Where the kernel groups sessions for fairness (CONFIG_SCHED_AUTOGROUP, on most desktops), a
        nice process is nice only to its own session: to the others, the session must be.
        """
        if (limits.nice, limits.idle_io) == self._priority:
            return
        import psutil  # noqa: PLC0415  # only needed once

        kind = psutil.IOPRIO_CLASS_IDLE if limits.idle_io else psutil.IOPRIO_CLASS_NONE
        psutil.Process().ionice(kind)
        with contextlib.suppress(OSError):  # no such kernel, or not allowed to be less nice again
            Path("/proc/self/autogroup").write_text(str(limits.nice))
        self._priority = (limits.nice, limits.idle_io)


class _Stream:
    """Sends outcomes while the group still runs."""

    def __init__(self, channel: Channel, ledger: Ledger) -> None:
        self._channel = channel
        self._ledger = ledger
        self._next = time.monotonic() + _STREAM_EVERY
        self._told = PROGRESS.pack(0, 0)

    def tick(self) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _STREAM_EVERY
        outcomes = self._ledger.early()
        progress = PROGRESS.pack(self._ledger.settled, self._ledger.current)
        if progress != self._told:
            self._channel.send(OUTCOMES, progress + encode_outcomes(outcomes))
            self._told = progress


def _cause_of_scratch(error: OSError) -> Cause:
    cause = cause_of(error)
    return structs.replace(cause, message=f"no scratch folder on this host: {cause.message}")


def _cause_of_immortal(ending: Ending) -> Cause:
    pids = ", ".join(map(str, ending.immortal))
    return Cause(
        kind=FailureKind.LOST,
        message=f"processes {pids} of the batch cannot be killed (waiting for a dead file server?)",
        cause="processes cannot be killed",
    )


def remove_slot_folder(folder: Path) -> None:
    """Remove a slot's folder, and the scratch folders elsewhere that it links to."""
    if folder.is_dir():
        for entry in folder.iterdir():
            if entry.is_symlink():
                remove_tree(entry.readlink())
    remove_tree(folder)


def remove_tree(folder: Path) -> None:
    """Remove a scratch folder whatever a batch has left in it; say so if that is impossible."""

    def open_up(function: Any, path: str, _: object) -> None:
        # A folder without permissions: only its owner can help, and that is us.
        os.chmod(Path(path).parent, stat.S_IRWXU)  # noqa: PTH101  # beside os functions
        if Path(path).is_dir() and not Path(path).is_symlink():
            os.chmod(path, stat.S_IRWXU)  # noqa: PTH101
            shutil.rmtree(path)
        elif function is not os.rmdir:
            function(path)

    try:
        shutil.rmtree(folder, onerror=open_up)
    except FileNotFoundError:
        return
    except (OSError, RecursionError):
        traceback.print_exc(file=sys.stderr)
