"""The hosts commands over real sshd: words and bytes unharmed, nothing left running, files whole."""

import hashlib
import json
import os
import re
import secrets
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from product import RUNNER, wait_for

from dask_runner.cluster.channel import AgentConfig, encode_message
from dask_runner.cluster.tls import make_credentials

ECHO_WORDS = "import os, sys; print([os.fsencode(word) for word in sys.argv[1:]])"

# Leaves its session, drops its environment and ignores SIGTERM.
STUBBORN = """\
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if sys.argv[1:] != ["child"]:
    words = ["/usr/bin/env", "-i", sys.executable, __file__, "child"]
    subprocess.Popen(words, start_new_session=True)
print("ready", flush=True)
time.sleep(600)
"""


@pytest.fixture
def crowd(make_department, make_product, tmp_path):
    """Hosts with a bash user, a csh user with a noisy .cshrc, and one with a noisy .bashrc."""
    department = make_department(3, share=[tmp_path])
    product = make_product(department)
    users = {"node02": {"user": "cleo"}, "node03": {"user": "nora"}}
    department.hostfile(product.folder / "hostfile.txt", names=True, per_host=users)
    tmp_path.chmod(0o755)
    return department, product


@pytest.fixture
def pair(make_department, make_product):
    department = make_department(2, node02={"scratch_mb": 16})
    product = make_product(department)
    department.hostfile(product.folder / "hostfile.txt", names=True)
    return department, product


def commands(department, text):
    """Host -> pids of the processes with `text` in their command line."""
    found = {}
    for host in department.hosts:
        for pid in host.processes():
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
            except OSError:
                continue
            if text.encode() in command:
                found.setdefault(host.name, []).append(pid)
    return found


def lines_of(text):
    """Host -> what it said, with the prefixes taken off."""
    said = {}
    for line in text.splitlines():
        host, bar, rest = line.partition("| ")
        assert bar, line
        said.setdefault(host.strip(), []).append(rest)
    return said


# -- exec


def test_words_arrive_as_given_whatever_the_login_shell(crowd):
    _, product = crowd
    words = ["a  b", "it's", '"', "$(touch /tmp/x)", "`id`", "new\nline", "!!", "", "*", "~", "\\"]
    given = [*words, os.fsdecode(b"\xff\xfe \xe9")]
    done = product.run("hosts", "exec", "--", sys.executable, "-c", ECHO_WORDS, *given)
    expected = repr([os.fsencode(word) for word in given])
    assert lines_of(done.stdout) == {f"node0{n}": [expected] for n in (1, 2, 3)}
    assert done.stderr == ""


def test_a_line_for_the_shell_is_read_by_the_login_shell(crowd):
    _, product = crowd
    # Only csh sets a variable by that.
    line = "echo $HOME | cat; set x = 5; echo shell $?x"
    done = product.run("hosts", "exec", "--shell", "--", line)
    assert lines_of(done.stdout) == {
        "node01": ["/root", "shell 0x"],
        "node02": ["/home/cleo", "shell 1"],
        "node03": ["/home/nora", "shell 0x"],
    }
    assert done.stderr == ""


def test_lines_of_hosts_never_mix_and_bytes_stay(pair):
    _, product = pair
    program = (
        "import os, random\n"
        "data = b''.join(b'%d \\xff\\x1b[31m\\r\\n' % n for n in range(20000)) + b'end'\n"
        "while data:\n"
        "    size = random.randrange(1, 9000)\n"
        "    os.write(1, data[:size]); data = data[size:]\n"
        "os.write(2, b'to stderr')\n"
    )
    done = subprocess.run(
        [*RUNNER, "hosts", "exec", "--", sys.executable, "-c", program],
        cwd=product.folder,
        env=product.environment,
        capture_output=True,
        timeout=60,
        check=True,
    )
    lines = done.stdout.split(b"\n")
    assert lines.pop() == b""
    for name in (b"node01", b"node02"):
        own = [line[8:] for line in lines if line.startswith(name + b"| ")]
        assert own == [b"%d \xff\x1b[31m\r" % n for n in range(20000)] + [b"end"]
    assert len(lines) == 2 * 20001
    assert sorted(done.stderr.split(b"\n")) == [b"", b"node01| to stderr", b"node02| to stderr"]


