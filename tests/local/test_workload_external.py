"""External steps against stand-in programs: what counts as success, and what the failure is called.

The stand-ins (tests/standins) are run as processes in clean shells, exactly as transforms are.
"""

import json
import os
import signal
import sys
from pathlib import Path

import pytest

from dask_runner.batch import BatchFailedError, FailureKind
from dask_runner.workloads import clean_shell, external
from dask_runner.workloads.checks import Program, checks
from dask_runner.workloads.clean_shell import Stage
from dask_runner.workloads.external import ExternalStep

STANDIN = Path(__file__).parent.parent / "standins" / "transform.py"
TREE = "CollectionTree"


def _step(behave, **fields):
    command = (
        f"{{python}} {STANDIN} --inputFile {{input}} --outputFile {{output}}"
        f" --maxEvents {{max_events}} --skipEvents {{first}} --behave {behave}"
    )
    return ExternalStep(name="simulate", command=command, tree=TREE, **fields)


def _run(step, folder, *, expected=20, first=0, source="/data/in.root"):
    output = folder / "HITS.root"
    values = {
        "input": source,
        "output": str(output),
        "first": str(first),
        "max_events": str(expected),
        "seed": "5",
        "run_seed": "1",
        "run_number": "304795",
        "job_number": "1",
    }
    return external.run(step, values, folder=folder, output=output, expected=expected)


def _failure(step, folder, **options):
    with pytest.raises(BatchFailedError) as caught:
        _run(step, folder, **options)
    return caught.value


def test_a_good_step_says_how_many_events_there_are(tmp_path):
    end = _run(_step("good"), tmp_path)
    assert end.entries == 20
    assert end.counters == {"ignored_log_lines": 0.0}
    report = json.loads((tmp_path / "simulate.jobReport.json").read_text())
    assert report["exitCode"] == 0


@pytest.mark.parametrize(
    ("behave", "kind", "final", "code", "said"),
    [
        ("exit-1", FailureKind.EXIT_CODE, False, 1, "exit code 1"),
        ("exit-3", FailureKind.EXIT_CODE, False, 3, "exit code 3"),
        ("exit-4", FailureKind.EXIT_CODE, True, 4, "exit code 4"),
        ("exit-19", FailureKind.EXIT_CODE, True, 19, "exit code 19"),
        ("exit-20", FailureKind.EXIT_CODE, False, 20, "exit code 20"),
        ("exit-38", FailureKind.EXIT_CODE, True, 38, "exit code 38"),
        ("exit-67", FailureKind.TIMEOUT, False, 67, "exit code 67"),
        ("exit-69", FailureKind.SETUP, False, 69, "exit code 69"),
        ("exit-74", FailureKind.EXIT_CODE, False, 74, "exit code 74"),
        ("exit-75", FailureKind.EXIT_CODE, False, 75, "exit code 75"),
        ("log-error", FailureKind.LOG_ERROR, False, 68, "GetGap: point outside"),
        ("error-lines", FailureKind.LOG_ERROR, False, None, "4 error lines"),
        ("segfault", FailureKind.SIGNAL, False, -signal.SIGSEGV, "SIGSEGV"),
        ("bad-report", FailureKind.EXIT_CODE, False, 65, "Non-zero return code from sim"),
        ("lies", FailureKind.OUTPUT, False, None, "has 20 events, but jobReport.json claims 21"),
        ("lies-about-partial", FailureKind.OUTPUT, False, None, "has 10 events, but"),
        ("partial", FailureKind.OUTPUT, False, None, "has 10 events, expected 20"),
        ("partial-then-fails", FailureKind.EXIT_CODE, False, 3, "exit code 3"),
        ("truncated", FailureKind.OUTPUT, False, None, "truncated"),
        ("too-many", FailureKind.OUTPUT, False, None, "has 21 events, expected 20"),
        ("no-output", FailureKind.OUTPUT, False, None, "no output HITS.root"),
    ],
)
def test_failures_are_classified(tmp_path, behave, kind, final, code, said):
    """Section 5: a failed step was followed by publishing the partial file with exit 0."""
    failure = _failure(_step(behave), tmp_path)
    assert (failure.kind, failure.final, failure.exit_code) == (kind, final, code)
    assert said in failure.message
    assert "simulate" in failure.message


