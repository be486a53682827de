"""What is made of a host's facts; the probe's own view of this machine."""

import ast
import os
import subprocess
import sys
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import pytest

from dask_runner.cluster.ssh import probe_script
from dask_runner.cluster.ssh.here import look_here
from dask_runner.cluster.ssh.probe import OldPythonError, Request, probe_local
from dask_runner.cluster.ssh.report import Check, DoubtfulPath, HostFacts, HostReport
from dask_runner.cluster.ssh.verdicts import Expected, judge, refuse_twins, token_lifetime
from dask_runner.errors import ClusterError
from dask_runner.hostfile import Host
from dask_runner.reports import host_checks_text, terminal
from dask_runner.reports.host_checks import host_checks
from dask_runner.versions import versions

HOST = Host(address="tev01")
EXPECTED = Expected(
    versions={"python": "3.11.7", "numpy": "2.1.0", "dask-runner": "1+abc"},
    token="t",
    numerics="f00d",
    scratch_floor=200_000_000,
    probe="/data/probe",
    call_port=1,
)


def facts(**changes: Any) -> HostFacts:
    values = {
        "hostname": "tev01",
        "boot_id": "b",
        "pid_namespace": "p",
        "python": "3.11.7",
        "executable": "/opt/python",
        "versions": {"numpy": "2.1.0", "dask-runner": "1+abc"},
        "cores": 8,
        "memory_total": 16_000_000_000,
        "memory_free": 8_000_000_000,
        "load": 1.0,
        "uid": 1000,
        "user": "ada",
        "home": "/home/ada",
        "cache": "/home/ada/.cache/dask-runner",
        "scratch": "/tmp",
        "scratch_free": 10_000_000_000,
        "scratch_error": "",
        "shared": "yes",
        "server_address": "10.0.0.1",
        "reaches_us": True,
        "reached": True,
        "numerics": "f00d",
        "home_free": 1_000_000_000,
    }
    return HostFacts(**{**values, **changes})


def verdicts(found: HostFacts, expected: Expected = EXPECTED) -> dict[str, Check]:
    return {check.name: check for check in judge(HOST, found, expected, thorough=True)}


def test_a_good_host_has_no_complaint():
    assert {check.verdict for check in verdicts(facts()).values()} == {"ok"}


@pytest.mark.parametrize(
    ("changes", "name", "verdict", "words"),
    [
        ({"python": "3.10.4"}, "python", "fail", ["3.10.4", "3.11.7"]),
        ({"python": "3.11.9"}, "python", "warn", ["3.11.9", "3.11.7"]),
        (
            {"versions": {"numpy": "1.9", "dask-runner": "1+abc"}},
            "packages",
            "fail",
            ["1.9", "2.1.0"],
        ),
        (
            {"versions": {"numpy": "2.1.0", "dask-runner": "1+d"}},
            "packages",
            "fail",
            ["1+d", "1+abc"],
        ),
        ({"versions": {"dask-runner": "1+abc"}}, "packages", "fail", ["missing", "2.1.0"]),
        ({"versions": {}}, "packages", "fail", ["no dask-runner"]),
        ({"numerics": "beef"}, "numerics", "fail", ["beef", "f00d"]),
        ({"numerics_error": "boom"}, "numerics", "fail", ["boom"]),
        ({"scratch_free": 1}, "scratch", "fail", ["0.0 GB", "0.2 GB"]),
        ({"scratch_error": "Read-only file system"}, "scratch", "fail", ["Read-only"]),
        ({"memory_free": 1}, "memory", "warn", ["0.0 GB"]),
        ({"load": 20.0}, "load", "warn", ["20.0", "8 cores"]),
        ({"clock_offset": 3600.0, "clock_error": 0.1}, "clock", "warn", ["3600 s ahead"]),
        (
            {"clock_offset": -90000.0, "clock_error": 0.1},
            "clock",
            "fail",
            ["behind", "certificates"],
        ),
        ({"clock_offset": 6.0, "clock_error": 3.0}, "clock", "ok", []),
        ({"shared": "no"}, "shared folder", "warn", ["/data", "not seen"]),
        ({"shared": "read-only"}, "shared folder", "warn", ["by ada"]),
        ({"reaches_us": False}, "ports", "warn", ["it cannot reach", "tunnelled"]),
        ({"reached": False}, "ports", "warn", ["we cannot reach", "tunnelled"]),
        ({"home_free": 1}, "home", "warn", ["/home/ada"]),
        ({"kills_at_logout": True}, "linger", "ok", []),
        ({"kills_at_logout": True, "server_address": ""}, "linger", "warn", ["logout"]),
        (
            {"doubtful_paths": (DoubtfulPath("/x", "anybody", "R"),)},
            "import path",
            "fail",
            ["/x", "R"],
        ),
        (
            {"doubtful_paths": (DoubtfulPath("/x", "owner", "R"),)},
            "import path",
            "warn",
            ["/x", "R"],
        ),
    ],
)
def test_each_fault_has_its_verdict_words_and_fix(changes, name, verdict, words):
    found = verdicts(facts(**changes))
    check = found.pop(name)
    assert check.verdict == verdict
    assert all(word in check.text for word in words), check.text
    assert verdict == "ok" or (check.fix and HOST.address in check.text)
    assert {other.verdict for other in found.values()} == {"ok"}


