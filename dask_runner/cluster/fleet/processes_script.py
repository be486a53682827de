"""The processes of our clusters on a host, and what they leave: fed to the host's Python.

Reads its request from stdin, answers with the nonce on stdout and stderr, then with a JSON object.
Ours is what was started with the marker DASK_RUNNER_CLUSTER in its environment, and all below it.
Touches nobody else's: no other user's, and neither itself nor those it comes from.

Standard library only, and nothing newer than Python 3.7: it needs no dask-runner on the host.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import stat
import sys
import tempfile
import time
from typing import Any, Callable, Dict, Iterator, List, Set, Tuple  # noqa: UP035  (Python 3.7)

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_COMMAND_LENGTH = 200
# What a process that nobody supervises any more is handed to.
_ADOPTERS = ("systemd", "init", "tini", "docker-init", "dumb-init")
_KINDS = (
    (b"dask_runner.cluster.host.host_agent", "agent"),
    (b"dask_runner.cluster.host.worker_process", "worker"),
    (b"dask_runner.cluster.host.scheduler_process", "scheduler"),
    (b"dask_runner.execution.zygote", "zygote"),
)
_ATTEMPT = re.compile(rb"/([0-9]{6,})\.([0-9]+)(?:/|$)")
# The folder of an agent names its cluster and host (leftovers.py), that of a slot or a `replay`
# nobody.
_FOLDER = re.compile(r"dask-runner-(?:([^@/]+)@([^/]+)-)?[a-z0-9_]{8}")
# The agent with the scheduler, on whatever machine.
_ANYWHERE = ".scheduler"
# On these, processes of other hosts may be the owners of a folder.
_SHARED = re.compile(r"nfs|cifs|smb|afs|lustre|gpfs|beegfs|ceph|gluster|fuse|9p|pvfs|panfs")
_DEPTH_OF_LINKS = 4
_FIRST_WORDS = 5
_SLACK = 2.0
_PAUSE = 0.05
_ROUNDS = 100


class Process:
    """A process at one moment. `cluster`, `host`, `run` are its markers, "" without."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.path = f"/proc/{pid}"
        text = _read(self.path + "/stat")
        name, fields = text[text.index(b"(") + 1 : text.rindex(b")")], text[text.rindex(b")") + 2 :]
        values = fields.split()
        self.name = name.decode("utf-8", "replace")
        self.state = values[0].decode()
        self.parent = int(values[1])
        self.cpu = (int(values[11]) + int(values[12])) / _TICKS
        self.start = int(values[19])
        self.rss = int(values[21]) * _PAGE
        self.environment = []  # type: List[bytes]
        self.command = b""
        self.ours = _owner(self.path) == os.getuid()
        # What is in a container of its own is another host to us.
        self.here = self.ours and _link(self.path + "/ns/pid") == _link("/proc/self/ns/pid")
        if self.here:
            with contextlib.suppress(OSError):
                self.environment = _read(self.path + "/environ").split(b"\0")
        with contextlib.suppress(OSError):
            self.command = _read(self.path + "/cmdline").rstrip(b"\0")
        self.cluster = self._marker(b"DASK_RUNNER_CLUSTER=")
        self.host = self._marker(b"DASK_RUNNER_HOST=")
        # Before it has a batch, the place of the marker holds dashes.
        self.run = self._marker(b"DASK_RUNNER_RUN=").strip("-") if self.cluster else ""

    def _marker(self, prefix: bytes) -> str:
        for entry in self.environment:
            if entry.startswith(prefix):
                return entry[len(prefix) :].decode("utf-8", "replace")
        return ""

    @property
    def key(self) -> Any:
        """A pid may be given to another process, this not."""
        return self.pid, self.start

    @property
    def is_driver(self) -> bool:
        """True of `dask-runner ...` and `python -m dask_runner ...`."""
        words = self.command.split(b"\0")[:_FIRST_WORDS]
        return any(word.split(b"/")[-1] in {b"dask-runner", b"dask_runner"} for word in words)

    @property
    def module(self) -> str:
        words = self.command.split(b"\0")
        return next((kind for module, kind in _KINDS if module in words), "")


def _read(path: str) -> bytes:
    with open(path, "rb") as file:  # noqa: PTH123  (fast)
        return file.read()


def _owner(path: str) -> int:
    for line in _read(path + "/status").splitlines():
        if line.startswith(b"Uid:"):
            return int(line.split()[1])
    return -1