def test_exit_codes_are_told_apart_although_numbers_are_taken_out_of_causes(tmp_path):
    causes = set()
    for code in (1, 3, 20):
        folder = tmp_path / str(code)
        folder.mkdir()
        causes.add("".join(c for c in _failure(_step(f"exit-{code}"), folder).cause if c.isalpha()))
    assert len(causes) == 3


def test_an_acceptance_below_one_lets_events_be_filtered(tmp_path):
    assert _run(_step("partial", acceptance=0.5), tmp_path).entries == 10
    with pytest.raises(BatchFailedError, match="acceptance 0.6"):
        _run(_step("partial", acceptance=0.6), tmp_path)


def test_ignored_error_lines_are_counted(tmp_path):
    step = _step("error-lines", ignore_patterns=("GetGap", "ISFG4SimSvc", "FATAL", "trfExe"))
    assert _run(step, tmp_path).counters == {"ignored_log_lines": 4.0}


@pytest.mark.parametrize("behave", ["broken-report", "vague-report"])
def test_a_report_that_says_nothing_is_no_failure(tmp_path, behave, capfd):
    assert _run(_step(behave), tmp_path).entries == 20
    assert ("jobReport.json cannot be read" in capfd.readouterr().out) == (behave[0] == "b")


def test_the_report_of_an_earlier_step_is_not_taken_for_this_one(tmp_path):
    _failure(_step("bad-report"), tmp_path)
    assert _run(_step("partial", acceptance=0.1), tmp_path).entries == 10


def test_output_goes_to_the_log_as_it_comes(tmp_path, capfd):
    _run(_step("error-lines", ignore_patterns=(".",)), tmp_path)
    assert "GetGap: point outside of the accordion" in capfd.readouterr().out


def test_a_process_left_behind_does_not_hold_the_step(tmp_path, capfd):
    assert _run(_step("daemon"), tmp_path).entries == 20
    os.kill(int(capfd.readouterr().out.split("daemon ")[1].split()[0]), signal.SIGKILL)


