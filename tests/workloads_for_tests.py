"""Workloads that do what each batch's parameters say, mostly something bad.

Batch processes import this file through `import_path`, so nothing here may need pytest.
"""

import ctypes
import errno
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from msgspec import Struct

from dask_runner.batch import Batch, BatchFailedError, FailureKind
from dask_runner.errors import BadInputError
from dask_runner.workloads.interface import MergedFile, MergeRequest, Plan, Results

FOLDER = str(Path(__file__).parent)
NOOP = "workloads_for_tests:Noop"
ACT = "workloads_for_tests:Act"
ACT_IN_GROUP = "workloads_for_tests:ActInGroup"
RETURNS = "workloads_for_tests:Returns"

Counters = dict[str, float]


class Noop(Struct, frozen=True, kw_only=True):
    """Does nothing, `count` times."""

    preload: ClassVar[tuple[str, ...]] = ("workloads_for_tests",)
    uses_folder: ClassVar[bool] = False

    count: int = 1

    def plan(self) -> Plan:
        return Plan(batches=[Batch(index=index, workload=NOOP) for index in range(self.count)])

    def run(self, batch: Batch, folder: Path) -> Counters:
        return {}

    def merge(self, request: MergeRequest) -> list[MergedFile]:
        return []


class Act(Struct, frozen=True, kw_only=True):
    """Each batch does ACTS[parameters["act"]](folder, **other parameters), and first appends a
    line to the file `trace`, if one is given: who really ran is counted there.
    """

    preload: ClassVar[tuple[str, ...]] = ("workloads_for_tests",)
    uses_folder: ClassVar[bool] = True

    batches: tuple[Batch, ...] = ()
    trace: str = ""

    def plan(self) -> Plan:
        return Plan(batches=list(self.batches))

    def run(self, batch: Batch, folder: Path) -> Counters:
        if self.trace:
            with Path(self.trace).open("a") as file:
                file.write(f"{batch.index} {os.environ['DASK_RUNNER_ATTEMPT']} {os.getpid()}\n")
        parameters = dict(batch.parameters)
        return ACTS[parameters.pop("act")](folder, **parameters) or {}

    def merge(self, request: MergeRequest) -> list[MergedFile]:
        return []


class Returns(Struct, frozen=True, kw_only=True):
    """Each batch returns the files that its parameter `files` holds, as text by name."""

    preload: ClassVar[tuple[str, ...]] = ("workloads_for_tests",)
    uses_folder: ClassVar[bool] = False

    def plan(self) -> Plan:
        return Plan(batches=[])

    def run(self, batch: Batch, folder: Path) -> Results:
        files = {name: text.encode() for name, text in batch.parameters["files"].items()}
        if size := batch.parameters.get("size", 0):
            files = {"big.bin": bytes(size)}
        return Results(counters={"files": len(files)}, files=files)

    def merge(self, request: MergeRequest) -> list[MergedFile]:
        return []


class ActInGroup(Act, frozen=True, kw_only=True):
    """The same, in batches without folders of their own."""

    uses_folder: ClassVar[bool] = False


def say(folder: Path, text: str = "hello\n", counters: Counters | None = None) -> Counters | None:
    sys.stdout.write(text)
    return counters


def say_three_ways(folder: Path, text: str) -> None:
    """By Python, by C code that does not flush, and by another program."""
    sys.stdout.write(f"python {text}\n")
    sys.stdout.flush()
    ctypes.CDLL(None).printf(b"c %s\n", text.encode())
    ctypes.CDLL(None).fflush(None)
    subprocess.run(["echo", "program", text], check=True)
    ctypes.CDLL(None).printf(b"c late %s\n", text.encode())


def raises(folder: Path, kind: str = "ValueError", message: str = "event 12 is odd") -> None:
    raise {
        "ValueError": ValueError(message),
        "MemoryError": MemoryError(message),
        "BadInputError": BadInputError(message, hint="look at it"),
        "KeyboardInterrupt": KeyboardInterrupt(),
        "RecursionError": RecursionError(message),
        "EDQUOT": OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), "/data/file"),
    }[kind]