class Table:
    """All processes of the host at one moment."""

    def __init__(self) -> None:
        self.all = {}  # type: Dict[int, Process]
        for name in os.listdir("/proc"):  # noqa: PTH208  (names)
            if name.isdigit():
                with contextlib.suppress(OSError, ValueError):
                    self.all[int(name)] = Process(int(name))
        self.uptime = float(_read("/proc/uptime").split()[0])
        self._spared = self._line_above(os.getpid())
        self._below = {}  # type: Dict[int, List[int]]
        for one in self.all.values():
            self._below.setdefault(one.parent, []).append(one.pid)

    def _line_above(self, pid: int) -> Set[int]:  # noqa: UP006
        line = set()  # type: Set[int]
        while pid in self.all and pid not in line:
            line.add(pid)
            pid = self.all[pid].parent
        return line

    def below(self, one: Process) -> List[Process]:  # noqa: UP006
        pids = list(self._below.get(one.pid, ()))
        for pid in pids:  # grows while it is walked
            pids.extend(self._below.get(pid, ()))
        return [self.all[pid] for pid in pids]

    def select(self, wanted: Callable[[Process], bool]) -> List[Process]:  # noqa: UP006
        """The marked processes that are wanted with all below them, parents first."""
        found = {}  # type: Dict[int, Process]
        for one in sorted(self.all.values(), key=lambda one: one.start):
            if one.cluster and one.state != "Z" and wanted(one):
                for each in [one, *self.below(one)]:
                    if self.may_end(each):
                        found.setdefault(each.pid, each)
        return list(found.values())

    def may_end(self, one: Process) -> bool:
        return one.ours and one.state != "Z" and one.pid not in self._spared

    def agents(self) -> List[Process]:  # noqa: UP006
        return [one for one in self.all.values() if one.cluster and one.module == "agent"]

    def supervised(self, top: Process) -> bool:
        """True if whoever started this agent is still there. Its stdin ends with its master, and it
        with its stdin: one without a master can do neither, being stopped or stuck.
        """
        parent = self.all.get(top.parent)
        if parent is None:
            return top.parent == 0  # outside of this PID namespace
        if parent.is_driver:
            return True
        if parent.pid != 1 and parent.name not in _ADOPTERS:
            return True
        return self._stdin_is_held(top)

    def _top(self, one: Process) -> Process:
        """The highest marked process above it, or itself: of a whole cluster the agent."""
        top, above = one, self.all.get(one.parent)
        while above is not None and above.pid != 1:
            top = above if above.cluster else top
            above = self.all.get(above.parent)
        return top

    def _stdin_is_held(self, top: Process) -> bool:
        """True if another process than those below has the other end of its pipe."""
        pipe = _link(top.path + "/fd/0")
        own = {one.pid for one in [top, *self.below(top)]}
        return pipe.startswith(b"pipe:") and any(
            pipe in _links(one.path + "/fd")
            for one in self.all.values()
            if one.ours and one.pid not in own
        )

    def living(self, known: List[str]) -> Callable[[Process], bool]:  # noqa: UP006
        """Tells of a marked process whether its cluster is up: its agent here is supervised, or
        somebody else who has started it is there, or the cluster is one of those `known` to be up.
        """
        agents = [one for one in self.agents() if self.supervised(one)]
        up = {(one.cluster, one.host) for one in agents}
        return lambda one: (
            (one.cluster, one.host) in up or one.cluster in known or self.supervised(self._top(one))
        )


def _link(path: str) -> bytes:
    try:
        return os.readlink(os.fsencode(path))  # noqa: PTH115
    except OSError:
        return b""


def _links(folder: str) -> List[bytes]:  # noqa: UP006
    try:
        return [_link(folder + "/" + name) for name in os.listdir(folder)]  # noqa: PTH208
    except OSError:
        return []


def _kind(one: Process, table: Table) -> str:
    if one.run:
        return "batch"
    parent = table.all.get(one.parent)
    if one.module == "zygote" and parent is not None and parent.module == "zygote":
        return "slot"
    return one.module or "other"


def _described(one: Process, table: Table, up: Callable[[Process], bool]) -> Dict[str, Any]:  # noqa: UP006
    # One that has dropped its markers has those of whom it comes from.
    marked = one
    while not marked.cluster and marked.parent in table.all:
        marked = table.all[marked.parent]
    place = _ATTEMPT.search(_link(one.path + "/cwd")) if marked.run else None
    command = b" ".join(one.command.split(b"\0")) or one.name.encode()
    return {
        "pid": one.pid,
        "parent": one.parent,
        "cluster": marked.cluster,
        "up": up(marked),
        "run": marked.run,
        "batch": int(place.group(1)) if place else -1,
        "attempt": int(place.group(2)) if place else -1,
        "what": _kind(one, table) if one.cluster else _kind(marked, table),
        "state": one.state,
        "cpu": round(one.cpu, 2),
        "rss": one.rss,
        "age": round(table.uptime - one.start / _TICKS, 1),
        "command": command[:_COMMAND_LENGTH].decode("utf-8", "backslashreplace"),
    }