@pytest.mark.parametrize(
    "name",
    ["a b", "a'b\"c", "$(touch owned)", "`touch owned`", "a\nb", "*", "-x", "a;b", "a\udcff"],
)
def test_hostile_names_arrive_as_they_are(tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    step = _step(f"good --record '{tmp_path}/calls'")
    assert _run(step, folder, source=f"/data/{name}.root").entries == 20
    argv = json.loads((tmp_path / "calls").read_text())["argv"]
    assert argv[1] == f"/data/{name}.root"
    assert argv[3] == str(folder / "HITS.root")
    assert {path.name for path in tmp_path.iterdir()} == {name, "calls"}


class TestSetup:
    def test_the_step_needs_its_setup(self, tmp_path):
        command = "{python} $STANDIN --outputFile {output} --maxEvents {max_events}"
        step = ExternalStep(
            name="simulate", command=command, setup=f"export STANDIN='{STANDIN}'", tree=TREE
        )
        assert _run(step, tmp_path).entries == 20
        failure = _failure(ExternalStep(name="simulate", command=command, tree=TREE), tmp_path)
        assert failure.kind is FailureKind.SETUP

    @pytest.mark.parametrize(
        ("setup", "code"),
        [
            ("false", 1),
            ("return 7", 7),
            ("exit 7", 7),
            ("exit 0", 0),
            ("source /no/such/file", 1),
            ("if", 2),
            ("set -e; false; true", 1),
        ],
    )
    def test_a_setup_that_fails_is_told_apart_from_the_command(self, tmp_path, setup, code):
        failure = _failure(_step("good", setup=setup), tmp_path)
        assert (failure.kind, failure.final) == (FailureKind.SETUP, False)
        assert failure.exit_code == code

    def test_a_command_that_is_not_there_is_a_matter_of_setup(self, tmp_path, capfd):
        step = ExternalStep(name="simulate", command="no_such_tf.py {input} {output}")
        assert _failure(step, tmp_path).kind is FailureKind.SETUP
        assert "no_such_tf.py: command not found after the setup" in capfd.readouterr().out

    def test_a_command_that_fails_is_no_matter_of_setup(self, tmp_path):
        assert _failure(_step("exit-1", setup="true"), tmp_path).kind is FailureKind.EXIT_CODE

    def test_the_setup_sees_no_arguments_and_may_change_folder_and_options(self, tmp_path):
        setup = 'echo "arguments: $# $*" > seen; set -u; set -f; IFS=x; alias exec=false'
        assert _run(_step("good", setup=setup), tmp_path).entries == 20
        assert (tmp_path / "seen").read_text() == "arguments: 0 \n"

    def test_a_file_is_sourced_where_it_is(self, tmp_path):
        folder = tmp_path / "it's here"
        folder.mkdir()
        (folder / "setup.sh").write_text('echo "$(dirname "${BASH_SOURCE[0]}")" > seen\n')
        setup = clean_shell.setup_text("setup.sh", folder)
        _run(_step("good", setup=setup), tmp_path)
        assert (tmp_path / "seen").read_text() == f"{folder}\n"
        assert clean_shell.setup_text("lsetup root", folder) == "lsetup root"

    def test_each_step_has_a_shell_of_its_own(self, tmp_path):
        _run(_step("good", setup="export LEAK=1; cd /"), tmp_path)
        _run(_step(f"good --record {tmp_path}/calls"), tmp_path)
        assert "LEAK" not in json.loads((tmp_path / "calls").read_text())["env"]


def test_the_environment_is_that_of_a_login(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/somewhere")
    monkeypatch.setenv("BASH_ENV", "/somewhere")
    monkeypatch.setenv("VIRTUAL_ENV", "/somewhere")
    monkeypatch.setenv("SECRET_TOKEN", "x")
    monkeypatch.setenv("DASK_RUNNER_RUN", "20261120T225745Z")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    _run(_step(f"good --record {tmp_path}/calls"), tmp_path)
    env = json.loads((tmp_path / "calls").read_text())["env"]
    gone = {"PYTHONPATH", "LD_LIBRARY_PATH", "BASH_ENV", "VIRTUAL_ENV", "SECRET_TOKEN"}
    assert not gone & env.keys()
    assert env["PATH"].startswith("/usr/local/bin:/usr/bin:/bin")
    assert env["HOME"] == os.environ["HOME"]
    # By these a batch's processes are found, and its numerics pinned.
    assert (env["DASK_RUNNER_RUN"], env["OMP_NUM_THREADS"]) == ("20261120T225745Z", "1")


def test_the_script_stays_and_can_be_run_by_hand(tmp_path):
    _run(_step("good", setup="export A=1"), tmp_path)
    (tmp_path / "HITS.root").unlink()
    status = os.spawnv(
        os.P_WAIT, "/bin/bash", ["bash", "--noprofile", "--norc", str(tmp_path / "simulate.sh")]
    )
    assert status == 0
    assert (tmp_path / "HITS.root").exists()


def test_a_flood_of_output_takes_no_memory(tmp_path, capfd):
    seen = 0

    def count(chunk):
        nonlocal seen
        assert len(chunk) <= 1 << 16
        seen += len(chunk)

    with Path(os.devnull).open("wb") as null:
        end = clean_shell.run(
            ["head", "-c", "50000000", "/dev/zero"],
            setup="", folder=tmp_path, name="flood", on_output=count, log=null.fileno(),
        )  # fmt: skip
    assert (end.stage, end.code, seen) == (Stage.COMMAND, 0, 50_000_000)


class _Programs:
    def __init__(self, *programs):
        self._programs = list(programs)

    def programs(self):
        return self._programs


def test_the_dry_test_finds_missing_programs(tmp_path):
    setup = f'export PATH="{tmp_path}:$PATH"; echo once >> {tmp_path}/setups'
    tool = tmp_path / "my_tf.py"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    programs = _Programs(
        Program(where="step 'a'", word="my_tf.py", setup=setup),
        Program(where="step 'b'", word="my_tf.py", setup=setup),
        Program(where="step 'c'", word="my_tf.py"),
        Program(where="step 'd'", word="'$(touch owned)'", setup=setup),
        Program(where="step 'e'", word="bash", setup="echo no CVMFS here; false"),
        Program(where="step 'f'", word=sys.executable),
    )
    problems = checks(programs)
    assert [problem.split(":")[0] for problem in problems] == ["step 'c'", "step 'd'", "step 'e'"]
    assert "no CVMFS here" in problems[2]
    assert (tmp_path / "setups").read_text() == "once\nonce\n"
