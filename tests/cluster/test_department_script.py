"""scripts/department as a contributor uses it."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "department"

pytestmark = pytest.mark.usefixtures("_can_build")


def start(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_shell_that_reaches_the_hosts_and_does_faults():
    process = start("2", "--scratch", "node02=2")
    said, _ = process.communicate(
        "cat $HOSTFILE\n"
        "type -p dask-runner\n"
        "fault fill_scratch node02 && echo filled\n"
        "fault cut node09 || echo refused\n"
        "fault explode node01 || echo refused\n"
        "exit 3\n",
        timeout=60,
    )
    assert process.returncode == 0, said
    assert re.search(r'^10\.231\.\d+\.2 slots="2"$', said, re.MULTILINE)
    assert str(Path(sys.executable).with_name("dask-runner")) in said
    assert "filled" in said
    assert "no host 'node09'\nrefused" in said
    assert "no fault 'explode'" in said
    folder = re.search(r"^hostfile +(/.*)/desk/hostfile.txt$", said, re.MULTILINE)[1]
    assert not Path(folder).exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_without_a_shell_it_waits_for_a_signal_and_removes_all(number):
    process = start("1", "--wait")
    lines = iter(process.stdout.readline, "")
    folder, ssh = None, None
    for line in lines:
        if line.startswith("hostfile "):
            folder = Path(line.split()[1]).parents[1]
        if line.startswith("ssh "):
            ssh = line.split()[1:]
        if "empty_scratch" in line:
            break
    assert folder is not None
    assert folder.is_dir()
    done = subprocess.run(ssh, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
    assert done.stdout == "node01\n"
    process.send_signal(number)
    process.communicate(timeout=30)
    assert not folder.exists()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                assert os.fsencode(folder) not in (entry / "cmdline").read_bytes()
            except OSError:
                continue


def test_nonsense_is_refused_before_anything_is_built():
    process = start("2", "--behind", "node02=node07")
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 1
    assert said == "department: node02 cannot be behind node07: that is no host in front\n"
