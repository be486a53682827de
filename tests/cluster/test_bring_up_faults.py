"""`up` before hosts with every kind of trouble: each is named with its cause and its fix, in time,
and the rest works.

One department and one cluster for all tests; those that change something come last.
"""

import json
import shutil
import socket
import sysconfig
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from department import Department
from department.pythons import another, environment
from product import wait_for
from rig import Rig, know_numerics

import dask_runner
from dask_runner.errors import EXIT_CLUSTER, EXIT_USAGE
from dask_runner.versions import versions

# Less than the kernel's own for a neighbour that is gone.
PATIENCE = 2.5
CLOCK = 3600
# What a shell would act on, were it ever asked.
PLANT = "touch /home/scratch/planted"
HOSTILE = f"/home/scratch/$({PLANT})`{PLANT}`;{PLANT} '!"

# Why each of these is a good host all the same.
GOOD = {
    "node01": "a bastion",
    "node02": "csh, and an sshd that turns away at first",
    "node03": "an rc file that talks, and a scratch whose name looks like shell code",
    "node04": "behind the bastion",
    "node05": "a clock that is an hour ahead, as far as Python reads it",
}
# What is said of each of these, and what to do about it.
BAD = {
    # No answer in time; or later, as the kernel has learned that by then, no route.
    "node06": ("port 22 of {address}", "is it switched on"),
    "node07": ("port 22 of {address} refuses connections", "start sshd"),
    "node08": ("accepts connections but says nothing", "its sshd hangs"),
    "node09": ("its host key has CHANGED", "ssh-keygen"),
    "node10": ("is not known", "dask-runner hosts trust"),
    "node11": ("login as root refused", "ssh-copy-id"),
    "node12": ("python {hostile} is not there: ", "python=/PATH"),
    "node13": ("python is {other} there, {python} here", "install Python {python} there"),
    "node14": ("msgspec is 0.0.1 there, {msgspec} here", "pip install msgspec=={msgspec}"),
    "node15": ("has no dask-runner", "pip install dask-runner"),
    "node16": ("cannot be written to: Permission denied", "scratch=/PATH"),
    "node17": ("cannot be written to: No space left on device", "scratch=/PATH"),
    "node18": ("exit code 3): no license today", "the hostfile's setup may fail"),
}
# Only the user can put these right: nothing is tried again by itself.
FINAL = ("node09", "node10", "node11")


class Trouble:
    """A cluster of good and bad hosts, brought up once; `status` is what `up` said of it."""

    def __init__(self, folder: Path, pythons: Path) -> None:
        self.pythons = {
            "node05": _other_clock(pythons / "clock"),
            "node13": another(pythons / "another"),
            "node14": _other_packages(pythons / "packages"),
            "node15": environment(pythons / "none"),
        }
        self.department = self._department(folder)
        self.rig = Rig(folder, self.department)

    def up(self) -> None:
        self._break_hosts()
        self._write_hostfile()
        self.rig.environment["DASK_RUNNER_CLUSTER_CONNECT_TIMEOUT"] = f"{PATIENCE:g}"
        # In MB: node17 has little even when it is empty.
        self.rig.environment["DASK_RUNNER_CLUSTER_SCRATCH_FLOOR"] = "5"
        began = time.monotonic()
        with _storm(self.department, "node02"):
            self.status = self.rig.up()
        self.seconds = time.monotonic() - began

    def address(self, host: str) -> str:
        return self.department[host].address

    def of(self, host: str) -> dict:
        """Its status; of two names of a machine it is chance which is the good one."""
        names = {host, self.address(host)}
        found = [one for one in self.status["hosts"] if one["name"] in names]
        return max(found, key=lambda one: one["phase"] == "up")

    def logins(self, host: str) -> int:
        """How often somebody came to its sshd."""
        return self.department[host].sshd_log().count("Connection from")

    def _department(self, folder: Path) -> Department:
        options: dict[str, dict] = {
            "node02": {"max_startups": "2:100:2"},
            "node04": {"behind": "node01"},
            "node07": {"sshd": False},
            "node08": {"silent": True},
            "node17": {"scratch_mb": 16},
            **{host: {"python": python} for host, python in self.pythons.items()},
        }
        return Department(len(GOOD) + len(BAD), share=[folder], **options)

    def _break_hosts(self) -> None:
        hosts = self.department
        hosts["node06"].kill()
        hosts["node09"].swap_key()
        hosts.write_known_hosts(without=["node10"])
        known = hosts.known_hosts.read_text()
        # The old key is known, the new one shown.
        hosts["node09"].swap_key()
        assert hosts["node09"].public_key not in known
        (hosts["node11"].ssh / "authorized_keys").write_text("")
        hosts["node17"].fill_scratch()
        setup = hosts["node18"].path("/home/scratch/setup.sh")
        setup.write_text("echo no license today >&2\nexit 3\n")
        for host, user in (("node02", "cleo"), ("node03", "nora")):
            know_numerics(hosts[host], user)

    def _write_hostfile(self) -> None:
        self.rig.write_hostfile(
            slots=1,
            node02={"user": "cleo"},
            node03={"user": "nora", "scratch": HOSTILE},
            node12={"user": "cleo", "python": HOSTILE},
            node16={"user": "ada", "scratch": "/var/log"},
            node17={"scratch": "/home/scratch"},
            node18={"setup": "/home/scratch/setup.sh"},
        )
        with self.rig.hostfile.open("a") as file:
            file.write(f'node03 user=nora slots=1 scratch="{HOSTILE}"\n')