def _wanted(request: Dict[str, Any]) -> Callable[[Process], bool]:  # noqa: UP006
    cluster, run = request.get("cluster", ""), request.get("run", "")

    def wanted(one: Process) -> bool:
        in_cluster = one.cluster == cluster or one.cluster.startswith(cluster + "+")
        return (not cluster or in_cluster) and (not run or one.run == run)

    return wanted


def ps(request: Dict[str, Any]) -> Dict[str, Any]:  # noqa: UP006
    table = Table()
    up = table.living(request["living"])
    found = table.select(_wanted(request))
    return {"processes": [_described(one, table, up) for one in found]}


class _Killing:
    """Ends processes until none is left: also those started meanwhile, and those whose parents have
    died before them.
    """

    def __init__(self, wanted: Callable[[Table], Callable[[Process], bool]]) -> None:
        self._wanted = wanted
        self._found = {}  # type: Dict[Any, Dict[str, Any]]

    def run(self, grace: float, patience: float) -> Dict[str, Any]:  # noqa: UP006
        """What was ended, and what survived."""
        self._tell(signal.SIGTERM, grace)
        self._freeze()
        self._tell(signal.SIGKILL, patience)
        left = {one.key for one in self._look()}
        return {
            "ended": [one for key, one in self._found.items() if key not in left],
            "survivors": [one for key, one in self._found.items() if key in left],
        }

    def _look(self) -> List[Process]:  # noqa: UP006
        """Who is left now, parents first."""
        table = Table()
        chosen = {one.key: one for one in table.select(self._wanted(table))}
        for one in table.all.values():
            # Perhaps without markers, and its parent is gone by now.
            if one.key in self._found:
                for each in [one, *table.below(one)]:
                    chosen.setdefault(each.key, each)
        left = [one for one in chosen.values() if table.may_end(one)]
        if any(one.key not in self._found for one in left):
            up = table.living([])
            for one in left:
                self._found.setdefault(one.key, _described(one, table, up))
        return sorted(left, key=lambda one: one.start)

    def _freeze(self) -> None:
        """Those that stand still start no others, and lose none."""
        stopped = set()  # type: Set[Any]
        for _ in range(_ROUNDS):
            fresh = [one for one in self._look() if one.key not in stopped]
            if not fresh:
                return
            for one in fresh:
                stopped.add(one.key)
                _signal(one, signal.SIGSTOP)

    def _tell(self, number: signal.Signals, patience: float) -> None:
        deadline = time.monotonic() + patience
        told = set()  # type: Set[Any]
        while True:
            left = self._look()
            if not left or time.monotonic() > deadline:
                return
            # Children before their parents.
            for one in reversed(left):
                if one.key not in told:
                    told.add(one.key)
                    _signal(one, number)
                    if number == signal.SIGTERM:
                        # One that was stopped hears it only when it goes on.
                        _signal(one, signal.SIGCONT)
            time.sleep(_PAUSE)


def _signal(one: Process, number: signal.Signals) -> None:
    with contextlib.suppress(OSError):
        os.kill(one.pid, number)


def kill(request: Dict[str, Any]) -> Dict[str, Any]:  # noqa: UP006
    wanted = _wanted(request)
    return _Killing(lambda _: wanted).run(request["grace"], request["patience"])


def sweep(request: Dict[str, Any]) -> Dict[str, Any]:  # noqa: UP006
    """Ends what is left of clusters that are not up, and removes what they left on the disk."""

    def leftover(table: Table) -> Callable[[Process], bool]:
        up = table.living(request["living"])
        return lambda one: bool(request["everything"]) or not up(one)

    result = _Killing(leftover).run(request["grace"], request["patience"])
    table = Table()
    left = {one["pid"] for one in result["survivors"]}
    spared = {one.cluster for one in table.select(lambda one: one.pid not in left) if one.cluster}
    return {**result, "up": sorted(spared), **_Folders(table, request).remove()}


