"""N hosts on one machine, built and removed together."""

import atexit
import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from . import leftovers
from .accounts import knows_penalties, new_key
from .computer import Options, prefixes
from .host import Host
from .keeper import Keeper
from .network import MOST_HOSTS, Network, tool

CHECKOUT = Path(__file__).resolve().parents[3]


class Department:
    """A context manager.

        with Department(3, node02={"shared": False}, share=[tmp_path]) as department:
            department["node01"].cut()

    Hosts are node01, node02 ...; the keywords are their Options. `share` are folders that shared
    hosts see (others find them empty), besides `shared_folder`; `bind` are folders that every host
    sees although it has a /tmp, /home and /root of its own: the Python of the tests and the clone
    always are.
    """

    def __init__(
        self,
        hosts: int = 3,
        *,
        share: Iterable[Path | str] = (),
        bind: Iterable[Path | str] = (),
        **options: Mapping[str, Any],
    ) -> None:
        names = [f"node{number:02}" for number in range(1, hosts + 1)]
        self._options = {name: Options(**options.get(name, {})) for name in names}
        self._refuse_nonsense(set(options))
        leftovers.clean()
        self.folder = leftovers.new_folder()
        self.shared_folder = self.folder / "shared"
        self.desk = self.folder / "desk"
        self.share = {str(self.shared_folder), *(os.path.abspath(path) for path in share)}
        self.bind = {sys.prefix, sys.base_prefix, str(CHECKOUT)}
        self.bind |= {os.path.abspath(path) for path in bind}
        self.hosts: list[Host] = []
        self.started: list[subprocess.Popen[str]] = []
        self._prefixes: dict[str, set[str]] = {}
        self._owner = os.getpid()
        atexit.register(self.close)
        try:
            self._build()
        except BaseException:
            self.close()
            raise

    # -- building

    def _refuse_nonsense(self, named: set[str]) -> None:
        names = set(self._options)
        if not 1 <= len(names) <= MOST_HOSTS:
            raise ValueError(f"{len(names)} hosts: there may be 1 to {MOST_HOSTS}")
        if named - names:
            raise ValueError(f"no such host: {', '.join(sorted(named - names))}")
        for name, option in self._options.items():
            bastion = option.behind
            if bastion and (bastion not in names - {name} or self._options[bastion].behind):
                raise ValueError(f"{name} cannot be behind {bastion}: that is no host in front")

    def _build(self) -> None:
        self.shared_folder.mkdir()
        self.shared_folder.chmod(0o1777)
        self.desk.mkdir(0o700)
        (self.desk / ".ssh").mkdir(0o700)
        self.client_key = new_key(self.desk / ".ssh" / "id_ed25519")
        self.penalties = knows_penalties(tool("sshd"))
        self.switch = Keeper(self.folder, "switch", {"role": "switch"})
        self.network = Network(self.switch)
        for number, (name, options) in enumerate(self._options.items(), 1):
            self.hosts.append(Host(self, name, number, options))
        for host in self.hosts:
            host.prepare()
            host.start()
        for host in self.hosts:
            host.connect()
        self.write_ssh_config()
        self.write_known_hosts()
        for host in self.hosts:
            host.wait_ready()

    def is_bastion(self, name: str) -> bool:
        return any(option.behind == name for option in self._options.values())

    def names(self, seen_from: str) -> list[str]:
        """Lines of an /etc/hosts for all hosts but one."""
        lines = [f"{self.network.desk} desk"]
        return lines + [
            f"{host.address} {host.name}" for host in self.hosts if host.name != seen_from
        ]

    def prefixes(self, python: str) -> set[str]:
        if python not in self._prefixes:
            self._prefixes[python] = prefixes(python)
        return self._prefixes[python]

    # -- for the driver's side

    def __getitem__(self, name: str) -> Host:
        return next(host for host in self.hosts if host.name == name)

    @property
    def environment(self) -> dict[str, str]:
        """For commands that are to reach the hosts: a home of their own with keys and known hosts."""
        dropped = ("DASK_RUNNER_", "XDG_", "SSH_")
        kept = {name: text for name, text in os.environ.items() if not name.startswith(dropped)}
        folders = {
            f"XDG_{name}_HOME": str(self.desk / name.lower())
            for name in ("STATE", "CACHE", "CONFIG", "DATA")
        }
        return {**kept, **folders, "HOME": str(self.desk)}

    @property
    def ssh_config(self) -> Path:
        return self.desk / ".ssh" / "config"

    @property
    def full_ssh_config(self) -> Path:
        """For `ssh -F` and asyncssh's `config`, wherever HOME is."""
        return self.desk / "ssh_config"

    @property
    def known_hosts(self) -> Path:
        return self.desk / ".ssh" / "known_hosts"

    def write_ssh_config(self, *more: str) -> None:
        """Names and bastions, in ~/.ssh/config of the desk; `more` lines go first."""
        lines = [*more]
        for host in self.hosts:
            lines += [f"Host {host.name} {host.address}", f"    HostName {host.address}"]
            lines += [f"    ProxyJump {host.options.behind}"] if host.options.behind else []
        text = "\n".join(lines) + "\n"
        # ssh's ~ is not $HOME: the same for `-F`, with all paths written out.
        full = [
            "Host *",
            f"    IdentityFile {self.desk}/.ssh/id_ed25519",
            "    IdentitiesOnly yes",
            f"    UserKnownHostsFile {self.known_hosts}",
            "    GlobalKnownHostsFile /dev/null",
            "    StrictHostKeyChecking yes",
            "    BatchMode yes",
        ]
        for path, content in (
            (self.ssh_config, text),
            (self.full_ssh_config, text + "\n".join(full)),
        ):
            path.write_text(content + "\n")
            path.chmod(0o600)

    def write_known_hosts(self, *, without: Iterable[str] = ()) -> None:
        """The hosts' present keys, but for those hosts."""
        lines = [
            f"{host.name},{host.address} {host.public_key}"
            for host in self.hosts
            if host.name not in set(without)
        ]
        self.known_hosts.write_text("\n".join(lines) + "\n" if lines else "")

    def forget_keys(self) -> None:
        """No host key is known, as on first use."""
        self.write_known_hosts(without=[host.name for host in self.hosts])

    def ssh(self, name: str, *words: str, user: str = "root") -> list[str]:
        """The command line of the real ssh."""
        return [tool("ssh"), "-F", str(self.full_ssh_config), "-l", user, name, *words]

    def by_name(self, words: Sequence[str]) -> list[str]:
        """The same command where the hosts' names resolve: with an /etc/hosts of its own."""
        hosts = self.desk / "hosts"
        hosts.write_text("\n".join(["127.0.0.1 localhost", *self.names("")]) + "\n")
        script = 'mount --bind "$0" /etc/hosts && exec "$@"'
        return [tool("unshare"), "--mount", "/bin/sh", "-c", script, str(hosts), *words]

    def hostfile(
        self,
        path: Path | None = None,
        *,
        hosts: Iterable[str] = (),
        names: bool = False,
        per_host: Mapping[str, Mapping[str, Any]] | None = None,
        **keys: Any,
    ) -> Path:
        """Write a hostfile with these hosts (default: all), by address or by name.

        `keys` are for every line (slots=2), `per_host` for single ones.
        """
        wanted = list(hosts) or [host.name for host in self.hosts]
        lines = []
        for name in wanted:
            host = self[name]
            words = {**keys, **(per_host or {}).get(name, {})}
            if host.options.python:
                words.setdefault("python", host.options.python)
            line = [
                name if names else host.address,
                *(f'{key}="{text}"' for key, text in words.items()),
            ]
            lines.append(" ".join(line))
        path = path or self.desk / "hostfile.txt"
        path.write_text("\n".join(lines) + "\n")
        path.chmod(0o644)
        return path

    def processes(self, marker: str = "") -> dict[str, list[int]]:
        """Host -> pids (see Host.processes), for hosts that have any."""
        found = {host.name: host.processes(marker) for host in self.hosts}
        return {name: pids for name, pids in found.items() if pids}

    # -- the end

    def close(self) -> None:
        """Remove everything; also what was only half built. May be called again."""
        atexit.unregister(self.close)
        if os.getpid() != self._owner:
            # A forked child of the test that leaves in good order.
            return
        for host in self.hosts:
            if host.keeper is not None:
                with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                    host.keeper.close()
                host.keeper = None
        for process in self.started:
            if process.poll() is None:
                process.kill()
            process.wait()
        if hasattr(self, "network"):
            self.network.close()
        if hasattr(self, "switch"):
            self.switch.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