def test_the_exit_code_is_the_highest_and_a_dead_host_is_named(crowd):
    department, product = crowd
    program = "case $(hostname) in node01) exit 3;; node02) kill -9 $$;; esac"
    done = product.run("hosts", "exec", "--", "sh", "-c", program, expect=137)
    assert "node01: exit code 3" in done.stderr
    assert "failed on 2 of 3 hosts" in done.stderr
    department["node03"].stop_sshd(sessions=True)
    done = product.run("hosts", "exec", "--hosts", "node0[13]", "true", expect=6)
    assert "node03" in done.stderr
    assert "failed on 1 of 2 hosts" in done.stderr
    done = product.run("hosts", "exec", "--hosts", "!node03", "hostname")
    assert lines_of(done.stdout) == {"node01": ["node01"], "node02": ["node02"]}


def test_json_has_streams_and_codes(pair):
    _, product = pair
    done = product.run(
        "hosts", "exec", "--json", "--", "sh", "-c", "echo a; echo b >&2; exit 4", expect=4
    )
    assert json.loads(done.stdout) == [
        {"host": f"node0{n}", "code": 4, "reason": "", "stdout": "a\n", "stderr": "b\n"}
        for n in (1, 2)
    ]


def test_stdin_goes_to_every_host(pair, tmp_path):
    _, product = pair
    data = os.urandom(3_000_001)
    (tmp_path / "data").write_bytes(data)
    with (tmp_path / "data").open("rb") as file:
        done = product.run("hosts", "exec", "--stdin", "--", "sha256sum", stdin=file)
    expected = [hashlib.sha256(data).hexdigest() + "  -"]
    assert lines_of(done.stdout) == {"node01": expected, "node02": expected}
    # A command that takes nothing of it ends all the same.
    with (tmp_path / "data").open("rb") as file:
        product.run("hosts", "exec", "--stdin", "--", "true", stdin=file)


