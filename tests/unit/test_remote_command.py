"""The command line for a host, as shells of this machine read it, and what it may not hold."""

import json
import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_runner.cluster.ssh.connector import is_local, python_of, remote_command
from dask_runner.hostfile import Host

HOST = Host(address="tev01")
ECHO = "import json, os, sys; print(json.dumps([os.fsencode(w).hex() for w in sys.argv[1:]]))"
SHELLS = [shell for shell in ("/bin/sh", "/bin/bash", "/bin/csh") if os.path.exists(shell)]


def arrived(shell: str, words: list[str], **environment: str) -> list[str]:
    command = remote_command(
        HOST, [sys.executable, "-I", "-c", ECHO, *words], environment=environment
    )
    done = subprocess.run([shell, "-c", os.fsencode(command)], capture_output=True, check=True)
    return [os.fsdecode(bytes.fromhex(word)) for word in json.loads(done.stdout)]


@pytest.mark.parametrize("shell", SHELLS)
def test_odd_words_arrive_in_each_shell(shell):
    words = [
        "",
        " ",
        "it's",
        '"',
        "$HOME",
        "`id`",
        "!!",
        "a!b",
        "\\",
        "\n",
        "x\n",
        "é",
        "\udcff",
        "-n",
        "#",
    ]
    assert arrived(shell, words) == words


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), max_size=3)
)
def test_any_words_arrive_in_sh_and_csh(words):
    for shell in SHELLS[::2]:
        assert arrived(shell, words) == words


def test_names_of_variables_are_checked():
    with pytest.raises(ValueError, match="A;B"):
        remote_command(HOST, ["true"], environment={"A;B": "x"})


def test_who_is_local():
    assert is_local(Host(address="localhost"))
    assert is_local(Host(address="::1"))
    assert not is_local(Host(address="localhost", port=2222))
    assert not is_local(Host(address="localhost", user="ada"))
    assert not is_local(HOST)
    assert python_of(HOST) == sys.executable
    assert python_of(Host(address="x", python="/opt/p")) == "/opt/p"
