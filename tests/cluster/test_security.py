"""Who is not the user gets in nowhere and learns no secret: from another host, as another user of
a host, and as another user of the machine where `up` runs.

One department and one cluster for all tests; those that change something come last.
"""

import json
import os
import pwd
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from department import Department
from department.accounts import USERS
from product import wait_for
from rig import LEASE, Rig, know_numerics, reference

INTRUDER = Path(__file__).with_name("intruder.py")
ADA = USERS["ada"].uid
# No user of this machine.
STRANGER = 64321
ROUTES = ("/", "/status", "/health", "/metrics", "/json/counts.json", "/info/main/workers.html")
# Root's, who is the user on the hosts.
HOME = pwd.getpwuid(0).pw_dir
# Where anybody may make files.
PUBLIC = ("/tmp", "/home/scratch", "/var/tmp", "/dev/shm")
# Dask's own names for temporary folders, old and new; ours; and what Python looks for.
PLANTED_FOLDERS = ("dask-scratch-space", "dask-worker-space", "dask-runner", "dask-runner-worker-x")
PLANTED_MODULES = (
    "sitecustomize",
    "usercustomize",
    "distributed",
    "dask_runner",
    "msgspec",
    "json",
)
GAINED = "/tmp/gained"
MUCH = 500

# Evaluated by the process that is asked.
NAME = "__import__('os').uname().nodename"


