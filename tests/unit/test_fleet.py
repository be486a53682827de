"""Hosts as one, without SSH: patterns of hosts, prefixed output, the scripts on this machine."""

import asyncio
import io
import json
import os
import pty
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_runner.cli.prefixing import PrefixedOutput
from dask_runner.cluster.fleet import commands as fleet
from dask_runner.cluster.fleet import exec_script, processes_script
from dask_runner.cluster.ssh.connector import Connector
from dask_runner.errors import ClusterError, UsageError
from dask_runner.hostfile import Host, parse_hosts, select_hosts

HOSTS = parse_hosts("tev[01-03].example.org\nTev11\nfarm-a\n[fe80::1]", "hosts")
HERE = Host(address="localhost")


def names(pattern):
    return [host.address for host in select_hosts(HOSTS, pattern)]


# -- patterns


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("", [host.address for host in HOSTS]),
        (" ", [host.address for host in HOSTS]),
        ("farm-a", ["farm-a"]),
        ("tev*", ["tev01.example.org", "tev02.example.org", "tev03.example.org", "Tev11"]),
        ("TEV1?", ["Tev11"]),
        ("tev0[12]*", ["tev01.example.org", "tev02.example.org"]),
        ("farm-a, tev11", ["Tev11", "farm-a"]),
        ("!tev*", ["farm-a", "fe80::1"]),
        ("!tev02*,tev0*", ["tev01.example.org", "tev03.example.org"]),
        ("tev*,!tev0*,!farm-a", ["Tev11"]),
        ("[fe80::1]", ["fe80::1"]),
        ("fe80::1", ["fe80::1"]),
        ("fe80*", ["fe80::1"]),
    ],
)
def test_patterns_choose_hosts_in_the_hostfiles_order(pattern, expected):
    assert names(pattern) == expected


@pytest.mark.parametrize(
    ("pattern", "message", "hint"),
    [
        ("farm-b", "no host matches 'farm-b'", "did you mean farm-a?"),
        ("tev*,!node", "no host matches '!node'", "the hosts are tev01.example.org, "),
        ("farm-a,!farm*", "leaves no host", "the hosts are"),
        ("!*", "leaves no host", "the hosts are"),
        (",", "leaves no host", "the hosts are"),
    ],
)
def test_a_pattern_without_hosts_is_a_slip(pattern, message, hint):
    with pytest.raises(UsageError) as caught:
        select_hosts(HOSTS, pattern)
    assert message in caught.value.message
    assert hint in caught.value.hint


@given(st.sets(st.sampled_from([host.address for host in HOSTS]), min_size=1))
def test_names_choose_exactly_themselves(chosen):
    assert set(names(",".join(chosen))) == chosen


# -- output


@contextmanager
def written_to(name):
    """What is written to sys.stdout or sys.stderr, as a function to read it."""
    with tempfile.TemporaryFile("w+b") as file, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, name, io.TextIOWrapper(file, write_through=True))

        def read():
            file.seek(0)
            return file.read()

        yield read
        getattr(sys, name).detach()


@given(
    st.lists(st.tuples(st.sampled_from(["a", "long"]), st.text("xyz\n", max_size=9)), max_size=30)
)
def test_whatever_the_pieces_lines_stay_whole(pieces):
    with written_to("stdout") as read:
        output = PrefixedOutput(["a", "long"])
        for host, text in pieces:
            output.write(host, False, text.encode())
        output.close()
        lines = read().decode().splitlines()
    for host in ("a", "long"):
        prefix = f"{host:<4}| "
        said = [line.removeprefix(prefix) for line in lines if line.startswith(prefix)]
        whole = "".join(text for name, text in pieces if name == host)
        assert said == whole.removesuffix("\n").split("\n") if whole else not said


def test_a_line_that_never_ends_is_broken():
    with written_to("stdout") as read:
        output = PrefixedOutput(["a"])
        for _ in range(40):
            output.write("a", False, b"x" * 65536)
        output.close()
        lengths = [len(line) for line in read().splitlines()]
    assert lengths == [3 + (1 << 20), 3 + (1 << 20), 3 + (1 << 19)]


def test_stderr_of_a_host_goes_to_ours():
    with written_to("stdout") as read, written_to("stderr") as read_errors:
        PrefixedOutput(["a"]).write("a", True, b"bad\n")
        assert (read(), read_errors()) == (b"", b"a| bad\n")


