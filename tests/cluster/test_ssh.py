"""Connections over real sshd: every way in, and every way to be kept out, with its message."""

import asyncio
import json
import os
import re
import subprocess
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from typing import Any

import asyncssh
import pytest

from dask_runner.cluster.ssh.connector import ConnectError, Connector, python_of, remote_command
from dask_runner.hostfile import Host

# What a shell could take for something else; the words must arrive as they are.
WORDS = ["it's", 'a "b"', "$HOME", "`id`", "a!b", "!!", "x\\y", "~", "*", "tab\tline\nend", "é", ""]
ECHO = "import json, os, sys; print('@' + json.dumps([sys.argv[1:], os.environ['A_B']]))"


@pytest.fixture
def build(make_department, monkeypatch) -> Callable[..., Any]:
    """Builds a department, and makes this process one of its user's."""

    def make(*arguments, **options):
        department = make_department(*arguments, **options)
        for name in ("SSH_AUTH_SOCK", "SSH_ASKPASS"):
            monkeypatch.delenv(name, raising=False)
        for name, value in department.environment.items():
            monkeypatch.setenv(name, value)
        return department

    return make


def host_of(department, name: str, **options) -> Host:
    return Host(address=department[name].address, **options)


def with_connector(action: Callable[[Connector], Awaitable[Any]], **options) -> Any:
    async def run() -> Any:
        connector = Connector(**options)
        try:
            return await action(connector)
        finally:
            await connector.close()

    return asyncio.run(run())


def output_of(host: Host, words: list[str], **environment: str) -> bytes:
    """What a command writes on the host, with the noise of its shell."""

    async def run(connector: Connector) -> bytes:
        connection = await connector.connect(host)
        done = await connection.run(remote_command(host, words, environment=environment))
        connection.close()
        await connection.wait_closed()
        assert done.exit_status == 0, done.stderr
        return done.stdout

    return with_connector(run)


def refusal(host: Host, **options) -> ConnectError:
    with pytest.raises(ConnectError) as caught:
        with_connector(lambda connector: connector.connect(host), **options)
    return caught.value


def test_words_arrive_as_they_are_in_every_login_shell(build):
    department = build(1)
    for user in ("root", "ada", "cleo", "nora"):
        host = host_of(department, "node01", user=user)
        words = [python_of(host), "-c", ECHO, *WORDS]
        output = output_of(host, words, A_B="c d'e!").decode()
        arrived = json.loads(output.partition("@")[2])
        assert arrived == [WORDS, "c d'e!"], user


def test_setup_is_sourced_and_neither_reads_stdin_nor_writes_to_stdout(build):
    department = build(1)
    setup = "/tmp/my setup's file.sh"
    there = department["node01"].path(setup)
    there.write_text('echo noise; read line; export A_B="from setup $#$line"\n')
    there.chmod(0o644)
    host = host_of(department, "node01", user="cleo", setup=setup)
    command = remote_command(host, [python_of(host), "-c", ECHO + "; print(input())", *WORDS])

    async def run(connector: Connector) -> Any:
        connection = await connector.connect(host)
        done = await connection.run(command, input=b"for the command\n")
        connection.abort()
        return done

    done = with_connector(run)
    words, line = done.stdout.decode().partition("@")[2].splitlines()
    assert json.loads(words) == [WORDS, "from setup 0"]
    assert line == "for the command"
    assert b"noise" in done.stderr
    assert b"noise" not in done.stdout


def test_bytes_that_are_not_utf8_do_no_harm(build):
    department = build(1)
    host = host_of(department, "node01")
    assert output_of(host, ["/usr/bin/printf", r"\377\376\n"]) == b"\xff\xfe\n"


def test_a_bastion_is_opened_once_for_all_behind_it(build):
    department = build(4, **{f"node{n:02}": {"behind": "node01"} for n in (2, 3, 4)})
    hosts = [host_of(department, f"node{n:02}") for n in (2, 3, 4)]

    async def run(connector: Connector) -> list[Any]:
        connections = await asyncio.gather(*(connector.connect(host) for host in hosts))
        return [(await connection.run("hostname")).stdout for connection in connections]

    assert with_connector(run) == [b"node02\n", b"node03\n", b"node04\n"]
    assert department["node01"].sshd_log().count("Accepted publickey") == 1