class Place:
    """A cluster of node01 and, behind the bastion node02, node03."""

    def __init__(self, folder: Path, base: Path) -> None:
        self.state, self.tmp = base / "state", base / "tmp"
        self.department = Department(3, node03={"behind": "node02"}, share=[folder])
        self.rig = Rig(folder, self.department)
        # Reachable by everybody: only the product's own care keeps them out.
        for path, mode in ((base, 0o755), (self.state, 0o755), (self.tmp, 0o1777)):
            path.mkdir(exist_ok=True)
            path.chmod(mode)
        self.rig.environment["XDG_STATE_HOME"] = str(self.state)
        self.rig.environment["TMPDIR"] = str(self.tmp)

    def up(self) -> None:
        rig, first = self.rig, self.department["node01"]
        self._plant()
        rig.write_hostfile(slots=2)
        only = first.address
        rig.run("up", "--detach", "--hosts", only)
        self.old = self.read("credentials.json")
        rig.run("down")
        assert not list(self.state.rglob("credentials.json"))
        know_numerics(self.department["node03"])
        hosts = f"{only},{self.department['node03'].address}"
        # Whoever's umask it is, what is private stays private.
        done = rig.run("up", "--detach", "--json", "--hosts", hosts, umask=0)
        self.status = json.loads(done.stdout)
        assert [host["phase"] for host in self.status["hosts"]] == ["up", "up"]
        self.credentials = self.read("credentials.json")
        rig.go()
        rig.run(*rig.words(8))
        rig.run("command", "-n", "2", "--", "/bin/sh", "-c", "env; exit 3", expect=3)

    def read(self, name: str) -> dict:
        (path,) = self.state.rglob(f"main/{name}")
        return json.loads(path.read_bytes())

    def _plant(self) -> None:
        """What others have ready for whoever imports from a folder that anybody could make."""
        host = self.department["node01"]
        places = [(host.path(public), ADA, f"open({GAINED!r}, 'w').close()") for public in PUBLIC]
        places.append((self.tmp, STRANGER, f"open({str(self.tmp / 'gained')!r}, 'w').close()"))
        for public, uid, code in places:
            for name in PLANTED_FOLDERS:
                folder = public / name
                folder.mkdir()
                folder.chmod(0o777)
                for module in PLANTED_MODULES:
                    (folder / f"{module}.py").write_text(code)
                for path in (*folder.iterdir(), folder):
                    os.chown(path, uid, uid)

    @property
    def planted(self) -> list[Path]:
        publics = [self.tmp, *(self.department["node01"].path(public) for public in PUBLIC)]
        return [public / name for public in publics for name in PLANTED_FOLDERS]

    # ------------------------------------------------------------------ who listens where

    def here(self) -> list[int]:
        """The cluster's processes on this machine."""
        mine = os.readlink("/proc/self/ns/net")
        pids = [self.status["pid"], *self.rig.cluster_processes()]
        return [pid for pid in pids if os.readlink(f"/proc/{pid}/ns/net") == mine]

    def listening(self, name: str) -> dict[int, bool]:
        """Ports on which something of the cluster listens ("": on this machine), and whether only
        the machine itself can reach them.
        """
        if not name:
            pids = self.here()
            return _listening(f"/proc/{pids[0]}/net", _sockets(pids))
        ports = _listening(f"/proc/{self.department[name].pid}/net", None)
        return {port: private for port, private in ports.items() if port != 22}

    def targets(self, seen_from: str) -> list[list]:
        """All of them, at all addresses by which they could be reached from there."""
        found = []
        for name in ("", "node01", "node03"):
            address = self.department[name].address if name else self.department.network.desk
            for port in self.listening(name):
                found.append([address, port])
                if name == seen_from:
                    found.append(["127.0.0.1", port])
        return found

    def intrude(self, name: str, uid: int, **wishes: object) -> dict:
        """Send the intruder to a host ("": this machine)."""
        words = [sys.executable, "-I", str(INTRUDER), str(uid)]
        command = self.department[name].command(words) if name else words
        done = subprocess.run(
            command,
            input=json.dumps(wishes),
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def ask(self, code: str) -> list:
        """What scheduler and workers answer to somebody who has the keys."""
        own = {"own": self.credentials}
        found = self.intrude("", 0, targets=self.targets(""), credentials=own, code=code)
        return [one["answer"] for one in found["attempts"] if one["answer"] is not None]


def _sockets(pids: list[int]) -> set[str]:
    """The inodes of the sockets that these processes have open."""
    found = set()
    for pid in pids:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            try:
                name = os.readlink(entry)
            except FileNotFoundError:
                continue
            if name.startswith("socket:["):
                found.add(name[8:-1])
    return found


def _listening(folder: str, sockets: set[str] | None) -> dict[int, bool]:
    """Ports on which something listens in a network, of these sockets (None: of any), and whether
    that is only for the loopback interface.
    """
    found = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"{folder}/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and (sockets is None or fields[9] in sockets):
                address, _, port = fields[1].rpartition(":")
                private = address in {"0100007F", "00000000000000000000000001000000"}
                found[int(port, 16)] = private
    return found


@pytest.fixture(scope="module")
def place(_can_build: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with ExitStack() as stack:
        # Not below pytest's folder, which is closed to others.
        base = Path(tempfile.mkdtemp())
        stack.callback(shutil.rmtree, base)
        made = Place(tmp_path_factory.mktemp("place"), base)
        stack.enter_context(made.department)
        stack.callback(made.rig.close)
        made.up()
        yield made


@pytest.fixture(scope="module")
def foreign() -> dict:
    """Credentials of somebody else's cluster of the same name."""
    code = (
        "import msgspec, sys; from dask_runner.cluster.tls import make_credentials; "
        "sys.stdout.buffer.write(msgspec.json.encode(make_credentials('main')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    return json.loads(done.stdout)


def test_every_part_listens_and_who_has_the_keys_gets_in(place):
    # Without this, the refusals below would show nothing.
    code = f"open('/tmp/' + {NAME} + '.seen', 'w').close() or {NAME}"
    here = Path(f"/tmp/{os.uname().nodename}.seen")
    try:
        assert set(place.ask(code)) == {os.uname().nodename, "node01", "node03"}
        assert here.exists()
    finally:
        here.unlink(missing_ok=True)
    for name in ("node01", "node03"):
        assert place.department[name].path(f"/tmp/{name}.seen").exists()
    # Whoever else wants in finds a door: a host's own name leads to its loopback interface, but
    # that is not where it listens, if it can be reached.
    assert not all(place.listening("node01").values())
    assert all(place.listening("node03").values())


INTRUDERS = {
    "root of another host": ("node02", 0),
    "ada on a host": ("node01", ADA),
    "ada behind the bastion": ("node03", ADA),
    "a stranger here": ("", STRANGER),
}


@pytest.fixture(scope="module")
def intrusions(place: Place, foreign: dict) -> dict[str, dict]:
    """What each of them found, all at the same time."""

    def intrude(who: str) -> dict:
        name, uid = INTRUDERS[who]
        return place.intrude(
            name,
            uid,
            targets=place.targets(name),
            credentials={"foreign": foreign, "old": place.old},
            code=f"open({GAINED!r}, 'w').close() or 'gained'",
            paths=ROUTES,
        )

    with ThreadPoolExecutor() as threads:
        return dict(zip(INTRUDERS, threads.map(intrude, INTRUDERS), strict=True))


@pytest.mark.parametrize("who", INTRUDERS)
def test_nobody_else_gets_in(place, intrusions, who):
    attempts = intrusions[who]["attempts"]
    # Scheduler, its HTTP server and the tunnel; two of each worker, and the other end of the tunnel.
    assert len({(one["target"], one["port"]) for one in attempts}) >= 8
    assert {one["manner"] for one in attempts} == {"plain", "no certificate", "foreign", "old"}
    assert not [one for one in attempts if one["answer"] is not None]
    assert not _gained(place)


@pytest.mark.parametrize("who", INTRUDERS)
def test_no_http_server_serves_anything(intrusions, who):
    pages = intrusions[who]["pages"]
    assert {page["path"] for page in pages} == set(ROUTES)
    assert not [page for page in pages if " 200 " in page["status"]]
    # Dask's server, which has no routes, is there for its own machine only.
    there = [page for page in pages if page["status"].startswith("HTTP")]
    assert bool(there) == (who != "root of another host")


def _gained(place: Place) -> list[str]:
    roots = ["/", *(f"/proc/{host.pid}/root/" for host in place.department.hosts)]
    found = [root for root in roots if Path(root + GAINED).exists()]
    return [*found, *map(str, place.tmp.glob("gained"))]


def test_another_user_cannot_read_the_session_nor_talk_to_the_manager(place):
    # The folder of all of it may be seen: it has a well-known name.
    files = [str(path) for path in place.state.glob("dask-runner/**/*")]
    (private,) = place.tmp.glob("dask-runner-main+*")
    files += [str(private), *map(str, private.rglob("*"))]
    control = [path for path in files if path.endswith("/control")]
    assert control
    assert set(place.intrude("", 0, files=files)["opened"]) == set(files)
    found = place.intrude("", STRANGER, files=files)["opened"]
    assert not found


def test_another_user_of_a_host_cannot_look_into_private_folders(place):
    for name in ("node01", "node03"):
        host = place.department[name]
        (folder,) = host.path("/tmp").glob("dask-runner-main+*")
        assert folder.stat().st_mode & 0o777 == 0o700
        inside = [f"/tmp/{path.relative_to(host.path('/tmp'))}" for path in folder.rglob("*")]
        assert inside
        assert not place.intrude(name, ADA, files=[f"/tmp/{folder.name}", *inside])["opened"]


def _secrets(place: Place) -> list[bytes]:
    """Pieces of the key, as it would be in any text; and what begins every key."""
    lines = place.credentials["key"].splitlines()[1:-1]
    assert lines
    return [b"PRIVATE KEY", *(line.encode() for line in lines)]


def test_no_key_is_on_a_command_line_or_in_an_environment(place):
    secrets = [*_secrets(place), b"BEGIN CERTIFICATE"]
    looked = 0
    for process in Path("/proc").glob("[0-9]*"):
        for name in ("cmdline", "environ"):
            try:
                content = (process / name).read_bytes()
            except OSError:
                continue
            looked += 1
            assert not [text for text in secrets if text in content], (process, name)
    assert looked > 2 * len(place.rig.cluster_processes())


def test_the_key_is_in_one_file_only(place):
    """Not in logs, manifests, attempts, temporary files or caches, here or on a host."""
    files = [*_files("", [place.rig.folder, place.state, place.tmp, place.department.desk], ())]
    # What the hosts see of this machine: code.
    seen = {*place.department.bind, *place.department.share}
    for host in place.department.hosts:
        folders = [*PUBLIC, "/home", HOME, "/run", "/var/log"]
        files += _files(f"/proc/{host.pid}/root", folders, seen)
    found = []
    for path in files:
        content = path.read_bytes()
        if any(text in content for text in _secrets(place)[1:]):
            found.append(path)
    assert [path.name for path in found] == ["credentials.json"]
    assert found[0].stat().st_mode & 0o777 == 0o600
    assert len(files) > 50


def _files(root: str, folders: Sequence[str | Path], without: Collection[str]) -> Iterator[Path]:
    """All files below these folders of a host (`root` is its root), but for some folders."""
    for folder in folders:
        for above, below, names in os.walk(f"{root}{folder}"):
            here = above.removeprefix(root)
            below[:] = [name for name in below if f"{here}/{name}" not in without]
            paths = [Path(above, name) for name in names]
            yield from (path for path in paths if path.is_file() and not path.is_symlink())


def test_no_code_is_taken_from_where_others_may_write(place):
    asked = place.ask(f"[{NAME}, __import__('sys').path, __import__('sys').flags.isolated]")
    assert len(asked) >= 3
    for name, paths, isolated in asked:
        assert isolated
        root = place.department[name].path("/") if name.startswith("node") else Path("/")
        for path in paths:
            assert _trusted(root, path), (name, path)
    # The agents, whom nobody can ask, and what workers start, are isolated likewise.
    for name in ("node01", "node03"):
        agent, host = place.rig.on(name, "host_agent"), place.department[name]
        python = _words(agent).split()[0]
        said = host.run([python, "-I", "-c", "import json, sys; print(json.dumps(sys.path))"])
        for path in [python, *json.loads(said.stdout), *_mapped(agent)]:
            assert _trusted(host.path("/"), path), (name, path)
    place.rig.run("command", "-n", "6", "-q", "--", "true")  # the zygotes come with the first batch
    pythons = [_words(pid) for pid in place.rig.cluster_processes()]
    ours = [words for words in pythons if "dask_runner." in words]
    for part in ("host_agent", "worker_process", "scheduler_process", "zygote"):
        assert [words for words in ours if part in words], part
    assert not [words for words in ours if " -I " not in words]


def _words(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def _mapped(pid: int) -> set[str]:
    """The files whose code a process has loaded."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    fields = [line.split(maxsplit=5) for line in lines]
    return {field[5] for field in fields if len(field) == 6 and field[5].startswith("/")}


def _trusted(root: Path, path: str) -> bool:
    """True if only root, who is the user here, can change what is there, or make it."""
    assert path.startswith("/")
    for part in [*reversed(Path(path).parents), Path(path)]:
        here = root / str(part).lstrip("/")
        if not here.exists():
            return True
        state = here.stat()
        # In a sticky folder others cannot replace what is not theirs.
        sticky = bool(state.st_mode & 0o1000) and str(part) != path
        if state.st_uid or (state.st_mode & 0o022 and not sticky):
            return False
        if not state.st_mode & 0o077:
            return True
    return True


def test_who_makes_folders_of_well_known_names_gains_nothing(place):
    assert not _gained(place)
    for folder in place.planted:
        # Neither used nor removed.
        assert sorted(path.stem for path in folder.iterdir()) == sorted(PLANTED_MODULES)


def test_idle_connections_stop_neither_heartbeats_nor_a_run(place):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    rig = place.rig
    address = place.status["address"].removeprefix("tls://").rpartition(":")
    crowd = [(address[0], int(address[2]))] * MUCH
    first = place.department["node01"].address
    crowd += [
        (first, port) for port, private in place.listening("node01").items() if not private
    ] * 100
    with ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        for there in crowd:
            guest = socket.create_connection(there, timeout=10)
            stack.callback(guest.close)
        began = rig.status()["up_for"]
        rig.run(*rig.words(12))
        wait_for(lambda: rig.status()["up_for"] > began + LEASE + 1, "a lease to pass")
        for host in rig.status()["hosts"]:
            assert host["phase"] == "up"
            assert not host.get("errors")
    assert rig.check_while_up(finished=True, reference_hash=reference(12)).done == set(range(12))


def test_who_plants_folders_like_an_agents_has_nothing_of_others_removed(place):
    host = place.department["node01"]
    (private,) = host.path("/tmp").glob("dask-runner-main+*")
    prefix = private.name[:-8]
    precious = host.path(f"{HOME}/precious")
    precious.mkdir(mode=0o700)
    (precious / "thesis").write_text("long")
    # Names as a new agent of this cluster and host takes them for an old agent's.
    host.run(["/bin/ln", "-s", f"{HOME}/precious", f"/tmp/{prefix}aaaaaaaa"], user="ada")
    host.run(["/bin/mkdir", "-m", "700", f"/tmp/{prefix}bbbbbbbb"], user="ada")
    os.kill(place.rig.on("node01", "host_agent"), signal.SIGKILL)
    wait_for(lambda: not private.exists(), "a new agent to clear up")
    place.rig.wait_phase("node01", "up")
    assert (precious / "thesis").read_text() == "long"
    assert host.path(f"/tmp/{prefix}bbbbbbbb").is_dir()


def test_down_takes_the_keys_and_leaves_nothing(place):
    place.rig.run("down")
    place.rig.nothing_left()
    content = [path.read_bytes() for path in place.state.rglob("*") if path.is_file()]
    assert not [text for text in content if b"PRIVATE KEY" in text]
    assert not [path for path in place.state.rglob("*") if path.name == "main"]
    assert {path.name for path in place.tmp.iterdir()} == set(PLANTED_FOLDERS)
