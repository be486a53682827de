"""Terminals, pipes, folders and descriptors that are not what a program hopes for."""

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from product import RUNNER, Jobs, wait_for

SLOTS = ("--slots", "2")


def shell(jobs: Jobs, redirections: str, *words: str) -> subprocess.CompletedProcess[str]:
    """A command whose descriptors the shell has dealt with."""
    return subprocess.run(
        ["bash", "-c", f'"$@" {redirections}', "bash", *RUNNER, *words],
        cwd=jobs.folder,
        env=jobs.environment,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-", "2>/dev/full"])
def test_a_closed_or_full_descriptor_harms_nothing(jobs, closed):
    jobs.go()
    done = shell(jobs, closed, *jobs.words(2, "--json"))
    assert done.returncode == 0, done.stderr
    assert jobs.check(finished=True).done == {0, 1}
    if ">&- " not in f"{closed} " or closed == "2>&-":
        assert json.loads(done.stdout)["verdict"] == "done"


def test_a_full_disk_behind_stdout_is_a_storage_error(jobs):
    jobs.go()
    jobs.run(*jobs.words(1))
    for words in (["runs"], ["runs", "--json"], ["status", "last"], ["logs", "last", "0"]):
        done = shell(jobs, ">/dev/full", *words)
        assert done.returncode == 7, done.stderr
        assert "No space left" in done.stderr
        assert "Traceback" not in done.stderr


def test_a_reader_that_has_gone_ends_neither_run_nor_exit_code(jobs):
    jobs.go()
    (jobs.folder / "job.sh").write_text('test "$1" = 1 && exit 5; echo "$1" > "$3"\n')
    done = shell(jobs, "2>&1 | true; exit ${PIPESTATUS[0]}", *jobs.words(3))
    assert done.returncode == 3, done.stderr
    assert jobs.check(finished=True).failed == {1}
    assert shell(jobs, "| true; exit ${PIPESTATUS[0]}", "runs", "--json").returncode == 0


def test_no_module_of_the_users_folder_is_imported_by_the_background_driver(jobs):
    jobs.go()
    (jobs.folder / "json.py").write_text("raise SystemExit('planted')\n")
    words = [Path(sys.executable).parent / "dask-runner", *jobs.words(2, "--detach")]
    subprocess.run(
        words, cwd=jobs.folder, env=jobs.environment, check=True, capture_output=True, timeout=60
    )
    (jobs.folder / "json.py").unlink()
    jobs.run("wait", "last")
    assert jobs.check(finished=True).done == {0, 1}


def test_a_folder_that_was_removed_is_named(jobs):
    gone = jobs.folder / "gone"
    gone.mkdir()
    done = subprocess.run(
        ["bash", "-c", 'rmdir ../gone; "$@"', "bash", *RUNNER, "status"],
        cwd=gone,
        env={**jobs.environment, "PYTHONSAFEPATH": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "was removed" in done.stderr


def test_outputs_that_cannot_be_written_are_refused_before_anything_starts(jobs):
    (jobs.folder / "file").touch()
    refused = jobs.run(*jobs.words(2, "--output-dir", "file"), expect=7)
    assert "cannot write outputs to file" in refused.stderr
    assert not jobs.timestamps


def test_clean_without_an_answer_removes_nothing(jobs):
    jobs.go()
    jobs.run(*jobs.words(1))
    assert "nothing was removed" in jobs.run("clean", "last", expect=2).stderr
    assert jobs.run("logs", "last", "0").stdout


def test_a_dry_rerun_with_nothing_left_is_no_problem(jobs):
    jobs.go()
    jobs.run(*jobs.words(1))
    assert jobs.json("rerun", "last", "--dry-run")["problems"] == []


def on_terminal(jobs: Jobs, *words: str) -> tuple[int, int]:
    """A command in a terminal of its own: its pid and the terminal's other end."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(jobs.folder)
        os.execve(RUNNER[0], [*RUNNER, *words], {**jobs.environment, "TERM": "xterm"})
    return pid, terminal


def test_row_16_a_terminal_that_hangs_up_drains_the_run(jobs):
    pid, terminal = on_terminal(jobs, *jobs.words(10, *SLOTS))
    wait_for((jobs.folder / "waiting").exists, "a job to run")
    os.close(terminal)
    jobs.go()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    result = jobs.check()
    assert code == 130
    assert result.done
    assert not result.failed


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_row_16_a_signal_while_the_cluster_starts_ends_the_run_at_once(jobs, number):
    driver = jobs.start(*jobs.words(10, *SLOTS))
    wait_for(lambda: jobs.timestamps, "the plan")
    agent = wait_for(lambda: child_with(driver.pid, b"host_agent"), "the agent")
    driver.send_signal(number)
    output, _ = driver.communicate(timeout=10)
    assert driver.returncode == 130, output
    assert "Traceback" not in output
    wait_for(lambda: not Path(f"/proc/{agent}").exists(), "the agent to end")
    jobs.go()
    jobs.run("rerun", "last")
    assert jobs.check(finished=True).done == set(range(10))


def child_with(parent: int, word: bytes) -> int:
    """The child of `parent` with `word` in its command line, 0 if there is none."""
    for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        try:
            if word in Path(f"/proc/{pid}/cmdline").read_bytes():
                return int(pid)
        except OSError:
            continue
    return 0


@pytest.mark.parametrize("victim", ["agent", "driver"])
def test_row_10_no_temporary_file_is_left_whoever_is_killed(jobs, victim):
    temporary = jobs.folder / "tmp"
    temporary.mkdir()
    jobs.environment["TMPDIR"] = str(temporary)
    driver = jobs.start(*jobs.words(4, *SLOTS))
    wait_for((jobs.folder / "waiting").exists, "a job to run")
    os.kill(jobs.find("host_agent") if victim == "agent" else driver.pid, signal.SIGKILL)
    output, _ = driver.communicate(timeout=30)
    jobs.nothing_left()
    assert "Traceback" not in output
    wait_for(lambda: not list(temporary.iterdir()), "the temporary files to go", 15)
