"""What a host is: fed to the host's Python, which answers and is gone. It changes nothing there.

`main` writes the nonce, then at once a line with a Python literal (its clock, the port at which it
can be called), then one with the facts. How the fields are meant is said in host_report.HostFacts.

Standard library only, and nothing newer than Python 3.7; few imports, because a host waits for
them whenever a cluster starts: json, subprocess, shutil, tempfile and typing would cost 80 ms.
"""

from __future__ import annotations

import os
import select
import socket
import stat
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

_PATIENCE = 5.0
_WORDS_KEPT = 300
_BLOCK = 4096
# The environment must be set before the interpreter starts; -B, so that no .pyc is written.
_SELFTEST = """
import os, sys
os.nice(19)
from dask_runner.execution.numerics import pinned_environment
os.environ.update(pinned_environment())
command = "from dask_runner.chain import selftest_numbers; print(selftest_numbers())"
os.execv(sys.executable, [sys.executable, "-I", "-B", "-c", command])
"""


def main(request: dict[str, Any]) -> None:
    """Answer a request (probe.Request) on stdout."""
    os.chdir("/")
    thorough = request["thorough"]
    calls = Calls(request)
    _say(request["nonce"])
    _say(repr({"time": time.time(), "port": calls.port, "address": calls.address}))
    selftest = _start_selftest() if thorough and request["selftest"] else None
    facts = dict(_facts(request))
    if thorough:
        facts["users"] = _users()
        facts.update(lasting())
    facts["reaches_us"] = calls.finish()
    if selftest is not None:
        facts["numerics"], facts["numerics_error"] = _end_selftest(selftest, request["patience"])
    _say(repr(facts))


def _say(line: str) -> None:
    data = line.encode("ascii", "backslashreplace") + b"\n"
    while data:
        data = data[os.write(1, data) :]


def lasting() -> dict[str, Any]:
    """What decides how long processes last, and their files (LastingFacts)."""
    home = os.path.expanduser("~")
    return {
        "home": _text(home),
        "home_free": _free(home),
        "tokens": _tokens(),
        "local_time": time.strftime("%Y-%m-%d %H:%M:%S"),
        "kills_at_logout": _kills_at_logout(),
    }