class RudeError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no message")


def raises_rudely(folder: Path) -> None:
    raise RudeError


def fails(folder: Path, kind: str, message: str, **more: Any) -> None:
    raise BatchFailedError(FailureKind(kind), message, **more)


def exits(folder: Path, code: Any = 3, rudely: bool = False) -> None:
    if rudely:
        os._exit(code)
    sys.exit(code)


def runs_false(folder: Path) -> None:
    subprocess.run(["false"], check=True)


def dies(folder: Path, number: int = signal.SIGKILL) -> None:
    print("about to die", flush=True)
    os.kill(os.getpid(), number)
    time.sleep(60)


def segfaults(folder: Path) -> None:
    ctypes.string_at(0)


def spins(folder: Path, seconds: float = 60.0, ignore_term: bool = False) -> None:
    if ignore_term:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("spinning", flush=True)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(1000))


def sleeps(folder: Path, seconds: float = 60.0) -> None:
    time.sleep(seconds)


def waits_for(folder: Path, path: str) -> None:
    """Until a file exists that the test makes."""
    Path(f"{path}.waiting").touch()
    while not Path(path).exists():
        time.sleep(0.002)


def eats(folder: Path, megabytes: int, processes: int = 1, seconds: float = 60.0) -> None:
    """Use memory, split over forked processes."""
    for _ in range(processes - 1):
        if os.fork() == 0:
            break
    eaten = [bytearray(os.urandom(1024) * 1024) for _ in range(megabytes // processes)]
    time.sleep(seconds)
    del eaten


def eats_fast(folder: Path, gigabytes: int) -> None:
    """More than the sampling could see: stopped by the kernel's limit for the process."""
    bytearray(gigabytes << 30)


def shares(folder: Path, megabytes: int, processes: int, seconds: float) -> None:
    """Much memory, shared by processes that only read it."""
    shared = b"x" * (megabytes << 20)
    for _ in range(processes - 1):
        if os.fork() == 0:
            time.sleep(seconds)
            os._exit(0)
    time.sleep(seconds)
    assert shared


def escapes(folder: Path, pids: str, then: str = "returns") -> Counters | None:
    """Four descendants that leave: own sessions, parents gone, signals ignored; some by exec."""
    for kind in range(4):
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                _live_on(Path(pids), exec_too=kind % 2 == 1)
            os._exit(0)
    while not Path(pids).exists() or len(Path(pids).read_text().splitlines()) < 4:
        time.sleep(0.002)
    return ACTS[then](folder)


def _live_on(pids: Path, *, exec_too: bool) -> None:
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    with pids.open("a") as file:
        file.write(f"{os.getpid()}\n")
    if exec_too:
        os.execvp("sleep", ["sleep", "300"])
    time.sleep(300)
    os._exit(0)


def forks_madly(folder: Path, processes: int) -> None:
    """Each process makes two more, until there were so many."""
    depth = 0
    while 2**depth < processes:
        os.fork()
        depth += 1
    time.sleep(60)


def floods(folder: Path, megabytes: int, line: str = "the same warning again") -> None:
    block = (line + "\n").encode() * (65536 // (len(line) + 1))
    os.write(1, b"first line\n")
    for _ in range(megabytes * 16):
        os.write(1, block)
    os.write(2, b"last line\n")


def says_bytes(folder: Path, hexadecimal: str) -> None:
    os.write(1, bytes.fromhex(hexadecimal))


def fails_saying_bytes(folder: Path, hexadecimal: str) -> None:
    os.write(2, bytes.fromhex(hexadecimal))
    raise ValueError("name \udcff is not UTF-8")


def writes(folder: Path, name: str = "out.txt", text: str = "content\n", mode: int = 0) -> None:
    Path(name).write_text(text)
    if mode:
        Path(name).chmod(mode)


def writes_hostile(folder: Path, name: str) -> None:
    Path(os.fsdecode(bytes.fromhex(name))).write_text("content\n")
    os.write(1, b"content\n")


def links(folder: Path, name: str, to: str, hard: bool = False) -> None:
    (os.link if hard else os.symlink)(to, name)


def makes_fifo(folder: Path, name: str) -> None:
    os.mkfifo(name)


def writes_bytes(folder: Path, hexadecimal: str, name: str) -> None:
    Path(name).write_bytes(bytes.fromhex(hexadecimal))


def copies(folder: Path, path: str, name: str, keep: int = -1) -> None:
    """Copy a file that the test has made, or its first bytes."""
    data = Path(path).read_bytes()
    Path(name).write_bytes(data if keep < 0 else data[:keep])


def fills(folder: Path, where: str = "") -> None:
    """Write until the disk is full."""
    with Path(where or ".", "large").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 16))


def fills_scratch(folder: Path) -> None:
    fills(folder, os.environ["DASK_RUNNER_SCRATCH"])


def fills_by_program(folder: Path) -> None:
    subprocess.run("cat /dev/zero > large", shell=True, check=True)


def looks_around(folder: Path, into: str) -> None:
    """Write down what the process sees of itself."""
    import json

    import psutil

    me = psutil.Process()
    seen = {
        "descriptors": {
            number: os.readlink(f"/proc/self/fd/{number}")
            for number in os.listdir("/proc/self/fd")
            if os.path.exists(f"/proc/self/fd/{number}")
        },
        "in_program": subprocess.run(
            ["ls", "/proc/self/fd"], capture_output=True, text=True, check=True
        ).stdout.split(),
        "environment": dict(os.environ),
        "nice": os.nice(0),
        "io_class": int(me.ionice().ioclass),
        "session": os.getsid(0),
        "group": os.getpgid(0) == os.getpid(),
        "autogroup": Path("/proc/self/autogroup").read_text().split()[-1],
        "cwd": os.getcwd(),
        "scratch_mode": os.stat(os.environ["DASK_RUNNER_SCRATCH"]).st_mode & 0o7777,
        "core_limit": resource.getrlimit(resource.RLIMIT_CORE)[0],
        "stdin": sys.stdin.read(),
        "handlers": [
            int(signal.getsignal(number) == signal.SIG_DFL)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
        ],
    }
    Path(into).write_text(json.dumps(seen))


def counts_wrongly(folder: Path) -> Any:
    return {"events": "many"}


def litters_scratch(folder: Path) -> None:
    """Leave what is hard to remove."""
    scratch = Path(os.environ["TMPDIR"])
    deep = scratch / "a" / "b"
    deep.mkdir(parents=True)
    (deep / "file").write_text("x")
    (scratch / "link").symlink_to("/etc")
    deep.chmod(0)


def spoils_the_pipes(folder: Path) -> None:
    """Write into every descriptor there is."""
    for number in sorted(map(int, os.listdir("/proc/self/fd"))):
        if number > 2:
            try:
                os.write(number, b"\xff" * 64)
            except OSError:
                continue


def closes_everything(folder: Path) -> None:
    sys.stdout.close()
    os.close(1)
    os.close(2)


def draws(folder: Path, into: str) -> None:
    import numpy as np

    with Path(into).open("a") as file:
        file.write(f"{np.random.random()}\n")


def burns(folder: Path, cpu: float, in_program: float = 0.0) -> None:
    """Use CPU time here, and in a program."""
    end = time.process_time() + cpu
    while time.process_time() < end:
        sum(range(1000))
    if in_program:
        code = f"import time\nwhile time.process_time() < {in_program}: pass"
        subprocess.run([sys.executable, "-c", code], check=True)


ACTS: dict[str, Callable[..., Counters | None]] = {
    function.__name__: function
    for function in (
        say, say_three_ways, raises, raises_rudely, fails, exits, runs_false, dies, segfaults,
        spins, sleeps, waits_for, eats, eats_fast, shares, escapes, forks_madly, floods, says_bytes,
        fails_saying_bytes, writes, writes_bytes, links, makes_fifo, copies, fills, fills_scratch,
        fills_by_program, looks_around, litters_scratch, spoils_the_pipes, closes_everything, draws,
        burns, counts_wrongly, writes_hostile,
    )
}  # fmt: skip
ACTS["returns"] = lambda folder: None