def test_a_folder_that_must_be_shared_is_missed():
    expected = Expected(versions=EXPECTED.versions, token="t", staging="shared", probe="/data/p")
    assert verdicts(facts(shared="no"), expected)["shared folder"].verdict == "fail"


@pytest.mark.parametrize(
    ("words", "hours"),
    [
        (
            "Valid starting  Expires  Service\n11/21/26 09:00:00  11/22/26 10:00:00  krbtgt/X@X\n",
            25,
        ),
        ("11/21/2026 09:00:00  11/21/2026 10:00:00  krbtgt/X@X\n", 1),
        ("11/20/26 09:00:00  11/21/26 08:00:00  krbtgt/X@X\n", -1),
    ],
)
def test_the_life_of_a_ticket(words, hours):
    left = token_lifetime(words, datetime.fromisoformat("2026-11-21 09:00:00"))
    assert left is not None
    assert left.total_seconds() == hours * 3600


def test_no_ticket_is_no_life():
    assert (
        token_lifetime("klist: No credentials cache found\n", datetime.fromisoformat("2026-11-21"))
        is None
    )


def test_two_names_of_one_machine():
    reports = [
        HostReport(host="a", checks=(), facts=facts()),
        HostReport(host="b", checks=(), facts=facts(pid_namespace="q")),
        HostReport(host="c", checks=(), facts=facts()),
        HostReport(host="d", checks=()),
    ]
    assert [report.ok for report in refuse_twins(reports)] == [True, True, False, True]


REQUEST = Request(
    scratch="", packages=tuple(set(versions()) - {"python", "dask-runner"}), token="t"
)


def test_the_probe_sees_this_machine_as_it_is(tmp_path):
    host = Host(address="localhost", python=sys.executable)
    found = probe_local(host, REQUEST, patience=60.0)
    assert {"python": found.python, **found.versions} == versions()
    assert found.memory_total <= psutil.virtual_memory().total
    assert 1 <= found.cores <= len(os.sched_getaffinity(0))
    assert found.uid == os.getuid()
    assert found.scratch == tempfile.gettempdir()
    assert found.scratch_error == ""


def test_how_the_user_came_here_says_nothing_about_this_machine(monkeypatch):
    monkeypatch.setenv("SSH_CONNECTION", "10.0.0.7 50000 10.0.0.1 22")
    host = Host(address="localhost", python=sys.executable)
    assert probe_local(host, REQUEST, patience=60.0).server_address == ""


PROGRAMS = {
    "loginctl": 'case "$*" in *KillUserProcesses*) echo KillUserProcesses=yes;; *) echo Linger=no;; esac',
    "klist": "echo '11/20/20 08:00:00  11/20/20 18:00:00  krbtgt/UNI@UNI'",
}


def test_what_may_end_a_cluster_in_the_background_is_said_also_to_who_came_by_ssh(
    monkeypatch, tmp_path
):
    for name, words in PROGRAMS.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{words}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("SSH_CONNECTION", "10.0.0.7 50000 10.0.0.1 22")

    def warnings(**how: bool) -> dict[str, str]:
        return {c.name: c.text for c in look_here(**how) if c.verdict == "warn"}

    found = warnings(detached=True)
    assert found["linger"].startswith("this machine: systemd ends your processes")
    assert "this machine: its Kerberos ticket lives no more" in found["tokens"]
    assert {*warnings(detached=False)} == {*found} - {"linger"}, "it ends with its terminal anyway"


