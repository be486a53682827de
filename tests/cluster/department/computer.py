"""A test host without its faults: how it is built, seen and used."""

import os
import pwd
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .accounts import INSIDE, USERS, new_key, sshd_lines, write_accounts, write_homes
from .keeper import Keeper
from .network import BACK, Wire, tool

if TYPE_CHECKING:
    from .department import Department

SCRATCH = "/home/scratch"


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a host differs from the others.

    shared: it sees the department's `shared` folder and what else the department shares.
    python: absolute path of its Python for the hostfile; made visible on the host.
    scratch_mb: size of its scratch, then in memory and lost at power-off; 0: as large as the disk.
    tmp_mb: size of its /tmp; 0: no limit.
    behind: name of the bastion that it is behind; there is no other way to it.
    max_startups: sshd's MaxStartups; empty: the default.
    sshd: False leaves port 22 closed. silent: port 22 accepts, and says nothing.
    """

    shared: bool = True
    python: str = ""
    scratch_mb: int = 0
    tmp_mb: int = 0
    behind: str = ""
    max_startups: str = ""
    sshd: bool = True
    silent: bool = False


class Computer:
    """`address` is reachable from this machine, unless the host is behind a bastion."""

    scratch = SCRATCH

    def __init__(self, department: "Department", name: str, number: int, options: Options) -> None:
        self.department = department
        self.name = name
        self.number = number
        self.options = options
        self.folder = department.folder / "hosts" / name
        self.keeper: Keeper | None = None
        self._network = network = department.network
        self._muted = False
        bridge = "back" if options.behind else "front"
        self.address = network.address(number + (BACK if options.behind else 0))
        self.wires = [Wire(name, bridge, "eth0", self.address)]
        if department.is_bastion(name):
            self.wires.append(Wire(f"{name}b", "back", "eth1", network.address(number + BACK)))

    # -- building

    def prepare(self) -> None:
        """Write its files; nothing runs yet."""
        self.disk = self.folder / "disk"
        self.etc = self.folder / "etc"
        self.ssh = self.folder / "ssh"
        for folder in (self.disk / "scratch", self.disk / "var-tmp", self.etc, self.ssh):
            folder.mkdir(parents=True)
        for folder in (self.disk / "scratch", self.disk / "var-tmp"):
            folder.chmod(0o1777)
        self._files = write_accounts(self.etc)
        self._disks = {
            **write_homes(self.disk),
            "/var/tmp": str(self.disk / "var-tmp"),
            SCRATCH: str(self.disk / "scratch"),
            INSIDE: str(self.ssh),
        }
        (self.etc / "hostname").write_text(self.name + "\n")
        # Like Debian: a host's own name is a loopback address.
        lines = ["127.0.0.1 localhost", f"127.0.1.1 {self.name}", *self.department.names(self.name)]
        (self.etc / "hosts").write_text("\n".join(lines) + "\n")
        for name in ("hostname", "hosts"):
            # Nothing can be laid over a file that this machine lacks.
            if Path(f"/etc/{name}").exists():
                self._files[f"/etc/{name}"] = str(self.etc / name)
        self.public_key = new_key(self.ssh / "host_key")
        (self.ssh / "authorized_keys").write_text(self.department.client_key + "\n")
        (self.ssh / "sshd_config").write_text(
            sshd_lines(self.options.max_startups, penalties=self.department.penalties)
        )

    def _folders(self) -> list[tuple[str, str, str]]:
        """What lies over the machine's folders, outer before inner: (path, folder here that is
        seen there, ""), or (path, "", options of a new tmpfs).
        """
        public = "mode=1777"
        over = dict.fromkeys(("/tmp", "/dev/shm"), ("", public))
        if self.options.tmp_mb:
            over["/tmp"] = ("", f"{public},size={self.options.tmp_mb}m")
        over |= dict.fromkeys(("/run", "/var/log"), ("", "mode=755"))
        over |= {path: (source, "") for path, source in self._disks.items()}
        if self.options.scratch_mb:
            over[SCRATCH] = ("", f"{public},size={self.options.scratch_mb}m")
        if not self.options.shared:
            over |= dict.fromkeys(self.department.share, ("", public))
        seen = set(self.department.bind)
        seen |= self.department.share if self.options.shared else set()
        seen |= self.department.prefixes(self.options.python) if self.options.python else set()
        for path in seen:
            # What nothing lies over is seen anyway.
            if any(path.startswith(above + "/") for above in over):
                over.setdefault(path, (path, ""))
        return sorted((path, *what) for path, what in over.items())

    def _plan(self) -> dict[str, Any]:
        """What init.py is to do."""
        return {
            "role": "host",
            "name": self.name,
            "folders": self._folders(),
            "files": self._files,
            "ip": tool("ip"),
            "sshd": self._sshd_command() if self.options.sshd else [],
            "pid_file": f"{INSIDE}/sshd.pid",
            "silent": self.options.silent,
        }

    def start(self) -> None:
        """First half of booting: its namespaces. Hosts that are built together do it at once."""
        (self.ssh / "sshd.pid").unlink(missing_ok=True)
        self.keeper = Keeper(self.department.folder, self.name, self._plan())

    def connect(self) -> None:
        """Second half: wires, addresses, sshd."""
        assert self.keeper is not None
        # There is something to plug a wire into.
        self.keeper.hear("separate")
        self._network.plug(self.wires, self.pid)
        lines = ["link set lo up"]
        for wire in self.wires:
            lines += [f"addr add {wire.address}/25 dev {wire.there}", f"link set {wire.there} up"]
        self.keeper.say({"lines": lines})

    def wait_ready(self) -> None:
        assert self.keeper is not None
        self.keeper.hear("ready")

    def _sshd_command(self) -> list[str]:
        return [tool("sshd"), "-f", f"{INSIDE}/sshd_config", "-E", f"{INSIDE}/sshd.log"]

    # -- looking

    @property
    def pid(self) -> int:
        """Its process 1, as seen from here."""
        assert self.keeper is not None, f"{self.name} is off"
        return self.keeper.pid

    @property
    def alive(self) -> bool:
        return self.keeper is not None and self.keeper.alive

    def sshd_log(self) -> str:
        path = self.ssh / "sshd.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def processes(self, marker: str = "") -> list[int]:
        """Pids, as seen from here, of all its processes, or of those whose environment has
        `marker`: "NAME=VALUE", or "NAME=" for any value.
        """
        if not self.alive:
            return []
        space = os.readlink(f"/proc/{self.pid}/ns/pid")
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                if os.readlink(entry / "ns/pid") != space:
                    continue
                if marker and not _has(entry / "environ", marker.encode()):
                    continue
            except OSError:
                continue
            found.append(int(entry.name))
        return sorted(found)

    def path(self, inside: str) -> Path:
        """The path here of a file as the host sees it, while it is on."""
        return Path(f"/proc/{self.pid}/root{inside}")

    def named(self, name: str) -> list[int]:
        """Pids, as seen from here, of its processes whose name begins so."""
        found = []
        for pid in self.processes():
            try:
                if Path(f"/proc/{pid}/comm").read_text().startswith(name):
                    found.append(pid)
            except OSError:
                continue
        return found

    # -- doing

    def command(self, words: Sequence[str], user: str = "root") -> list[str]:
        """The words to run here so that `words` run there, not through ssh."""
        enter = [tool("nsenter"), f"--target={self.pid}", "--all"]
        home, drop = pwd.getpwuid(0).pw_dir, []
        if user != "root":
            home = f"/home/{user}"
            uid = USERS[user].uid
            drop = [tool("setpriv"), f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
        clean = ["/usr/bin/env", "-i", f"HOME={home}", f"USER={user}", f"LOGNAME={user}"]
        path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        return [*enter, *drop, *clean, path, *words]

    def run(
        self, words: Sequence[str], *, user: str = "root", check: bool = True, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on the host to its end."""
        done = subprocess.run(
            self.command(words, user),
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            **{"timeout": 60, "stdin": subprocess.DEVNULL, **options},
        )
        if check and done.returncode:
            raise AssertionError(
                f"{self.name}: {words}: {done.returncode}\n{done.stdout}{done.stderr}"
            )
        return done

    def popen(
        self, words: Sequence[str], *, user: str = "root", **options: Any
    ) -> subprocess.Popen[str]:
        """Start a command on the host. It ends with the host: what is started here is `nsenter`,
        and a signal to that does not reach the command.
        """
        process = subprocess.Popen(
            self.command(words, user),
            text=True,
            **{
                "stdin": subprocess.DEVNULL,
                "stdout": subprocess.DEVNULL,
                "stderr": subprocess.DEVNULL,
                **options,
            },
        )
        self.department.started.append(process)
        return process


def wait(condition: Any, what: str, patience: float = 10.0) -> None:
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {patience} s")
        time.sleep(0.005)


def prefixes(python: str) -> set[str]:
    """The folders that a Python needs."""
    if python == sys.executable:
        return {sys.prefix, sys.base_prefix}
    script = "import sys; print(sys.prefix); print(getattr(sys, 'base_prefix', sys.prefix))"
    done = subprocess.run([python, "-I", "-c", script], capture_output=True, text=True, check=True)
    return {*done.stdout.splitlines(), str(Path(python).parent.parent)}


def _has(environ: Path, marker: bytes) -> bool:
    variables = environ.read_bytes().split(b"\0")
    if marker.endswith(b"="):
        return any(variable.startswith(marker) for variable in variables)
    return marker in variables
