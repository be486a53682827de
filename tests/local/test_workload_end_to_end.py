"""External steps through the whole product: what fails is not published, what is done stays done."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from dask_runner import rootfiles

STANDIN = Path(__file__).parent.parent / "standins" / "transform.py"
SETTINGS = """
[run]
batch_size = 4
attempts = 1
slots = 1

[reconstruct]
patterns = ["*.evnt.pool.root"]
keep = ["AOD"]

[[reconstruct.steps]]
name = "simulate"
output = "HITS"
tree = "CollectionTree"
setup = "setup.sh"
command = '''
{{python}} $STANDIN --inputFile {{input}} --outputFile {{output}} --skipEvents {{first}}
    --maxEvents {{max_events}} --randomSeed {{seed}} --record {record}'''

[[reconstruct.steps]]
name = "reconstruct"
output = "AOD"
tree = "CollectionTree"
setup = "setup.sh"
command = '''
bash -c 'exec "$$@" --behave $(cat {habits}.$$0)' {{job_number}} {{python}} $STANDIN
    --inputFile {{input}} --outputFile {{output}} --maxEvents {{max_events}}'''
"""


def _dask_runner(*words, folder):
    return subprocess.run(
        [sys.executable, "-m", "dask_runner", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def _folder(tmp_path, habits):
    """12 events in one file: three batches, whose second step behaves as `habits` say."""
    table = rootfiles.Table(entries=12, columns={"event": np.arange(12)})
    (tmp_path / "evnt").mkdir()
    rootfiles.write(tmp_path / "evnt" / "a.evnt.pool.root", {"CollectionTree": table}, {})
    (tmp_path / "setup.sh").write_text(f"export STANDIN='{STANDIN}'\n")
    for number, habit in enumerate(habits, start=1):
        (tmp_path / f"habit.{number}").write_text(habit)
    (tmp_path / "settings.toml").write_text(
        SETTINGS.format(record=tmp_path / "calls", habits=tmp_path / "habit")
    )


def _published(tmp_path):
    return sorted(path.name for path in tmp_path.glob("runs/*/outputs/*"))


def test_a_failed_step_is_not_followed_by_publishing(tmp_path):
    """Section 5: a failed step was followed by publishing the partial file with exit 0."""
    _folder(tmp_path, ["partial-then-fails", "good", "lies-about-partial"])
    dry = _dask_runner("run", "-t", folder=tmp_path)
    assert (dry.returncode, (tmp_path / "runs").exists()) == (0, False), dry.stderr
    first = _dask_runner("run", folder=tmp_path)
    assert first.returncode == 3, first.stderr
    assert _published(tmp_path) == ["a.04-07.AOD.root"]
    causes = _dask_runner("errors", "last", folder=tmp_path).stdout
    assert "exit-code" in causes
    assert "jobReport.json claims" in causes

    for number in (1, 3):
        (tmp_path / f"habit.{number}").write_text("good")
    second = _dask_runner("rerun", "last", folder=tmp_path)
    assert second.returncode == 0, second.stderr
    assert _published(tmp_path) == [
        "a.00-03.AOD.root", "a.04-07.AOD.root", "a.08-11.AOD.root"
    ]  # fmt: skip
    # Section 5: the rerun looked for names that were never written, so it reran everything.
    calls = [json.loads(line)["argv"] for line in (tmp_path / "calls").read_text().splitlines()]
    skipped = [argv[argv.index("--skipEvents") + 1] for argv in calls]
    assert sorted(skipped, key=int) == ["0", "0", "4", "8", "8"]
    # The same seeds again.
    seeds = {s: set() for s in skipped}
    for skip, argv in zip(skipped, calls, strict=True):
        seeds[skip].add(argv[argv.index("--randomSeed") + 1])
    assert [len(found) for found in seeds.values()] == [1, 1, 1]
    assert len(set.union(*seeds.values())) == 3