class _Folders:
    """The private folders of agents and slots in `bases` (and in the host's temporary folder)."""

    def __init__(self, table: Table, request: Dict[str, Any]) -> None:  # noqa: UP006
        self._table = table
        self._living = [] if request["everything"] else request["living"]
        self._names = {request["name"], socket.gethostname(), "localhost", _ANYWHERE}
        bases = [*request["scratch"], tempfile.gettempdir()]
        places = dict.fromkeys(os.path.realpath(base) for base in bases)
        self._found = [path for place in places for path in _private(place)]

    def remove(self) -> Dict[str, Any]:  # noqa: UP006
        removed, kept = [], []
        for path, reason in self._left():
            size = _size(path)
            if not reason and _remove(path):
                removed.append({"path": _text(path), "bytes": size})
            else:
                kept.append({"path": _text(path), "reason": reason or "cannot be removed"})
        return {"folders": removed, "kept": kept}

    def _left(self) -> Iterator[Tuple[str, str]]:  # noqa: UP006
        """The folders whose owners are dead, each with a reason to keep it all the same."""
        all_processes = self._table.all.values()
        alive = {(one.cluster, one.host) for one in all_processes if one.state != "Z"}
        used = self._used()
        since = self._replays_since(used)
        for path in self._found:
            owner = _FOLDER.fullmatch(os.path.basename(path))  # noqa: PTH119
            cluster, host = owner.groups() if owner else (None, None)
            if path in used or (cluster, host) in alive or cluster in self._living:
                continue
            if cluster is not None:
                # In a scratch folder that hosts share, that of another host is its to judge.
                if host in self._names:
                    yield path, _shared(path) if host == _ANYWHERE else ""
            elif os.lstat(path).st_mtime >= since:
                yield path, "a replay may use it"
            else:
                yield path, _shared(path)

    def _used(self) -> Set[str]:  # noqa: UP006
        """Those that a process works in, was told of, or has open; and those that such a folder
        refers to.
        """
        if not self._found:
            return set()
        used = set()  # type: Set[str]
        for one in self._table.all.values():
            if one.ours and one.state != "Z":
                used |= self._used_by(one)
        walked = set()  # type: Set[str]
        while used - walked:
            path = (used - walked).pop()
            walked.add(path)
            used |= {target for target in _targets(path) if target in self._found}
        return used

    def _used_by(self, one: Process) -> Set[str]:  # noqa: UP006
        seen = [*one.environment, _link(one.path + "/cwd"), *_links(one.path + "/fd")]
        with contextlib.suppress(OSError):
            seen.append(_read(one.path + "/maps"))
        text = b"\0".join([*seen, b""])
        return {
            path for path in self._found if re.search(re.escape(_bytes(path)) + rb"[/\0:\n]", text)
        }

    def _replays_since(self, used: Set[str]) -> float:  # noqa: UP006
        """When the oldest `replay` began that shows nothing of the folder it has made."""
        since = float("inf")
        for one in self._table.all.values():
            if one.ours and one.is_driver and b"replay" in one.command.split(b"\0"):
                tree = [one, *self._table.below(one)]
                if not any(self._used_by(each) & used for each in tree):
                    age = self._table.uptime - one.start / _TICKS
                    since = min(since, time.time() - age - _SLACK)
        return since


def _private(place: str) -> Iterator[str]:
    """The folders in `place` that are named and owned as only ours are."""
    try:
        entries = list(os.scandir(place))
    except OSError:
        return
    for entry in entries:
        with contextlib.suppress(OSError):
            status = entry.stat(follow_symlinks=False)
            private = stat.S_ISDIR(status.st_mode) and stat.S_IMODE(status.st_mode) == stat.S_IRWXU
            if private and status.st_uid == os.getuid() and _FOLDER.fullmatch(entry.name):
                yield entry.path


def _targets(path: str) -> Iterator[str]:
    """Where symbolic links in a folder lead to."""
    for folder, folders, files in os.walk(path):
        if folder[len(path) :].count("/") >= _DEPTH_OF_LINKS:
            del folders[:]
        for name in [*folders, *files]:
            target = _link(folder + "/" + name)
            if target:
                yield os.path.realpath(os.fsdecode(target))


def _shared(path: str) -> str:
    """Why processes of other hosts may use the folder; "" if they cannot."""
    best, kind = "", ""
    for line in _read("/proc/self/mountinfo").decode("utf-8", "surrogateescape").splitlines():
        fields, _, rest = line.partition(" - ")
        point = re.sub(r"\\([0-7]{3})", lambda m: chr(int(m.group(1), 8)), fields.split()[4])
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, rest.split()[0]
    return f"on a file system that hosts share: {kind}" if _SHARED.search(kind) else ""


def _size(path: str) -> int:
    total = 0
    for folder, _, files in os.walk(path):
        for name in files:
            with contextlib.suppress(OSError):
                total += os.lstat(folder + "/" + name).st_blocks * 512
    return total


def _remove(path: str) -> bool:
    for folder, _, _ in os.walk(path):
        with contextlib.suppress(OSError):
            os.chmod(folder, stat.S_IRWXU)  # noqa: PTH101
    shutil.rmtree(path, ignore_errors=True)
    return not os.path.lexists(path)


def _text(path: str) -> str:
    return _bytes(path).decode("utf-8", "backslashreplace")


def _bytes(path: str) -> bytes:
    return path.encode("utf-8", "surrogateescape")


_OPERATIONS = {"ps": ps, "kill": kill, "sweep": sweep}


def main() -> None:
    stdin = sys.stdin.buffer
    request = json.loads(stdin.read(int(stdin.readline())))
    nonce = request["nonce"].encode() + b"\n"
    os.write(1, nonce)
    os.write(2, nonce)
    answer = _OPERATIONS[request["operation"]](request)
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
