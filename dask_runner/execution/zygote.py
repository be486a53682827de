"""The warm process: imports the heavy modules once, and forks the slot processes.

Started by the worker as a program of its own, with the pinned environment and the control socket
as its standard input. Has one thread, or else it must not fork. Adopts what a dead slot leaves
behind, and kills it. Refuses to run batches.
"""

import contextlib
import gc
import importlib
import os
import select
import signal
import socket
import sys
import traceback
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from dask_runner.execution import marker, process_tree, slot
from dask_runner.execution.lease import LeaseReader
from dask_runner.execution.slot import SlotSettings
from dask_runner.files import text_to_path

MESSAGE_MAX: Final = 1 << 16
_PATIENCE: Final = 10.0


class Setup(Struct, frozen=True, kw_only=True):
    """The first message to a zygote. `scratch` is the private folder of all its slots, `lease` the
    path of the lease they read ("": none), `nice` their batches' least niceness. Paths are path
    text.
    """

    host: str
    scratch: str
    import_path: tuple[str, ...] = ()
    preload: tuple[str, ...] = ()
    umask: int = 0o022
    lease: str = ""
    nice: int = 0


class Ready(Struct, frozen=True, kw_only=True, tag="ready"):
    """The zygote's answer. `failed` are modules that could not be imported, with the reason;
    with more than one of `threads` the zygote is of no use.
    """

    threads: int
    failed: dict[str, str]


class SlotStarted(Struct, frozen=True, kw_only=True, tag="started"):
    number: int
    pid: int


class SlotEnded(Struct, frozen=True, kw_only=True, tag="ended"):
    """Sent when nothing that the slot has started is alive. `immortal` are exceptions to that."""

    number: int
    immortal: list[int]


Message = Ready | SlotStarted | SlotEnded
_encoder = msgspec.msgpack.Encoder()


def slot_folder(scratch: Path, number: int) -> Path:
    """The scratch folder of a slot: known to all, so that anyone left alive can remove it."""
    return scratch / f"slot-{number}"


def main() -> None:
    control = socket.socket(fileno=os.dup(0))
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.close(null)
    data = control.recv(MESSAGE_MAX)
    if not data:
        return
    setup = msgspec.msgpack.decode(data, type=Setup)
    os.umask(setup.umask)
    paths = [str(text_to_path(text)) for text in setup.import_path]
    sys.path.extend(path for path in paths if path not in sys.path)
    failed = _preload(setup.preload)
    process_tree.become_subreaper()
    threads = len(os.listdir("/proc/self/task"))  # noqa: PTH208  # names, fast
    gc.collect()
    # Else the collector of each batch process writes to, and so copies, every page of the heap.
    gc.freeze()
    control.send(_encoder.encode(Ready(threads=threads, failed=failed)))
    if threads == 1:
        _Zygote(control, setup).serve()


def _preload(modules: tuple[str, ...]) -> dict[str, str]:
    failed = {}
    for name in modules:
        try:
            importlib.import_module(name)
        except BaseException as error:  # noqa: BLE001  # foreign code; the batch will say it again
            failed[name] = f"{type(error).__name__}: {error}"
    return failed


class _Zygote:
    def __init__(self, control: socket.socket, setup: Setup) -> None:
        self._control = control
        self._setup = setup
        self._scratch = text_to_path(setup.scratch)
        self._room = marker.find_room()
        self._lease = LeaseReader(setup.lease)
        self._slots: dict[int, int] = {}  # pid -> number

    def serve(self) -> None:
        wakeup, write = os.pipe()
        os.set_blocking(wakeup, False)
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(wakeup, select.POLLIN)
        try:
            while True:
                for descriptor, _ in poll.poll():
                    if descriptor == wakeup:
                        os.read(wakeup, 4096)
                        self._bury()
                    elif not self._obey():
                        return
        except OSError:
            return  # the worker is gone in the middle of an answer
        finally:
            self._end()

    def _obey(self) -> bool:
        """Make a slot from the socket in a message; False at the end of the stream."""
        data, sockets, _, _ = socket.recv_fds(self._control, MESSAGE_MAX, 1)
        if not data or not sockets:
            return False
        number = int(data)
        connection = socket.socket(fileno=sockets[0])
        pid = os.fork()
        if pid == 0:
            self._become_slot(connection, number)
        connection.close()
        self._slots[pid] = number
        self._control.send(_encoder.encode(SlotStarted(number=number, pid=pid)))
        return True

    def _become_slot(self, connection: socket.socket, number: int) -> None:
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            self._control.close()
            settings = SlotSettings(
                host=self._setup.host,
                scratch=slot_folder(self._scratch, number),
                room=self._room,
                lease=self._lease,
                nice=self._setup.nice,
            )
            slot.serve(connection, settings)
            code = 0
        except BaseException:  # noqa: BLE001  # nothing may pass the fork
            traceback.print_exc()
        finally:
            os._exit(code)

    def _bury(self) -> None:
        """Reap slots that have ended, and kill what they have left behind."""
        ended = [pid for pid in self._slots if process_tree.reap(pid) is not None]
        numbers = [self._slots.pop(pid) for pid in ended]
        _, immortal = process_tree.kill_until_empty(keep=self._slots, patience=_PATIENCE)
        for number in numbers:
            slot.remove_slot_folder(slot_folder(self._scratch, number))
            self._control.send(_encoder.encode(SlotEnded(number=number, immortal=immortal)))

    def _end(self) -> None:
        """The worker is gone: the slots have seen it too, and clean up; then whoever is left."""
        process_tree.wait_for(self._slots, patience=_PATIENCE)
        process_tree.kill_until_empty(patience=_PATIENCE)
        # Somebody who cleans up temporary folders may have been here.
        with contextlib.suppress(FileNotFoundError):
            for folder in self._scratch.iterdir():
                slot.remove_slot_folder(folder)
            slot.remove_tree(self._scratch)
        # The pool's own folder: the pool removes it, if it still can.
        with contextlib.suppress(OSError):
            self._scratch.parent.rmdir()


if __name__ == "__main__":
    main()