def test_a_terminal_is_not_told_to_do_anything(monkeypatch):
    leader, follower = pty.openpty()
    monkeypatch.delenv("NO_COLOR", raising=False)
    with os.fdopen(follower, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        output = PrefixedOutput(["one", "two"])
        output.write("two", False, "tab\t \x1b[2J\x07 é \u202e \r\n".encode() + b"\xff\n")
        said = os.read(leader, 1000)
    os.close(leader)
    assert said == (
        b"\x1b[33mtwo| \x1b[0mtab\t \\x1b[2J\\x07 \xc3\xa9 \\u202e \r\n"
        b"\x1b[33mtwo| \x1b[0m\\xff\r\n"
    )


# -- all at once


def on_all(action):
    hosts = [Host(address=name) for name in ("a", "b", "c")]
    return asyncio.run(fleet.on_all(hosts, action, lambda host, error: error.message))


def test_one_bad_host_stops_no_other():
    async def action(host):
        await asyncio.sleep(0)
        if host.address == "b":
            raise ClusterError("no b")
        return host.address

    assert on_all(action) == ["a", "no b", "c"]


def test_a_bug_ends_the_others_first():
    ended = []

    async def action(host):
        try:
            if host.address == "b":
                await asyncio.sleep(0.01)
                raise ValueError("a bug")
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)
            ended.append(host.address)

    with pytest.raises(ValueError, match="a bug"):
        on_all(action)
    assert sorted(ended) == ["a", "b", "c"]


# -- scripts


def wait_for(condition, patience=20.0):
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, "in vain"
        time.sleep(0.02)


def start_exec(words, *, lease):
    source = Path(exec_script.__file__).read_bytes()
    request = {"words": words, "shell": False, "input": False, "grace": 0.2}
    body = json.dumps({**request, "lease": lease, "nonce": "n"}).encode()
    process = subprocess.Popen(
        [
            *(sys.executable, "-I", "-c"),
            "import sys;r=sys.stdin.buffer;exec(r.read(int(r.readline())))",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    process.stdin.write(b"%d\n%s%d\n%s" % (len(source), source, len(body), body))
    process.stdin.flush()
    return process


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_host_that_hears_nothing_more_ends_the_command():
    program = "import signal,subprocess as s,time; signal.signal(15, signal.SIG_IGN)\n"
    program += "print(s.Popen(['sleep', '600'], start_new_session=True).pid, flush=True)\n"
    program += "time.sleep(600)"
    # Its stdin stays open all the time, as behind a network that is cut.
    process = start_exec([sys.executable, "-c", program], lease=1.5)
    assert process.stdout.readline() == b"n\n"
    child = int(process.stdout.readline())
    assert alive(child)
    began = time.monotonic()
    # It hears us: twice the lease passes, and it goes on.
    while time.monotonic() - began < 3:
        process.stdin.write(bytes(4))
        process.stdin.flush()
        time.sleep(0.1)
    assert alive(child)
    assert process.wait(20) == 128 + 9
    assert not alive(child)
    process.communicate()


def test_an_agent_is_supervised_while_somebody_holds_its_stdin():
    """Its parent is gone, but its pipe is open: so is whoever uses it."""
    cluster = f"test-{os.getpid()}-1"
    program = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    words = [sys.executable, "-c", program, "dask_runner.cluster.host.host_agent"]
    starter = subprocess.Popen(
        # A command in the background has no stdin unless it is told which.
        ["sh", "-c", 'exec 3<&0; "$@" <&3 & exit', "sh", *words],
        env={**os.environ, "DASK_RUNNER_CLUSTER": cluster},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    agent = int(starter.stdout.readline())

    def shown():
        wanted = fleet.Filter(cluster=cluster)
        (found,) = asyncio.run(fleet.processes([HERE], Connector(), wanted))
        assert not found.failure
        return [(one.pid, one.up, one.what) for one in found.processes]

    try:
        starter.wait(10)
        assert shown() == [(agent, True, "agent")]
        starter.stdin.close()
        assert shown() == [(agent, False, "agent")]
        (killed,) = asyncio.run(fleet.kill([HERE], Connector(), fleet.Filter(cluster=cluster)))
        assert [one.pid for one in killed.ended] == [agent]
        assert killed.good
        assert not alive(agent)
    finally:
        starter.stdout.close()
        if alive(agent):
            os.kill(agent, 9)


def test_what_somebody_started_without_an_agent_is_not_left_over():
    cluster = f"test-{os.getpid()}-2"
    environment = {**os.environ, "DASK_RUNNER_CLUSTER": cluster}
    with subprocess.Popen(["sleep", "600"], env=environment) as process:
        try:
            wanted = fleet.Filter(cluster=cluster)
            (found,) = asyncio.run(fleet.processes([HERE], Connector(), wanted))
            assert [(one.pid, one.up) for one in found.processes] == [(process.pid, True)]
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("wanted", "cluster", "meant"),
    [
        ("main", "main+desk+0123abcd", True),
        ("main", "main-2+desk+0123abcd", False),
        ("main+desk+0123abcd", "main+desk+0123abcd", True),
        ("local", "local+0123abcd", True),
        ("", "main+desk+0123abcd", True),
    ],
)
def test_a_clusters_name_means_no_other_cluster(wanted, cluster, meant):
    one = SimpleNamespace(cluster=cluster, run="")
    assert processes_script._wanted({"cluster": wanted})(one) is meant