def _facts(request: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    total, free = memory()
    packages = _packages(request["packages"])
    uid = os.getuid()
    home = os.path.expanduser("~")
    yield "hostname", socket.gethostname()
    yield "boot_id", _read("/proc/sys/kernel/random/boot_id").strip()
    yield "pid_namespace", _link("/proc/self/ns/pid")
    yield "python", sys.version.split()[0]
    yield "executable", _text(sys.executable)
    yield "versions", packages
    yield "cores", _cores()
    yield "memory_total", total
    yield "memory_free", free
    yield "load", os.getloadavg()[0]
    yield "uid", uid
    yield "user", _user_name(uid)
    yield "home", _text(home)
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(home, ".cache")
    yield "cache", _text(os.path.join(cache, "dask-runner"))
    scratch = request["scratch"] or _temporary_folder()
    yield "scratch", _text(scratch)
    yield "scratch_free", _free(scratch)
    yield "scratch_error", _why_not_writable(scratch)
    yield "shared", _shared(request["probe"], request["token"])
    yield "doubtful_paths", list(_doubtful_paths(uid))
    connection = os.environ.get("SSH_CONNECTION", "").split()
    if len(connection) == 4:  # noqa: PLR2004  (client, its port, server, its port)
        yield "client_address", connection[0]
        yield "server_address", connection[2]


# ---------------------------------------------------------------- ports


class Calls:
    """Both ways between us and this host, other than SSH: who connects gets a token."""

    def __init__(self, request: dict[str, Any]) -> None:
        self.port = 0
        self.address = ""
        self._token = request["token"].encode()
        self._deadline = time.time() + request["call_patience"]
        self._server: socket.socket | None = None
        self._call: socket.socket | None = None
        connection = os.environ.get("SSH_CONNECTION", "").split()
        if request["call_port"] and connection:
            self._listen(connection[2])
            self._dial(connection[0], request["call_port"])

    def _listen(self, address: str) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        server = socket.socket(family, socket.SOCK_STREAM)
        try:
            server.bind((address, 0))
        except OSError:
            # Behind address translation the address is not ours.
            try:
                server.bind(("", 0))
            except OSError:
                server.close()
                return
        server.listen(1)
        self._server, self.port, self.address = server, server.getsockname()[1], address

    def _dial(self, address: str, port: int) -> None:
        call = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        call.setblocking(False)
        try:
            call.connect_ex((address, port))
        except OSError:
            call.close()
            return
        self._call = call

    def finish(self) -> bool:
        """Wait until both ways are known or the patience is over; True if we were reached."""
        heard = b""
        wanted = [end for end in (self._server, self._call) if end is not None]
        while wanted:
            ready = select.select(wanted, [], [], max(0.0, self._deadline - time.time()))[0]
            if not ready:
                break
            for end in ready:
                if end is self._server:
                    self._answer()
                    wanted.remove(end)
                else:
                    block = _receive(end)
                    heard += block
                    if not block or len(heard) >= len(self._token):
                        wanted.remove(end)
        for opened in (self._server, self._call):
            if opened is not None:
                opened.close()
        return bool(heard == self._token)

    def _answer(self) -> None:
        assert self._server is not None
        try:
            caller = self._server.accept()[0]
            caller.settimeout(1.0)
            caller.sendall(self._token)
            caller.close()
        except OSError:
            pass


def _receive(end: socket.socket) -> bytes:
    try:
        return end.recv(64)
    except OSError:
        return b""


# ---------------------------------------------------------------- what it has


def _cores() -> int:
    cores = len(os.sched_getaffinity(0))
    for folder in _cgroups():
        words = _read(folder + "/cpu.max").split()
        if len(words) == 2 and words[0].isdigit():  # noqa: PLR2004
            cores = min(cores, max(1, int(words[0]) // int(words[1])))
    return cores


def memory() -> tuple[int, int]:
    """Bytes in all, and bytes that can be had now: of the host, or of what we may have of it."""
    values = _table("/proc/meminfo", ":")
    total, free = values.get("MemTotal", 0) * 1024, values.get("MemAvailable", 0) * 1024
    for folder in _cgroups():
        limit, used = _read(folder + "/memory.max").strip(), _read(folder + "/memory.current")
        if limit.isdigit() and used.strip():
            # What is only there to be read again soon is given up when it is needed.
            cache = _table(folder + "/memory.stat", " ").get("inactive_file", 0)
            total = min(total, int(limit))
            free = min(free, max(0, int(limit) - int(used) + cache))
    return total, free


def _table(path: str, separator: str) -> dict[str, int]:
    """Numbers by name, one on a line."""
    table = {}
    for line in _read(path).splitlines():
        name, _, value = line.partition(separator)
        table[name] = int(value.split()[0])
    return table


def _cgroups() -> list[str]:
    """The folders of this process's control group and of those above it."""
    for line in _read("/proc/self/cgroup").splitlines():
        if line.startswith("0::/"):
            parts = [part for part in line[4:].split("/") if part]
            return [
                "/".join(["/sys/fs/cgroup"] + parts[:count])  # noqa: RUF005
                for count in range(1, len(parts) + 1)
            ]
    return []


def _temporary_folder() -> str:
    """As tempfile.gettempdir, which tries them out by writing."""
    places = [os.environ.get(name) for name in ("TMPDIR", "TEMP", "TMP")]
    for place in [*places, "/tmp", "/var/tmp", "/usr/tmp"]:  # noqa: S108  (only looked at)
        if place and os.path.isdir(place) and os.access(place, os.W_OK | os.X_OK):
            return os.path.abspath(place)
    return "/tmp"  # noqa: S108


def _free(folder: str) -> int:
    """Bytes for us in a folder that may not be there yet."""
    try:
        status = os.statvfs(_nearest(folder))
    except OSError:
        return 0
    return status.f_bavail * status.f_frsize


def _why_not_writable(folder: str) -> str:
    """Empty if files can be made in the folder; tried with one that never gets a name."""
    place = _nearest(folder)
    try:
        descriptor = os.open(place, os.O_TMPFILE | os.O_WRONLY, 0o600)
    except OSError as error:
        # Old file systems know no files without a name.
        if os.access(place, os.W_OK | os.X_OK) and error.errno not in _DISK_ERRORS:
            return ""
        return str(error.strerror)
    try:
        os.write(descriptor, b"\0" * _BLOCK)
    except OSError as error:
        return str(error.strerror)
    finally:
        os.close(descriptor)
    return ""


_DISK_ERRORS = (28, 30, 122)  # ENOSPC, EROFS, EDQUOT


def _nearest(folder: str) -> str:
    """The folder, or the one above it that is there: it will be made when it is needed."""
    while not os.path.isdir(folder):
        above = os.path.dirname(folder)
        if above == folder:
            break
        folder = above
    return folder


def _shared(probe: str, token: str) -> str:
    """Whether a file that the driver has written is seen here: yes, no, read-only, other."""
    if not probe:
        return ""
    for _ in range(3):
        try:
            with open(probe) as file:
                if file.read() != token:
                    return "other"
            return "yes" if os.access(os.path.dirname(probe), os.W_OK) else "read-only"
        except OSError:
            # Makes NFS look again.
            try:
                os.listdir(os.path.dirname(probe))
            except OSError:
                return "no"
        time.sleep(0.1)
    return "no"


# ---------------------------------------------------------------- what is installed


def _packages(wanted: list[str]) -> dict[str, str]:
    """Versions by name, from the names of folders: importlib.metadata takes 80 ms to import."""
    found: dict[str, str] = {}
    wanted_as = {name.lower().replace("-", "_"): name for name in wanted}
    for folder in sys.path:
        for entry in _names(folder):
            stem, dot, kind = entry.rpartition(".")
            if not dot or kind not in {"dist-info", "egg-info"}:
                continue
            name, _, rest = stem.partition("-")
            known = wanted_as.get(name.lower().replace("-", "_").replace(".", "_"))
            if known is not None and known not in found:
                found[known] = rest.partition("-py")[0]
    code = _code_version()
    if code:
        found["dask-runner"] = code
    return found


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _code_version() -> str:
    """As versions.code_version, without an import of it; "" if it is not installed."""
    package = _package_folder()
    if not package:
        return ""
    from hashlib import sha256

    digest = sha256()
    files = []
    for folder, _, names in os.walk(package):
        within = os.path.relpath(folder, package)
        parts = () if within == "." else tuple(within.split(os.sep))
        files += [(*parts, name) for name in names if name.endswith(".py")]
    version = ""
    for parts in sorted(files):
        with open(os.path.join(package, *parts), "rb") as file:
            content = file.read()
        digest.update("/".join(parts).encode() + b"\0" + content)
        if parts == ("version.py",):
            version = content.decode().partition('__version__ = "')[2].partition('"')[0]
    return version + "+" + digest.hexdigest()[:12]


def _package_folder() -> str:
    for folder in sys.path:
        package = os.path.join(folder, "dask_runner")
        if os.path.isfile(os.path.join(package, "version.py")):
            return package
    # An editable installation may have a finder of its own.
    from importlib.util import find_spec

    spec = find_spec("dask_runner")
    return os.path.dirname(spec.origin) if spec is not None and spec.origin else ""


def _doubtful_paths(uid: int) -> Iterator[list[str]]:
    """Places from which Python takes code and that others may change: path, kind and reason."""
    for path in [sys.executable, *sys.path]:
        try:
            status = os.stat(path)
        except OSError:
            continue
        if os.statvfs(path).f_flag & os.ST_RDONLY:
            continue
        if status.st_mode & stat.S_IWOTH:
            yield [_text(path), "anybody", "anybody may write to it"]
        elif status.st_uid not in {0, uid}:
            owner = _user_name(status.st_uid)
            yield [_text(path), "owner", "it belongs to " + owner]
        elif status.st_mode & stat.S_IWGRP and not _is_private(status.st_gid):
            yield [_text(path), "group", f"group {_group_name(status.st_gid)} may write to it"]


def _is_private(gid: int) -> bool:
    """True if the group is root's, or ours and has nobody else in it."""
    import grp

    if gid == 0:
        return True
    try:
        group = grp.getgrgid(gid)
    except KeyError:
        return False
    name = _user_name(os.getuid())
    return gid == os.getgid() and group.gr_name == name and set(group.gr_mem) <= {name}


def _user_name(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group_name(gid: int) -> str:
    import grp

    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


# ---------------------------------------------------------------- what only programs know


def _users() -> list[str]:
    """Who is logged in at a terminal or a screen."""
    lines = _output("who").splitlines() or _output("loginctl", "--no-legend", "list-users").split(
        "\n"
    )
    column = 1 if lines and lines[0].split()[:1] and lines[0].split()[0].isdigit() else 0
    names = [line.split()[column] for line in lines if len(line.split()) > column]
    return sorted(set(names))


def _tokens() -> str | None:
    """What klist says; None where there is no klist."""
    if not _which("klist"):
        return None
    return _output("klist", "-f") or _output("klist")


def _kills_at_logout() -> bool:
    """True if systemd ends our processes when the last login does."""
    if not _which("loginctl"):
        return False
    manager = _output("loginctl", "show-session", "--property=KillUserProcesses")
    lingering = _output("loginctl", "show-user", "--property=Linger", _user_name(os.getuid()))
    return "KillUserProcesses=yes" in manager and "Linger=yes" not in lingering


def _which(name: str) -> str:
    for folder in [*os.environ.get("PATH", "").split(":"), "/usr/bin", "/bin"]:
        program = os.path.join(folder, name)
        if folder.startswith("/") and os.access(program, os.X_OK):
            return program
    return ""


def _output(*words: str) -> str:
    """What a program says on stdout; "" if it fails or takes long."""
    program = _which(words[0])
    if not program:
        return ""
    import subprocess

    try:
        done = subprocess.run(
            [program, *words[1:]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_PATIENCE,
            check=True,
            env={**os.environ, "LC_ALL": "C"},
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.decode("utf-8", "replace")


def _start_selftest() -> Any:
    import subprocess

    return subprocess.Popen(
        [sys.executable, "-I", "-B", "-c", _SELFTEST],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def _end_selftest(process: Any, patience: float) -> tuple[str, str]:
    """The hash, or why there is none."""
    import subprocess

    try:
        out, errors = process.communicate(timeout=patience)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return "", f"not ready after {patience:.0f} s"
    if process.returncode:
        words = errors.decode("utf-8", "replace").strip().splitlines() or ["no words"]
        return "", words[-1][:_WORDS_KEPT]
    return out.decode().strip(), ""


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _text(path: str) -> str:
    return os.fsencode(path).decode("utf-8", "backslashreplace")