@pytest.mark.parametrize("ending", ["interrupt", "terminate", "kill", "timeout"])
def test_nothing_goes_on_when_the_command_ends_early(crowd, tmp_path, ending):
    department, product = crowd
    script = tmp_path / "stubborn.py"
    script.write_text(STUBBORN)
    limit = ["--timeout", "3"] if ending == "timeout" else []
    process = subprocess.Popen(
        [*RUNNER, "hosts", "exec", *limit, "--", sys.executable, str(script)],
        cwd=product.folder,
        env=product.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        # A process and its child on each host.
        wait_for(
            lambda: (
                sorted(len(pids) for pids in commands(department, str(script)).values())
                in ([4, 4, 4], [3, 3, 3], [2, 2, 2])
            ),
            "the programs run",
        )
        if ending != "timeout":
            number = {"interrupt": signal.SIGINT, "terminate": signal.SIGTERM}
            process.send_signal(number.get(ending, signal.SIGKILL))
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    expected = {"interrupt": 130, "terminate": -15, "kill": -9, "timeout": 124}
    assert process.returncode == expected[ending], errors
    # After Ctrl-C and a timeout it has waited for that itself.
    patience = 0.5 if ending in {"interrupt", "timeout"} else 20
    wait_for(lambda: not commands(department, str(script)), "nothing is left", patience)


def test_a_host_that_is_cut_off_ends_the_command_and_is_given_up(pair):
    department, product = pair
    program = (
        "import sys, dask_runner.cluster.fleet.script as script\n"
        "from dask_runner.cli import main\n"
        "script.LEASE = 4\n"
        "sys.argv[0] = 'dask-runner'\n"
        "main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, "hosts", "exec", "--hosts", "node01", "sleep", "4321"],
        cwd=product.folder,
        env=product.environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for(lambda: commands(department, "4321"), "it runs")
        department["node01"].cut()
        wait_for(lambda: not commands(department, "4321"), "it ends there", 15)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 6
    assert "node01: the connection was lost" in errors


def test_what_an_ended_command_left_in_the_background_goes_on(pair):
    department, product = pair
    done = product.run("hosts", "exec", "--", "sh", "-c", "sleep 4321 & echo started")
    assert set(lines_of(done.stdout)) == {"node01", "node02"}
    assert set(commands(department, "4321")) == {"node01", "node02"}


def test_a_host_without_its_python_uses_any_other(make_department, make_product):
    department = make_department(1)
    product = make_product(department)
    path = product.folder / "hostfile.txt"
    department.hostfile(path, names=True, per_host={"node01": {"python": "/nowhere/python"}})
    if department["node01"].run(["sh", "-c", "command -v python3"], check=False).returncode:
        done = product.run("hosts", "exec", "true", expect=6)
        assert "no Python: neither /nowhere/python nor python3" in done.stderr
        assert "python=PATH" in done.stderr
    else:
        product.run("hosts", "exec", "true")


# -- push and pull


def tree(folder):
    """Path -> mode, kind, content of everything below."""
    found = {}
    root = os.fsencode(folder)
    for place, folders, files in os.walk(root):
        for name in folders + files:
            path = place + b"/" + name
            status = os.lstat(path)
            if stat.S_ISLNK(status.st_mode):
                content = os.readlink(path)
            elif stat.S_ISREG(status.st_mode):
                content = Path(os.fsdecode(path)).read_bytes()
            else:
                content = b""
            kind = stat.S_IFMT(status.st_mode)
            mode = 0 if stat.S_ISLNK(status.st_mode) else stat.S_IMODE(status.st_mode)
            found[path.removeprefix(root)] = (kind, mode, content)
    return found


@pytest.fixture
def hostile(tmp_path):
    folder = tmp_path / "hostile"
    (folder / "sub dir" / "empty").mkdir(parents=True)
    names = [b"new\nline", b"$(touch x)", b'it\'s "q"', b"\xff\xfe", b"-rf", b"*", b" ", b"a" * 250]
    for number, name in enumerate(names):
        path = Path(os.fsdecode(os.fsencode(folder / "sub dir") + b"/" + name))
        path.write_bytes(os.urandom(1000 * number))
        path.chmod(0o640 if number % 2 else 0o755)
    (folder / "big").write_bytes(os.urandom(3_000_000))
    (folder / "out").symlink_to("/etc/passwd")
    (folder / "dangling").symlink_to("nowhere\n")
    (folder / "locked").mkdir()
    (folder / "locked" / "file").write_text("x")
    (folder / "locked").chmod(0o555)
    return folder


def test_a_folder_there_and_back_is_the_same(pair, hostile, tmp_path):
    _, product = pair
    with (product.folder / "hostfile.txt").open("a") as file:
        file.write("localhost\n")
    there = str(tmp_path / "there" / "it")
    pushed = product.json("hosts", "push", str(hostile), there)
    assert [(one["host"], one["files"]) for one in pushed] == [
        ("node01", 12),
        ("node02", 12),
        ("localhost", 12),
    ]
    product.run("hosts", "pull", there, "back")
    expected = tree(hostile)
    for name in ("node01", "node02", "localhost"):
        assert tree(product.folder / "back" / name / "it") == expected
    refused = product.run("hosts", "push", str(hostile), there, expect=6)
    assert "is there already" in refused.stderr
    assert "--force replaces it" in refused.stderr
    refused = product.run("hosts", "pull", there, "back", expect=6)
    assert "failed on 3 of 3 hosts" in refused.stderr
    (hostile / "big").write_bytes(b"new")
    product.run("hosts", "push", "--force", str(hostile / "big"), there + "/")
    product.run("hosts", "pull", "--force", there + "/big", "back/new")
    for name in ("node01", "node02", "localhost"):
        assert (product.folder / "back" / "new" / name / "big").read_bytes() == b"new"


def test_pipes_are_skipped_and_said(pair, tmp_path):
    _, product = pair
    (tmp_path / "odd").mkdir()
    os.mkfifo(tmp_path / "odd" / "pipe")
    (tmp_path / "odd" / "file").write_text("x")
    done = product.run("hosts", "push", str(tmp_path / "odd"), "odd")
    assert "node02: skipped" in done.stderr
    assert done.stdout.splitlines()[0] == "node01: 1 files, 0.0 MB"


def test_a_full_disk_leaves_no_half_of_a_file(pair, tmp_path):
    department, product = pair
    (tmp_path / "large").write_bytes(bytes(20_000_000))
    done = product.run("hosts", "push", str(tmp_path / "large"), "/home/scratch/", expect=6)
    assert "failed on 1 of 2 hosts" in done.stderr
    assert os.listdir(department["node02"].path("/home/scratch")) == []
    assert os.listdir(department["node01"].path("/home/scratch")) == ["large"]


def test_a_pull_never_writes_through_a_link(pair, tmp_path):
    department, product = pair
    department["node01"].run(["sh", "-c", "mkdir -p /tmp/d/e && echo evil > /tmp/d/e/f"])
    victim = tmp_path / "victim"
    victim.mkdir()
    (product.folder / "back" / "node01" / "d").mkdir(parents=True)
    (product.folder / "back" / "node01" / "d" / "e").symlink_to(victim)
    words = ("hosts", "pull", "--hosts", "node01", "--force", "/tmp/d", "back")
    product.run(*words, expect=6)
    assert list(victim.iterdir()) == []


# -- tail


def follow(product, *words):
    return subprocess.Popen(
        [*RUNNER, "hosts", "tail", *words],
        cwd=product.folder,
        env=product.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def read_lines(process, count):
    return sorted(process.stdout.readline().rstrip("\n") for _ in range(count))


def test_tail_follows_through_a_rotation(pair):
    department, product = pair
    for host in department.hosts:
        host.run(["sh", "-c", "seq 1 20 > /tmp/log"])
    process = follow(product, "-n", "1", "/tmp/log")
    try:
        assert read_lines(process, 2) == ["node01| 20", "node02| 20"]
        for host in department.hosts:
            host.run(["sh", "-c", "echo more >> /tmp/log"])
        assert read_lines(process, 2) == ["node01| more", "node02| more"]
        for host in department.hosts:
            host.run(["sh", "-c", "mv /tmp/log /tmp/log.1; echo anew > /tmp/log"])
        assert read_lines(process, 2) == ["node01| anew", "node02| anew"]
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    finally:
        process.kill()
        process.communicate()
    done = product.run("hosts", "tail", "--no-follow", "/tmp/none", expect=1)
    assert "node01| /tmp/none: cannot be read" in done.stderr


def test_tail_finds_the_log_of_a_running_batch(pair):
    department, product = pair
    folder = "/tmp/attempts/000/000007.2"
    node = department["node02"]
    node.run(["sh", "-c", f"mkdir -p {folder} && echo its log > {folder}/log.txt"])
    marks = ["DASK_RUNNER_CLUSTER=c-d-e", "DASK_RUNNER_RUN=20261120T225745Z"]
    node.popen(["env", *marks, "sh", "-c", f"cd {folder} && exec sleep 600"])
    words = ("hosts", "tail", "--no-follow", "20261120T225745Z")
    wait_for(lambda: commands(department, "sleep\x00600"), "it runs")
    assert product.run(*words, "7").stdout == "node02| its log\n"
    assert "runs on none" in product.run(*words, "8", expect=2).stderr
    # And `ps` knows which it is.
    (row,) = product.json("hosts", "ps", "--run", "20261120T225745Z")[1]["processes"]
    assert (row["batch"], row["attempt"], row["what"]) == (7, 2, "batch")


def test_tail_of_the_agents_is_of_the_cluster_that_is_up(pair):
    _, product = pair
    assert "no cluster" in product.run("hosts", "tail", "agent", expect=6).stderr
    state = Path(product.environment["XDG_STATE_HOME"]) / "dask-runner" / os.uname().nodename
    (state / "main" / "hosts").mkdir(parents=True)
    for folder in (state.parent, state, state / "main", state / "main" / "hosts"):
        folder.chmod(0o700)
    (state / "main" / "hosts" / "node02.log").write_text("its words\n")
    with socket.socket(socket.AF_UNIX) as manager:
        manager.bind(str(state / "main" / "control"))
        manager.listen()
        done = product.run("hosts", "tail", "--no-follow", "agent")
    assert done.stdout == "node02| its words\n"


# -- ps, kill, sweep


class RemoteAgent:
    """A real agent with scheduler, worker and slots, started over ssh as `up` does."""

    def __init__(self, department, name, cluster):
        self.department = department
        self.host = department[name]
        self.cluster = cluster
        marks = [f"DASK_RUNNER_CLUSTER={cluster}", f"DASK_RUNNER_HOST={name}"]
        words = [sys.executable, "-I", "-m", "dask_runner.cluster.host.host_agent"]
        self.ssh = subprocess.Popen(
            department.ssh(name, "exec", "/usr/bin/env", *marks, *words),
            env=department.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        config = AgentConfig(
            nonce=secrets.token_hex(8),
            cluster=cluster,
            host=name,
            bind="127.0.0.1",
            slots=1,
            umask=0o022,
            credentials=make_credentials(cluster),
        )
        self.ssh.stdin.write(encode_message(config))
        self.ssh.stdin.flush()
        self.folder = ""
        for line in self.ssh.stdout:
            event = json.loads(line) if line.startswith(b"{") else {}
            if event.get("kind") == "folder":
                self.folder = event["text"]
            if event.get("kind") == "worker":
                break
        assert self.folder

    @property
    def processes(self):
        return self.host.processes(f"DASK_RUNNER_CLUSTER={self.cluster}")

    def agent(self):
        mine = self.processes
        for pid in mine:
            if b"dask_runner.cluster.host.host_agent" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
        raise AssertionError(mine)

    def leave_over(self):
        """Stopped, and its connection gone: it can neither work nor end."""
        os.kill(self.agent(), signal.SIGSTOP)
        self.close()

    def close(self):
        self.ssh.kill()
        self.ssh.communicate()


@pytest.fixture
def start_agent():
    started = []

    def start(*arguments):
        started.append(RemoteAgent(*arguments))
        return started[-1]

    yield start
    for agent in started:
        agent.close()


def kinds(product, *words):
    found = product.json("hosts", "ps", *words)
    return {one["host"]: {row["what"] for row in one["processes"]} for one in found}


def test_ps_names_what_runs(pair, start_agent):
    department, product = pair
    start_agent(department, "node01", "main+desk+1")
    # The zygote and its slots come with the first batch.
    whole = {"agent", "scheduler", "worker"}
    wait_for(lambda: kinds(product) == {"node01": whole, "node02": set()}, "all are up")
    found = product.json("hosts", "ps", "--cluster", "main")[0]["processes"]
    assert {row["cluster"] for row in found} == {"main+desk+1"}
    assert all(row["up"] and row["rss"] > 0 and row["age"] >= 0 for row in found)
    assert kinds(product, "--cluster", "mai") == {"node01": set(), "node02": set()}
    shown = product.run("hosts", "ps").stdout
    assert re.search(r"node01 +\d+ +agent +main\+desk\+1", shown)


def test_kill_asks_for_a_cluster_that_is_up_and_reaches_all_below(pair, start_agent, tmp_path):
    department, product = pair
    one = start_agent(department, "node01", "main+desk+1")
    other = start_agent(department, "node01", "other+desk+2")
    script = department["node02"].path("/tmp/stubborn.py")
    script.write_text(STUBBORN)
    marker = "DASK_RUNNER_CLUSTER=main+desk+1"
    words = ["env", marker, "setsid", "--fork", sys.executable, "/tmp/stubborn.py"]
    department["node02"].popen(words).wait(10)
    wait_for(lambda: len(commands(department, "stubborn").get("node02", [])) >= 2, "it runs")
    refused = product.run("hosts", "kill", "--cluster", "main", expect=2)
    assert "of a cluster that is up: main+desk+1" in refused.stderr
    assert one.processes
    untouched = other.processes
    product.run("hosts", "kill", expect=2)
    done = product.run("hosts", "kill", "--cluster", "main", "--yes")
    assert one.processes == []
    assert commands(department, "stubborn") == {}
    assert "node02: 2 processes ended" in done.stdout
    assert set(untouched) <= set(other.processes)


def test_kill_by_run_leaves_the_cluster_alone(pair, start_agent):
    department, product = pair
    one = start_agent(department, "node01", "main+desk+1")
    before = one.processes
    marks = ["DASK_RUNNER_CLUSTER=main+desk+1", "DASK_RUNNER_RUN=20261120T225745Z"]
    department["node01"].popen(["env", *marks, "setsid", "--fork", "sleep", "4321"]).wait(10)
    wait_for(lambda: commands(department, "4321"), "it runs")
    product.run("hosts", "kill", "--run", "20261120T225745Z", "--yes")
    assert commands(department, "4321") == {}
    assert set(before) <= set(one.processes)


@pytest.fixture
def sweeper(pair, tmp_path):
    """A sweep also looks at this machine, where others work: it gets processes and a temporary
    folder of its own.
    """
    department, product = pair
    unshare = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    product.runner = [*unshare, *product.runner]
    (tmp_path / "tmp").mkdir()
    product.environment["TMPDIR"] = str(tmp_path / "tmp")
    return department, product


def test_a_sweep_ends_what_is_left_and_nothing_that_is_up(sweeper, start_agent):
    department, product = sweeper
    node = department["node01"]
    living = start_agent(department, "node01", "main+desk+1")
    dead = start_agent(department, "node01", "old-desk-2")
    dead.leave_over()
    mark = "DASK_RUNNER_CLUSTER=older-desk-3"
    node.popen(["env", mark, "setsid", "--fork", "sleep", "4321"]).wait(10)
    # Not ours, whatever it is called: not private, or a link.
    node.run(["sh", "-c", "cd /tmp && mkdir -m 755 dask-runner-abcdefgh"])
    node.run(["sh", "-c", "cd /tmp && mkdir -m 700 my && ln -s my dask-runner-ijklmnop"])
    # Left by those who were killed: an agent of this host, one of another, a slot.
    for name in ("old-desk-9@node01-abcdefgh", "old-desk-9@node77-abcdefgh", "qrstuvwx"):
        node.run(["mkdir", "-m", "700", f"/tmp/dask-runner-{name}"])
    wait_for(lambda: commands(department, "4321"), "it runs")
    up = set(living.processes)
    gone = {
        "dask-runner-old-desk-9@node01-abcdefgh",
        "dask-runner-qrstuvwx",
        Path(dead.folder).name,
    }
    kept = {path.name for path in node.path("/tmp").glob("dask-runner-*")} - gone
    assert Path(living.folder).name in kept
    done = product.run("down", "--sweep")
    assert dead.processes == []
    assert commands(department, "4321") == {}
    assert up <= set(living.processes)
    assert node.path(living.folder).is_dir()
    assert {path.name for path in node.path("/tmp").glob("dask-runner-*")} == kept
    assert "left alone: main+desk+1 is up" in done.stdout
    # A second one finds nothing.
    again = product.run("down", "--sweep")
    assert "node01: nothing found" in again.stdout
    assert up <= set(living.processes)


def test_a_sweep_says_which_host_it_did_not_reach(sweeper):
    department, product = sweeper
    department["node02"].stop_sshd(sessions=True)
    done = product.run("down", "--sweep", expect=6)
    assert "node01: nothing found" in done.stdout
    assert "node02" in done.stderr


def test_a_sweep_removes_session_folders_of_dead_managers(sweeper):
    _, product = sweeper
    state = Path(product.environment["XDG_STATE_HOME"]) / "dask-runner" / os.uname().nodename
    stale = state / "gone"
    stale.mkdir(parents=True, mode=0o700)
    (stale / "session.json").write_text("{}")
    done = product.json("down", "--sweep")
    assert not stale.exists()
    here = next(one for one in done if one["host"] == "localhost")
    assert str(stale) in [folder["path"] for folder in here["folders"]]