def test_a_bastion_that_died_is_opened_again(build):
    department = build(2, node02={"behind": "node01"})
    host = host_of(department, "node02")

    async def run(connector: Connector) -> bytes:
        first = await connector.connect(host)
        department["node01"].stop_sshd(sessions=True)
        await first.wait_closed()
        department["node01"].start_sshd()
        again = await connector.connect(host)
        return (await again.run("hostname")).stdout

    assert with_connector(run) == b"node02\n"


def test_jumps_that_go_in_circles_are_refused(build):
    department = build(2)
    department.write_ssh_config("Host a\n ProxyJump b\nHost b\n ProxyJump a\n")
    error = refusal(Host(address="a"))
    assert (error.stage, error.final) == ("config", True)
    assert "circles" in error.message


def test_hosts_that_do_not_answer_are_named_in_time_with_the_reason(build):
    department = build(4, node01={"sshd": False}, node02={"silent": True})
    department["node03"].cut()
    expected = {
        "node01": "refuses connections",
        "node02": "says nothing",
        "node03": "no answer",
    }
    for name, words in expected.items():
        began = time.monotonic()
        error = refusal(host_of(department, name), timeout=1.0)
        assert time.monotonic() - began < 5
        assert (error.stage, error.final) == ("port", False)
        assert department[name].address in error.message
        assert words in error.message
        assert error.hint
    error = refusal(Host(address="no-such-host.invalid"), timeout=5.0)
    assert (error.stage, error.final) == ("name", False)
    assert "no-such-host.invalid" in error.message


def test_silent_hosts_keep_nobody_waiting(build):
    department = build(2, node01={"silent": True})

    async def run(connector: Connector) -> float:
        silent = [
            asyncio.ensure_future(connector.connect(host_of(department, "node01")))
            for _ in range(4)
        ]
        await asyncio.sleep(0.2)
        began = time.monotonic()
        connection = await connector.connect(host_of(department, "node02"))
        took = time.monotonic() - began
        connection.abort()
        for one in silent:
            one.cancel()
        await asyncio.gather(*silent, return_exceptions=True)
        return took

    assert with_connector(run, handshakes=2, timeout=20.0) < 10


def test_all_join_where_sshd_drops_connections(build):
    department = build(1, node01={"max_startups": "2:60:100"})
    host = host_of(department, "node01")

    async def run(connector: Connector) -> int:
        connections = await asyncio.gather(*(connector.connect(host) for _ in range(24)))
        for connection in connections:
            connection.abort()
        return len(connections)

    assert with_connector(run, handshakes=6, timeout=30.0) == 24
    log = department["node01"].sshd_log()
    assert "drop connection" in log or "MaxStartups" in log, "nothing was dropped: no test"


def test_a_login_is_tried_once(build):
    department = build(1)
    for name in ("id_ed25519", "id_ed25519.pub"):
        (department.desk / ".ssh" / name).unlink(missing_ok=True)
    asyncssh.generate_private_key("ssh-ed25519").write_private_key(
        str(department.desk / ".ssh" / "id_ed25519")
    )
    error = refusal(host_of(department, "node01", user="ada"))
    assert (error.stage, error.final) == ("login", True), error.message
    assert "ada" in error.message
    assert "id_ed25519" in error.message
    assert "ssh-copy-id ada@" in error.hint
    assert department["node01"].sshd_log().count("Connection from") == 1


def test_a_locked_key_is_not_asked_for_but_taken_from_the_agent(build, monkeypatch):
    department = build(1)
    key = department.desk / ".ssh" / "id_ed25519"
    plain = key.read_bytes()
    subprocess.run(["ssh-keygen", "-q", "-p", "-P", "", "-N", "secret", "-f", key], check=True)
    host = host_of(department, "node01")
    error = refusal(host)
    assert "passphrase" in error.hint
    assert f"ssh-add {key}" in error.hint
    words = subprocess.run(["ssh-agent", "-s"], capture_output=True, text=True, check=True).stdout
    agent = dict(re.findall(r"(SSH_\w+)=([^;]+);", words))
    try:
        monkeypatch.setenv("SSH_AUTH_SOCK", agent["SSH_AUTH_SOCK"])
        subprocess.run(["ssh-add", "-q", "-"], input=plain, check=True)
        assert output_of(host, ["/bin/hostname"]) == b"node01\n"
    finally:
        os.kill(int(agent["SSH_AGENT_PID"]), 15)


