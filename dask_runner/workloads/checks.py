"""What a dry test can find out about a workload without running it: are its programs there?

A workload that starts foreign programs has a method `programs()`, beyond the three of the
interface; checks() looks each of them up in the clean shell in which it would run.
"""

import os
import shlex
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Protocol, runtime_checkable

from msgspec import Struct

from dask_runner.workloads import clean_shell
from dask_runner.workloads.interface import Workload

# Setups on network file systems are slow, but a dry test must end.
_TIMEOUT = 120.0
_SHOWN = 300


class Program(Struct, frozen=True, kw_only=True):
    """A foreign program: `word` as text for bash, to be looked up after `setup`."""

    where: str
    word: str
    setup: str = ""


@runtime_checkable
class StartsPrograms(Protocol):
    """A workload that starts foreign programs."""

    def programs(self) -> list[Program]:
        """Every program that a batch starts."""


def checks(workload: Workload) -> list[str]:
    """Everything that is known to go wrong when the batches run."""
    if not isinstance(workload, StartsPrograms):
        return []
    # Many steps share a setup and a program; a setup may take seconds.
    found: dict[tuple[str, str], str] = {}
    problems = []
    for program in workload.programs():
        key = (program.word, program.setup)
        if key not in found:
            found[key] = _look_up(program)
        if found[key]:
            problems.append(f"{program.where}: {found[key]}")
    return problems


def _look_up(program: Program) -> str:
    """What is wrong with a program, or ""."""
    with tempfile.TemporaryDirectory(prefix="dask-runner-check-") as name:
        folder = Path(name)
        ask = ["/bin/bash", "-c", shlex.quote('type -P -- "$1" > /dev/null'), "bash", program.word]
        script = clean_shell.write_script(ask, program.setup, folder, "check")
        # Its own session, so that a setup that hangs can be ended with all it started.
        with subprocess.Popen(
            [*clean_shell.BASH, script],
            cwd=folder,
            env=clean_shell.environment(os.environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as shell:
            try:
                said, _ = shell.communicate(timeout=_TIMEOUT)
            except subprocess.TimeoutExpired:
                os.killpg(shell.pid, signal.SIGKILL)
                return f"its setup does not end within {_TIMEOUT:g} s"
    if shell.returncode == 0:
        return ""
    text = said.decode(errors="replace").strip()[-_SHOWN:]
    return f"its program {program.word} is not found after the setup" + (
        f": {text}" if text else ""
    )
