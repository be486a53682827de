"""`command` with real programs: what they are given, and what their ends are called."""

import os
import signal

import pytest

from dask_runner.batch import BatchFailedError, FailureKind
from dask_runner.workloads.checks import checks
from dask_runner.workloads.command import Command


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _command(*words, number=1, **options):
    values = {"outputs": [], "setup": None, "parameters": "", "merge_command": "", "seed": 1}
    return Command.from_options(words=words, number=number, **(values | options))


def _run(workload, folder, index=0):
    attempt = folder / f"attempt {index}"
    attempt.mkdir()
    workload.run(workload.plan().batches[index], attempt)
    return attempt


def _failure(workload, folder):
    with pytest.raises(BatchFailedError) as caught:
        _run(workload, folder)
    return caught.value


def test_the_program_of_the_user_runs_in_the_folder_of_the_batch(here):
    job = here / "my job.sh"
    job.write_text('#!/bin/bash\nprintf "%s|" "$PWD" "$@" > "$3"\n')
    job.chmod(0o755)
    workload = _command("./my job.sh", "{index}", "{seed}", "{output}", number=3)
    contents = [(_run(workload, here, k) / f"{k}.out").read_text().split("|") for k in range(3)]
    assert [c[0] for c in contents] == [str(here / f"attempt {k}") for k in range(3)]
    assert [c[1] for c in contents] == ["0", "1", "2"]
    assert len({c[2] for c in contents}) == 3
    assert [c[3] for c in contents] == [f"{here}/attempt {k}/{k}.out" for k in range(3)]


def test_hostile_values_arrive_as_they_are(here):
    hostile = "a b'c\"$(touch owned)`x`\n;*"
    quoted = hostile.replace('"', '""')
    (here / "p.csv").write_text(f'value\n"{quoted}"\n')
    words = ["bash", "-c", 'printf %s "$1" > "$2"', "bash", "{value}", "{output}"]
    attempt = _run(_command(*words, number=None, parameters="p.csv"), here)
    assert (attempt / "0.out").read_text() == hostile
    assert not list(here.rglob("owned"))


def test_the_setup_file_is_sourced_in_a_clean_shell(here, monkeypatch):
    monkeypatch.setenv("LEAK", "1")
    (here / "setup.sh").write_text("export TOOL=ready\n")
    words = ["bash", "-c", 'echo "$TOOL ${{LEAK-clean}}" > "$1"', "bash", "{output}"]
    attempt = _run(_command(*words, setup=here / "setup.sh"), here)
    assert (attempt / "0.out").read_text() == "ready clean\n"


@pytest.mark.parametrize(
    ("script", "kind", "code", "said"),
    [
        ("exit 3", FailureKind.EXIT_CODE, 3, "exit code 3"),
        ("exit 68", FailureKind.EXIT_CODE, 68, "exit code 68"),
        ("kill -SEGV $$", FailureKind.SIGNAL, -signal.SIGSEGV, "SIGSEGV"),
        ("(kill -ABRT $BASHPID); exit $?", FailureKind.SIGNAL, 134, "SIGABRT"),
        ("touch almost", FailureKind.OUTPUT, None, "no 0.out; the program left almost"),
        ("exit 0", FailureKind.OUTPUT, None, "the program left nothing"),
    ],
)
def test_ends_are_classified(here, script, kind, code, said):
    failure = _failure(_command("bash", "-c", script, "{output}"), here)
    assert (failure.kind, failure.exit_code, failure.final) == (kind, code, False)
    assert said in failure.message


def test_a_program_that_is_not_there(here):
    workload = _command("no_such_program", "{index}")
    assert _failure(workload, here).kind is FailureKind.SETUP
    (problem,) = checks(workload)
    assert "no_such_program" in problem
    assert checks(_command("bash", "{index}")) == []


def test_a_setup_that_fails(here):
    (here / "setup.sh").write_text("return 5\n")
    failure = _failure(_command("true", setup=here / "setup.sh"), here)
    assert (failure.kind, failure.exit_code) == (FailureKind.SETUP, 5)


def test_names_that_are_not_text(here):
    name = os.fsdecode(b"\xff %41")
    words = ["bash", "-c", 'touch "$1"', "bash", "{output}"]
    attempt = _run(_command(*words, outputs=[name]), here)
    assert name in {path.name for path in attempt.iterdir()}