def _other_clock(folder: Path) -> str:
    """A Python with our packages, for which it is an hour later."""
    python = environment(folder)
    (site,) = folder.glob("lib/python*/site-packages")
    lines = ["import time", "now, now_ns = time.time, time.time_ns"]
    lines += [f"time.time = lambda: now() + {CLOCK}"]
    lines += [f"time.time_ns = lambda: now_ns() + {CLOCK} * 10**9"]
    # Not sitecustomize: Debian has one of its own, which comes first.
    (site / "clock.py").write_text("\n".join(lines) + "\n")
    (site / "clock.pth").write_text("import clock\n")
    paths = [sysconfig.get_path("purelib"), str(Path(dask_runner.__file__).parents[1])]
    (site / "ours.pth").write_text("\n".join(paths) + "\n")
    return python


def _other_packages(folder: Path) -> str:
    """A Python with our packages, but for the version of one, and an edited dask-runner."""
    python = environment(folder)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "msgspec-0.0.1.dist-info").mkdir()
    (site / "msgspec-0.0.1.dist-info" / "METADATA").write_text("Name: msgspec\nVersion: 0.0.1\n")
    source = Path(dask_runner.__file__).parent
    copy = shutil.copytree(
        source, site / "dask_runner", ignore=shutil.ignore_patterns("__pycache__")
    )
    with (copy / "version.py").open("a") as file:
        file.write("# edited\n")
    (site / "ours.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


@contextmanager
def _storm(department: Department, host: str) -> Iterator[None]:
    """So many come to a host's sshd at once that it turns us away at first."""
    with ExitStack() as stack:
        crowd = []
        for _ in range(2):
            guest = socket.create_connection((department[host].address, 22), timeout=10)
            stack.callback(guest.close)
            guest.recv(100)
            crowd.append(guest)

        def leave() -> None:
            wait_for(lambda: "past MaxStartups" in department[host].sshd_log(), "to be turned away")
            for guest in crowd:
                guest.close()

        leaver = threading.Thread(target=leave)
        leaver.start()
        stack.callback(leaver.join)
        yield


@pytest.fixture(scope="module")
def trouble(_can_build: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trouble]:
    made = Trouble(tmp_path_factory.mktemp("trouble"), tmp_path_factory.mktemp("pythons"))
    with made.department:
        try:
            made.up()
            yield made
        finally:
            made.rig.close()


def words_of(trouble: Trouble, host: str) -> list[str]:
    """What should be said of a bad host."""
    ours = versions()
    other = ""
    if host == "node13":
        script = "import sys; print('.'.join(map(str, sys.version_info[:3])))"
        other = trouble.department[host].run([trouble.pythons[host], "-c", script]).stdout.strip()
    return [
        text.format(
            address=trouble.address(host),
            hostile=HOSTILE,
            other=other,
            python=ours["python"],
            msgspec=ours["msgspec"],
        )
        for text in BAD[host]
    ]


@pytest.mark.parametrize("host", GOOD)
def test_a_good_host_comes_up(trouble, host):
    found = trouble.of(host)
    assert found["phase"] == "up", found
    assert not found.get("errors")
    assert found.get("tunnelled", False) == (host == "node04")


@pytest.mark.parametrize("host", BAD)
def test_a_bad_host_is_left_out_with_the_reason_and_the_fix(trouble, host):
    found = trouble.of(host)
    reason, fix = words_of(trouble, host)
    assert found["phase"] == "left out"
    assert reason in found["reason"]
    assert fix in found["hint"]


def test_an_edited_dask_runner_is_refused_and_both_are_named(trouble):
    reason = trouble.of("node14")["reason"]
    assert f"{versions()['dask-runner']} here" in reason
    assert "dask-runner is 0" in reason


def test_a_host_turned_away_by_its_sshd_tries_again_at_once(trouble):
    # Never left out meanwhile: its errors are empty, as of every good host.
    assert "past MaxStartups" in trouble.department["node02"].sshd_log()


def test_of_two_names_of_a_machine_one_is_refused(trouble):
    names = {"node03", trouble.address("node03")}
    twins = [host for host in trouble.status["hosts"] if host["name"] in names]
    assert sorted(twin["phase"] for twin in twins) == ["left out", "up"]
    (refused,) = (twin for twin in twins if twin["phase"] == "left out")
    (other,) = names - {refused["name"]}
    assert f"the same machine as {other}" in refused["reason"]
    assert "remove" in refused["hint"]


def test_a_wrong_clock_is_said(trouble):
    warnings = trouble.of("node05").get("warnings", [])
    assert [text for text in warnings if f"its clock is {CLOCK} s ahead" in text], warnings


def test_nobody_is_waited_for_longer_than_the_timeout(trouble):
    assert (
        f"no answer from port 22 of {trouble.address('node06')}" in trouble.of("node06")["reason"]
    )
    # The dead and the silent host; what is above the timeout is the work of the good ones.
    for host in ("node06", "node08"):
        found = trouble.of(host)
        tried = trouble.status["up_for"] - found["since"]
        assert PATIENCE <= tried < PATIENCE + 5.0
    assert trouble.seconds < 40.0


def test_status_tells_all_of_it_and_names_each_host_once(trouble):
    text = trouble.rig.run("status").stdout
    for host in BAD:
        reason, fix = words_of(trouble, host)
        flat = " ".join(text.split())
        assert " ".join(reason.split()) in flat, host
        assert " ".join(fix.split()) in flat, host
        assert f"{trouble.address(host)}: {trouble.address(host)}:" not in flat


def test_no_shell_acted_on_what_is_in_the_hostfile(trouble):
    for host in ("node03", "node12"):
        assert not trouble.department[host].path("/home/scratch/planted").exists()
    assert trouble.department["node03"].path(HOSTILE).is_dir()


@pytest.mark.parametrize(
    "line",
    [f"$({PLANT})", f"`{PLANT}`", "-oProxyCommand=touch$IFS/tmp/planted", "node01;reboot"],
)
def test_an_address_that_is_none_is_refused_with_its_line(trouble, tmp_path, line):
    hostfile = tmp_path / "hostile.txt"
    hostfile.write_text(f"node01\n{line}\n")
    done = trouble.rig.run("up", "--hostfile", str(hostfile), "--name", "x", expect=EXIT_USAGE)
    assert f"{hostfile}:2:" in done.stderr.replace("\n", "")


def test_a_second_cluster_of_that_name_is_refused(trouble):
    done = trouble.rig.run("up", "--detach", expect=EXIT_CLUSTER)
    assert "a cluster called main is up already" in done.stderr
    assert "dask-runner down" in done.stderr
    assert trouble.rig.status()["pid"] == trouble.status["pid"]


def test_all_good_hosts_run_batches(trouble):
    rig = trouble.rig
    script = 'sleep 0.5; echo "$0" > "$1"'
    rig.run("command", "-n", "12", "--", "/bin/sh", "-c", script, "{index}", "{output}")
    hosts = Counter(line["host"] for line in rig.lines("started"))
    up = {host["name"] for host in rig.status()["hosts"] if host["phase"] == "up"}
    assert set(hosts) == up
    assert len(up) == len(GOOD)
    assert rig.check_while_up(finished=True).done == set(range(12))
    test_no_shell_acted_on_what_is_in_the_hostfile(trouble)


def test_too_few_hosts_end_the_cluster_with_all_reasons(trouble):
    hosts = [trouble.address(host) for host in ("node01", "node06", "node12")]
    words = ("--name", "few", "--min-hosts", "2", "--hosts", ",".join(hosts))
    done = trouble.rig.run("up", "--detach", *words, expect=EXIT_CLUSTER)
    flat = " ".join(done.stderr.split())
    assert "1 of 3 hosts came up, 2 are wanted" in flat
    for host in ("node06", "node12"):
        reason, fix = words_of(trouble, host)
        assert reason.strip() in flat
        assert fix in flat
    assert [cluster["name"] for cluster in trouble.rig.json("status")["clusters"]] == ["main"]
    assert not _processes(trouble, "few-")


def test_a_scheduler_on_a_host_that_is_dead_is_said_at_once(trouble):
    hosts = [trouble.address(host) for host in ("node01", "node07")]
    words = ("--name", "headless", "--hosts", ",".join(hosts), "--scheduler", hosts[1])
    began = time.monotonic()
    done = trouble.rig.run("up", "--detach", *words, expect=EXIT_CLUSTER)
    assert "the scheduler did not start" in done.stderr
    assert "refuses connections" in done.stderr
    assert time.monotonic() - began < 20.0
    wait_for(lambda: not _processes(trouble, "headless-"), "its end")


def test_a_second_cluster_is_beside_the_first_and_has_its_scheduler_on_a_host(trouble):
    rig = trouble.rig
    hosts = [trouble.address(host) for host in ("node01", "node02")]
    words = ("--name", "other", "--hosts", ",".join(hosts), "--scheduler", hosts[1])
    status = json.loads(rig.run("up", "--detach", "--json", *words).stdout)
    assert [host["phase"] for host in status["hosts"]] == ["up", "up"]
    assert status["scheduler"] == hosts[1]
    assert hosts[1] in status["address"]

    job = ("command", "-n", "4", "--", "/bin/sh", "-c", 'sleep 0.2; : > "$0"', "{output}")
    done = rig.run(*job, expect=EXIT_CLUSTER)
    assert "several clusters are up: main, other" in done.stderr
    assert "--cluster" in done.stderr
    done = rig.run(*job[:3], "--cluster", "other", *job[3:])
    assert "using cluster other" in done.stderr
    assert {line["host"] for line in rig.lines("started")} == set(hosts)
    assert rig.check_while_up(finished=True).done == set(range(4))

    done = rig.run("down", expect=EXIT_USAGE)
    assert "several clusters are up: main, other" in done.stderr
    rig.run("down", "--name", "other")
    assert not _processes(trouble, "other+")
    assert _processes(trouble, "main+")


def test_hosts_that_are_repaired_join_by_themselves(trouble):
    trouble.department["node06"].boot()
    trouble.department["node17"].empty_scratch()
    know_numerics(trouble.department["node06"])
    trouble.rig.wait_phase("node06", "up")
    assert trouble.logins("node06") == 1


def test_what_only_the_user_can_repair_is_not_tried_again_until_he_says_so(trouble):
    # By now others were tried again several times.
    assert {host: trouble.logins(host) for host in FINAL} == dict.fromkeys(FINAL, 1)
    assert trouble.department["node11"].sshd_log().count("Failed publickey") <= 1
    trouble.department.write_known_hosts()
    know_numerics(trouble.department["node10"])
    trouble.rig.run("hosts", "add", trouble.address("node10"))
    trouble.rig.wait_phase("node10", "up")


def test_down_waits_for_no_host_that_does_not_answer_and_leaves_nothing(trouble):
    began = time.monotonic()
    trouble.rig.run("down")
    assert time.monotonic() - began < 8.0
    trouble.rig.nothing_left()
    for host in trouble.department.hosts:
        if host.alive:
            for folder in ("/tmp", "/var/tmp", "/home/scratch", HOSTILE):
                # Private folders of agents have an @ in their names.
                left = host.path(folder).glob("dask*@*")
                assert not list(left), f"{host.name}: {folder}"


def _processes(trouble: Trouble, prefix: str) -> list[int]:
    """The processes of clusters whose marker begins so."""
    found = []
    for pid in trouble.rig.cluster_processes():
        try:
            environ = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            continue
        if f"DASK_RUNNER_CLUSTER={prefix}".encode() in environ:
            found.append(pid)
    return found