def test_a_changed_key_is_refused_with_its_line_and_nobody_logs_in(build):
    department = build(1)
    department["node01"].swap_key()
    before = department["node01"].sshd_log().count("Accepted")
    error = refusal(host_of(department, "node01"))
    assert (error.stage, error.final) == ("host-key", True)
    assert "CHANGED" in error.message
    assert f"line 1 of {department.desk}/.ssh/known_hosts" in error.message
    assert error.key.state == "changed"
    assert department["node01"].sshd_log().count("Accepted") == before
    # Also one of another kind than the recorded.
    hosts = department.desk / ".ssh" / "known_hosts"
    rsa = asyncssh.generate_private_key("ssh-rsa").export_public_key().decode()
    hosts.write_text(f"{department['node01'].address} {rsa}")
    assert refusal(host_of(department, "node01")).key.state == "changed"


def test_an_unknown_key_is_refused_whatever_the_configuration_says(build):
    department = build(1)
    department.forget_keys()
    department.write_ssh_config("StrictHostKeyChecking no\n")
    error = refusal(host_of(department, "node01"))
    assert (error.stage, error.final, error.key.state) == ("host-key", True, "unknown")
    assert "hosts trust" in error.hint
    for line in ("UserKnownHostsFile none", "UserKnownHostsFile /dev/null"):
        department.write_ssh_config(f"{line}\n")
        error = refusal(host_of(department, "node01"))
        assert (error.stage, error.final) == ("config", True)
        assert line in error.message
    assert "Accepted" not in department["node01"].sshd_log()


def test_the_key_of_another_name_with_the_same_address_is_not_taken(build):
    department = build(1)
    department.write_ssh_config("Host node01\n HostKeyAlias someone-else\n")
    assert refusal(Host(address="node01")).key.state == "unknown"


def test_known_hosts_of_the_system_and_hashed_names_count(build):
    department = build(1)
    known = department.desk / ".ssh" / "known_hosts"
    system = department.desk / "system_known_hosts"
    host = host_of(department, "node01")
    system.write_text(known.read_text())
    known.unlink()
    department.write_ssh_config(f"GlobalKnownHostsFile {system}\n")
    assert output_of(host, ["/bin/hostname"]) == b"node01\n"
    known.write_text(system.read_text())
    system.unlink()
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", known], check=True, capture_output=True)
    assert host.address not in known.read_text()
    assert output_of(host, ["/bin/hostname"]) == b"node01\n"


def test_the_ssh_configuration_is_honoured_and_the_hostfile_wins(build):
    department = build(1)
    key = department.desk / ".ssh" / "id_ed25519"
    other = department.desk / ".ssh" / "other key"
    key.rename(other)
    address = department["node01"].address
    department.write_ssh_config(
        f'Host front\n HostName {address}\n User ada\n Port 22\n IdentityFile "{other}"\n'
        " IdentityFile ~/.ssh/missing\n RequestTTY force\n RemoteCommand false\n"
    )
    assert output_of(Host(address="front"), ["/usr/bin/id", "-un"]) == b"ada\n"
    assert output_of(Host(address="front", user="root"), ["/usr/bin/id", "-un"]) == b"root\n"
    assert refusal(Host(address="front", port=1)).stage == "port"


def test_a_final_pass_over_the_configuration_is_made(build):
    # As some distributions have it for their crypto policy.
    department = build(1)
    address = department["node01"].address
    department.write_ssh_config(
        "Match final all\n Ciphers aes256-ctr,unknown-cipher\n User ada\n"
        " HostKeyAlgorithms ssh-ed25519,unknown-kind\n GSSAPIAuthentication yes\n"
    )
    assert output_of(Host(address=address), ["/usr/bin/id", "-un"]) == b"ada\n"
    department["node01"].swap_key()
    assert refusal(Host(address=address)).key.state == "changed"


def test_a_configuration_that_others_may_write_is_refused(build):
    department = build(1)
    department.ssh_config.chmod(0o666)
    error = refusal(host_of(department, "node01"))
    assert error.stage == "config"
    assert "chmod go-w" in error.hint


def test_who_is_no_ssh_server_is_named(build):
    department = build(1)
    host = department["node01"]
    server = (
        "import socket; s = socket.create_server(('0.0.0.0', 2222)); print('up', flush=True)\n"
        "c = s.accept()[0]; c.sendall(b'HTTP/1.1 400 Bad Request\\r\\n' * 2000); c.close()"
    )
    program = host.popen([python_of(Host(address="x")), "-c", server], stdout=subprocess.PIPE)
    with closing(program.stdout) as out:
        assert out.readline() == "up\n"
        error = refusal(Host(address=host.address, port=2222), timeout=3.0)
    assert error.stage == "port"
    assert "2222" in error.message
