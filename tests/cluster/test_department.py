"""The test hosts are what the other tests take them for, and nothing of them stays."""

import asyncio
import os
import socket
import subprocess
import sys
from pathlib import Path

import asyncssh
import pytest
from department import Department, clean, missing
from department.accounts import USERS
from department.host import Host
from department.keeper import Keeper
from department.network import Network
from department.pythons import another, environment, version
from department.requirements import PROGRAMS
from department_visits import reachable, ssh
from product import wait_for

pytestmark = pytest.mark.usefixtures("_can_build")

DEPARTMENT = str(Path(__file__).parent)


def namespaces() -> set[str]:
    """All namespaces that any process of the machine is in."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            for kind in ("net", "mnt", "pid", "uts", "ipc"):
                try:
                    found.add(os.readlink(entry / "ns" / kind))
                except OSError:
                    continue
    return found


def gone(folder: Path, leg: str, spaces: set[str]) -> None:
    """Nothing is left of the department with this folder and leg, which had these namespaces."""
    assert not folder.exists()
    assert leg not in os.listdir("/sys/class/net")
    assert not namespaces() & spaces
    assert str(folder) not in Path("/proc/self/mountinfo").read_text()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            assert os.fsencode(folder) not in words, (entry.name, words)


def spaces_of(department: Department) -> set[str]:
    pids = [department.switch.pid, *(host.pid for host in department.hosts)]
    kinds = ("net", "mnt", "pid", "uts", "ipc")
    return {os.readlink(f"/proc/{pid}/ns/{kind}") for pid in pids for kind in kinds}


# -- logging in


def test_everybody_logs_in_with_the_key_everywhere(make_department):
    department = make_department(3, node02={"shared": False}, node03={"behind": "node01"})
    for host in department.hosts:
        for user in ("root", *USERS):
            done = ssh(department, host.name, "hostname; id -un; pwd", user=user)
            assert done.returncode == 0, done.stderr
            name, who, home = done.stdout.splitlines()[-3:]
            assert (name, who) == (host.name, user)
            assert home == os.path.expanduser("~root") if user == "root" else f"/home/{user}"


def test_noisy_users_talk_before_the_command_does(department):
    for user in ("cleo", "nora"):
        assert ssh(department, "node01", "true", user=user).stdout.startswith(f"Welcome, {user}.\n")
    assert ssh(department, "node01", "echo $shell", user="cleo").stdout.endswith("/bin/csh\n")
    assert "quota" in ssh(department, "node01", "true", user="nora").stderr
    assert ssh(department, "node01", "true", user="ada").stdout == ""


def test_asyncssh_logs_in_also_through_the_bastion_and_copies_files(make_department, tmp_path):
    department = make_department(2, node02={"behind": "node01"})

    async def visit(name: str) -> str:
        async with asyncssh.connect(
            name, username="ada", config=[str(department.full_ssh_config)], agent_path=None
        ) as connection:
            async with connection.start_sftp_client() as files:
                await files.put(str(department.known_hosts), "copy")
            return (await connection.run("hostname; cat copy", check=True)).stdout

    for name in ("node01", "node02"):
        assert asyncio.run(visit(name)) == f"{name}\n{department.known_hosts.read_text()}"


def test_the_home_of_the_desk_is_all_that_asyncssh_needs(make_department):
    department = make_department(2, node02={"behind": "node01"})
    script = (
        "import asyncio, asyncssh, sys\n"
        "async def main():\n"
        "    async with asyncssh.connect(sys.argv[1]) as connection:\n"
        "        print((await connection.run('hostname; id -un')).stdout)\n"
        "asyncio.run(main())\n"
    )
    for host in department.hosts:
        for word in (host.name, host.address):
            done = subprocess.run(
                [sys.executable, "-c", script, word],
                env=department.environment,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.stdout.split() == [host.name, "root"], done.stderr


def test_without_the_key_nobody_logs_in(department):
    (department.desk / ".ssh" / "id_ed25519").write_bytes(b"")
    done = ssh(department, "node01")
    assert done.returncode == 255
    assert "Permission denied (publickey)" in done.stderr


def test_sshd_may_be_absent_or_silent_or_strict(make_department):
    department = make_department(
        3, node01={"sshd": False}, node02={"silent": True}, node03={"max_startups": "1:100:1"}
    )
    assert "Connection refused" in ssh(department, "node01").stderr
    with socket.create_connection((department["node02"].address, 22), 5) as connection:
        connection.settimeout(0.3)
        with pytest.raises(TimeoutError):
            connection.recv(1)
    with socket.create_connection((department["node03"].address, 22), 5) as first:
        assert first.recv(4) == b"SSH-"
        assert ssh(department, "node03").returncode == 255
    wait_for(lambda: reachable(department, "node03"), "a place is free again")


# -- what is private, what is not


def test_a_host_has_its_own_name_folders_and_processes(department):
    one, two = department["node01"], department["node02"]
    for folder in ("/tmp", "/var/tmp", "/dev/shm", "/home/scratch", "/run", "/var/log"):
        one.run(["touch", f"{folder}/mark-of-one"])
        assert two.run(["ls", folder]).stdout.split().count("mark-of-one") == 0
        assert not Path(folder, "mark-of-one").exists()
    one.run(["sh", "-c", "touch ~/mark-of-one"])
    assert not (Path.home() / "mark-of-one").exists()
    one.popen(["/usr/bin/env", "MARK=one", "sleep", "600"])
    wait_for(lambda: len(one.processes("MARK=one")) == 1, "it runs")
    assert department.processes("MARK=one") == {"node01": one.processes("MARK=one")}
    assert "sleep" in one.run(["ps", "ax"]).stdout
    assert "sleep" not in two.run(["ps", "ax"]).stdout
    assert two.run(["hostname"]).stdout == "node02\n" == two.run(["cat", "/etc/hostname"]).stdout
    assert socket.gethostname() != "node02"


def test_names_resolve_on_hosts_and_for_commands_that_want_it(department):
    look = "import socket, sys; print(socket.gethostbyname(sys.argv[1]))"
    words = [sys.executable, "-I", "-c", look]
    one, two = department["node01"], department["node02"]
    assert one.run([*words, "node02"]).stdout.strip() == two.address
    assert one.run([*words, "node01"]).stdout.strip() == "127.0.1.1"
    assert one.run([*words, "desk"]).stdout.strip() == department.network.desk
    done = subprocess.run(
        department.by_name([*words, "node02"]), capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == two.address
    assert two.address not in Path("/etc/hosts").read_text()


def test_shared_folders_are_the_same_on_shared_hosts_and_empty_on_others(make_department, tmp_path):
    department = make_department(2, node02={"shared": False}, share=[tmp_path])
    for folder in (tmp_path, department.shared_folder):
        (folder / "from-here").write_text("desk")
        one, two = department["node01"], department["node02"]
        assert one.run(["cat", f"{folder}/from-here"]).stdout == "desk"
        one.run(
            ["sh", "-c", f"echo one > {folder}/from-one"],
            user="ada" if folder != tmp_path else "root",
        )
        assert (folder / "from-one").read_text() == "one\n"
        assert two.run(["ls", str(folder)]).stdout == ""
        two.run(["touch", f"{folder}/from-two"])
        assert not (folder / "from-two").exists()


def test_every_user_has_the_python_of_the_tests_and_the_clone(department):
    script = "import dask_runner, sys; print(sys.prefix)"
    for user in ("root", "ada", "cleo"):
        done = department["node01"].run([sys.executable, "-I", "-c", script], user=user)
        assert done.stdout.strip() == sys.prefix


def test_a_host_may_have_another_python(make_department, tmp_path):
    bare, other = environment(tmp_path / "bare"), another(tmp_path / "other")
    options = {"node01": {"shared": False, "python": bare}, "node02": {"python": other}}
    # Neither is hidden by what is shared.
    department = make_department(3, share=[tmp_path], **options)
    assert version(other) != sys.version_info[:2]
    lines = department.hostfile().read_text().splitlines()
    assert [f'python="{bare}"' in lines[0], f'python="{other}"' in lines[1], "=" in lines[2]] == [
        True,
        True,
        False,
    ]
    script = "import sys; print(*sys.version_info[:2])"
    done = department["node02"].run([other, "-I", "-c", script])
    assert tuple(map(int, done.stdout.split())) == version(other)
    done = department["node01"].run([bare, "-I", "-c", "import dask_runner"], check=False)
    assert "No module named 'dask_runner'" in done.stderr


def test_the_hostfile_is_one_that_the_product_reads(make_department):
    from dask_runner.hostfile import load_hosts

    department = make_department(2)
    path = department.hostfile(
        slots=3, scratch="/home/scratch", per_host={"node02": {"user": "ada"}}
    )
    first, second = load_hosts(path)
    assert (first.address, first.slots, first.user) == (department["node01"].address, 3, "")
    assert (second.user, second.scratch) == ("ada", "/home/scratch")
    (only,) = load_hosts(department.hostfile(hosts=["node02"], names=True))
    assert only.address == "node02"


def test_what_is_missing_for_hosts_is_said_with_the_remedy(monkeypatch):
    look = missing.__wrapped__
    assert look() == ""
    with monkeypatch.context() as patch:
        patch.setitem(PROGRAMS, "no-such-program", "no-such-package")
        assert look() == "test hosts need: apt install no-such-package"
    monkeypatch.setattr(os, "geteuid", lambda: 4001)
    assert look() == "test hosts are network namespaces: they need root"


def test_departments_that_cannot_be_are_refused():
    for hosts, options in (
        (0, {}),
        (500, {}),
        (2, {"node03": {}}),
        (2, {"node01": {"behind": "node01"}}),
        (3, {"node01": {"behind": "node02"}, "node02": {"behind": "node03"}}),
    ):
        with pytest.raises(ValueError, match="host"):
            Department(hosts, **options)


# -- the end


def test_nothing_is_left(make_department, tmp_path):
    department = make_department(3, node02={"scratch_mb": 2}, node03={"behind": "node01"})
    department["node02"].popen(["sh", "-c", "sleep 600 & sleep 600"])
    department["node01"].kill()
    department["node01"].boot()
    spaces, leg = spaces_of(department), department.network.leg
    # Hosts and switch each have all five.
    assert len(spaces) == 4 * 5
    assert spaces <= namespaces()
    assert leg in os.listdir("/sys/class/net")
    department.close()
    gone(department.folder, leg, spaces)
    department.close()


@pytest.mark.parametrize("step", ["prepare", "start", "connect", "wait_ready"])
def test_nothing_is_left_of_a_half_built_department(step, monkeypatch, make_department):
    whole = make_department(1)
    spaces, folders, numbers = spaces_of(whole), [], []
    keep, claim, original = Keeper.__init__, Network._claim, getattr(Host, step)

    def note(self, folder, *arguments):
        folders.append(folder)
        keep(self, folder, *arguments)

    def note_number(self):
        numbers.append(claim(self))
        return numbers[-1]

    def fail(self):
        original(self)
        if self.name == "node02":
            raise RuntimeError("the builder stumbles")

    monkeypatch.setattr(Keeper, "__init__", note)
    monkeypatch.setattr(Network, "_claim", note_number)
    monkeypatch.setattr(Host, step, fail)
    with pytest.raises(RuntimeError, match="stumbles"):
        Department(3)
    (folder,) = set(folders)
    gone(folder, f"dept-{numbers[0]}", set())
    assert spaces_of(whole) == spaces
    assert reachable(whole, "node01")


BUILD = """
import sys
sys.path.insert(0, sys.argv[1])
from department import Department
department = Department(2)
print(department.folder, department.network.leg, department.switch.pid, *(host.pid for host in department.hosts), flush=True)
sys.stdin.read()
"""


def test_a_killed_builder_takes_its_hosts_along_and_clean_removes_the_rest():
    builder = subprocess.Popen(
        [sys.executable, "-I", "-c", BUILD, DEPARTMENT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    folder, leg, *pids = builder.stdout.readline().split()
    spaces = {os.readlink(f"/proc/{pid}/ns/net") for pid in pids}
    assert Path(folder) not in clean()
    assert spaces <= namespaces()
    builder.kill()
    builder.communicate()
    wait_for(lambda: not namespaces() & spaces, "the hosts end by themselves")
    assert Path(folder) in clean()
    # The kernel takes its time with the wires of a network that ended by itself.
    wait_for(lambda: leg not in os.listdir("/sys/class/net"), "the leg goes, too")
    gone(Path(folder), leg, spaces)


def test_two_departments_at_once_know_nothing_of_each_other(make_department):
    one, two = make_department(2), make_department(2)
    assert one["node01"].address != two["node01"].address
    assert one["node01"].public_key != two["node01"].public_key
    look = f"import socket; socket.create_connection(('{two['node01'].address}', 22), 1)"
    assert one["node01"].run([sys.executable, "-I", "-c", look], check=False).returncode != 0
    one["node01"].cut()
    assert reachable(two, "node01")
    one.close()
    assert reachable(two, "node02")


def test_a_large_department(make_department):
    department = make_department(32)
    commands = [department.ssh(host.name, "hostname") for host in department.hosts]
    visits = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    heard = [visit.communicate(timeout=60)[0].strip() for visit in visits]
    assert heard == [host.name for host in department.hosts]