def test_a_limit_of_the_control_group_is_memory_that_is_not_there(monkeypatch, tmp_path):
    free = probe_script.memory()[1]
    for name, words in (
        ("memory.max", "1000000"),
        ("memory.current", "900000"),
        ("memory.stat", "anon 100000\ninactive_file 600000\n"),
    ):
        (tmp_path / name).write_text(words)
    monkeypatch.setattr(probe_script, "_cgroups", lambda: [str(tmp_path)])
    assert free > 1_000_000
    assert probe_script.memory() == (1_000_000, 700_000), "the cache is given up when needed"
    (tmp_path / "memory.max").write_text("max")
    assert probe_script.memory()[0] > 1_000_000


def test_a_probe_file_tells_shared_folders_apart(tmp_path):
    probe = tmp_path / "probe"
    host = Host(address="localhost", python=sys.executable)

    def seen() -> str:
        request = Request(scratch="", packages=(), token="t", probe=str(probe))
        return probe_local(host, request, patience=60.0).shared

    assert seen() == "no"
    probe.write_text("another's")
    assert seen() == "other"
    probe.write_text("t")
    assert seen() == "yes"


def test_places_that_others_could_change(tmp_path, monkeypatch):
    for name, mode in (("mine", 0o755), ("open", 0o777), ("group", 0o775)):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(mode)
    # What the probe imports when it needs it is no longer found below.
    assert probe_script._user_name(0)
    assert probe_script._group_name(0)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "mine"))
    monkeypatch.setattr(sys, "path", [str(tmp_path / name) for name in ("open", "group", "none")])

    def kinds(uid: int) -> dict[str, str]:
        return {Path(path).name: kind for path, kind, _ in probe_script._doubtful_paths(uid)}

    assert kinds(os.getuid())["open"] == "anybody"
    assert "mine" not in kinds(os.getuid())
    if os.getuid() == 0:
        os.chown(tmp_path / "group", 0, 12345)
        os.chown(tmp_path / "mine", 12345, 12345)
        assert kinds(0) == {"mine": "owner", "open": "anybody", "group": "group"}
        assert kinds(12345) == {"open": "anybody", "group": "group"}


def test_a_scratch_that_cannot_be_written_to(tmp_path):
    assert probe_script._why_not_writable(str(tmp_path / "not" / "yet")) == ""
    assert probe_script._why_not_writable("/proc/sys") != ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("/opt/none", ["is not there", "/opt/none"]),
        ("/etc/passwd", ["cannot be executed"]),
        ("/bin/false", ["was not run", "exit code 1"]),
    ],
)
def test_a_python_that_is_none_is_named(program, words):
    with pytest.raises(ClusterError) as caught:
        probe_local(Host(address="localhost", python=program), REQUEST, patience=10.0)
    assert all(word in caught.value.message for word in words), caught.value.message
    assert caught.value.hint


def test_an_old_python_tells_its_version(tmp_path):
    python = tmp_path / "python"
    python.write_text(
        f"#!/bin/sh\nexec {sys.executable} -c 'import sys; sys.version_info = (2, 7, 5)\n"
        'sys.version = "2.7.5 (x)"\nexec(sys.stdin.read())\'\n'
    )
    python.chmod(0o755)
    with pytest.raises(OldPythonError) as caught:
        probe_local(Host(address="localhost", python=str(python)), REQUEST, patience=10.0)
    assert caught.value.version == "2.7.5"


def test_the_probe_needs_nothing_heavy_and_nothing_new():
    source = Path(probe_script.__file__).read_text()
    ast.parse(source, feature_version=(3, 7))
    done = subprocess.run(
        [
            sys.executable,
            "-I",
            "-c",
            f"import sys; exec({source!r}, {{'__name__': 'x'}}); print(*sys.modules)",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    heavy = {"json", "re", "subprocess", "shutil", "tempfile", "typing", "dask_runner"}
    bare = subprocess.run(
        [sys.executable, "-I", "-c", "import sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert not heavy & (set(done.stdout.split()) - set(bare.stdout.split()))


def test_the_table_has_a_row_for_each_host_and_the_problems_below():
    bad = Check(name="port", verdict="fail", text="tev02: port 22 refuses", fix="start sshd")
    reports = [
        HostReport(host="tev01", checks=tuple(judge(HOST, facts(), EXPECTED, thorough=True))),
        HostReport(host="tev02", checks=(Check(name="name", verdict="ok", text=""), bad)),
    ]
    view = host_checks("hosts.txt", reports)
    pieces = host_checks_text.host_checks(view)
    text = "\n".join(str(piece) for piece in pieces[1:])
    assert "FAIL tev02: port 22 refuses" in text
    assert "fix: start sshd" in text
    assert "1 of 2 hosts of hosts.txt" in text
    assert pieces[0].row_count == 2
    assert terminal.render(view)
