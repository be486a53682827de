"""What holds the product together: a light start, one version, documented exit codes, the scripts,
and the rule that nothing is skipped in CI.
"""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import dask_runner
from dask_runner import errors

TOP = Path(__file__).parents[2]
HEAVY = ("distributed", "dask", "uproot", "awkward", "scipy", "numpy", "asyncssh", "pythia8mc")


def run(*command, **more):
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **more)


def test_help_imports_nothing_heavy():
    code = f"""
import sys
from dask_runner.cli import main
sys.argv = ["dask-runner", "--help"]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print("loaded:", *sorted(set({HEAVY}) & set(sys.modules)))
"""
    result = run(sys.executable, "-c", code)
    assert result.returncode == 0, result.stderr
    assert "generate" in result.stdout
    assert result.stdout.rstrip().splitlines()[-1] == "loaded:"


def test_the_command_is_installed():
    program = Path(sys.executable).with_name("dask-runner")
    result = run(program, "--version")
    assert result.stdout == f"dask-runner {dask_runner.__version__}\n"


def test_one_version():
    assert importlib.metadata.version("dask-runner") == dask_runner.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+|rc\d+)?", dask_runner.__version__)


def test_changelog_has_a_place_for_the_next_change():
    text = (TOP / "CHANGELOG.md").read_text()
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert headings[0] == "[Unreleased]"
    assert all(re.match(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", line) for line in headings[1:])


def test_every_exit_code_is_documented():
    text = (TOP / "docs" / "exit-codes.md").read_text()
    documented = re.findall(r"^\| (\d+) \| `(\w+)` \| \S", text, re.MULTILINE)
    codes = {name: value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    assert {name: int(code) for code, name in documented} == codes
    assert len(set(codes.values())) == len(codes)


def test_every_error_has_an_exit_code_of_its_own_kind():
    codes = {value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    kinds = [k for k in vars(errors).values() if isinstance(k, type)]
    assert len(kinds) > 5
    for kind in kinds:
        assert issubclass(kind, errors.RunnerError)
        assert kind.exit_code in codes - {errors.EXIT_DONE}


def test_extra_all_holds_every_extra_for_users():
    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    # gssapi is built against the system's Kerberos, which many machines do not have.
    extras = set(project["optional-dependencies"]) - {"all", "dev", "gssapi"}
    [everything] = project["optional-dependencies"]["all"]
    assert (
        everything
        == f"dask-runner[{','.join(extra for extra in project['optional-dependencies'] if extra in extras)}]"
    )


@pytest.mark.parametrize("name", ["scripts/quickstart", "scripts/test", ".ci/run"])
def test_scripts_can_be_run(name):
    assert os.access(TOP / name, os.X_OK)
    assert run("bash", "-n", TOP / name).returncode == 0


def script_in(folder, name):
    """A copy of the clone's scripts, so that a call cannot touch the clone."""
    shutil.copytree(TOP / "scripts", folder / "scripts", ignore=shutil.ignore_patterns("bench"))
    shutil.copy(TOP / "pyproject.toml", folder)
    return folder / "scripts" / name


@pytest.mark.parametrize("name", ["quickstart", "test"])
def test_scripts_say_when_python_is_too_old(tmp_path, name):
    old = tmp_path / "python3.9"
    # Passes for an old Python: prints its version, and fails every condition on it.
    old.write_text('#!/bin/sh\n[ "$1" = -V ] && echo Python 3.9.2 && exit 0\nexit 1\n')
    old.chmod(0o755)
    script = script_in(tmp_path, name)
    result = run(script, env={**os.environ, "PYTHON": str(old)})
    assert result.returncode == 1
    assert "no Python 3.11 or newer" in result.stderr
    assert "Python 3.9.2" in result.stderr
    assert "PYTHON=/path" in result.stderr
    assert not (tmp_path / ".venv").exists()


def test_scripts_say_when_venv_is_missing(tmp_path):
    bare = tmp_path / "python3"
    bare.write_text(
        f'#!/bin/sh\ncase "$2" in *ensurepip*) exit 1;; esac\nexec "{sys.executable}" "$@"\n'
    )
    bare.chmod(0o755)
    script = script_in(tmp_path, "quickstart")
    result = run(script, env={**os.environ, "PYTHON": str(bare)})
    assert result.returncode == 1
    assert "apt install python3-venv" in result.stderr


SKIPS = """
import pytest

def test_passes():
    pass

@pytest.mark.skip(reason="no such machine")
def test_skipped():
    pass

@pytest.mark.xfail(strict=True)
def test_expected():
    assert False
"""
SKIPPED_MODULE = 'import pytest\npytest.importorskip("no_such_module_at_all")\n'


@pytest.mark.parametrize(("text", "count"), [(SKIPS, 1), (SKIPPED_MODULE, 1)])
def test_a_skip_fails_in_ci_only(tmp_path, text, count):
    (tmp_path / "conftest.py").write_text((TOP / "tests" / "conftest.py").read_text())
    (tmp_path / "test_it.py").write_text(text)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    command = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", tmp_path)
    environment = {key: value for key, value in os.environ.items() if key != "CI"}
    lenient = run(*command, env=environment)
    assert "skipped" in lenient.stdout
    assert lenient.returncode in {0, 5}, lenient.stdout  # 5: the only module was skipped
    strict = run(*command, env={**environment, "CI": "true"})
    assert strict.returncode in {1, 2}, strict.stdout  # 2: a module that cannot be collected
    assert "skipped in CI" in strict.stdout
    assert f"{count} failed" in strict.stdout or f"{count} error" in strict.stdout
