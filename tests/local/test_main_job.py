"""The main job on real Pythia events, through the command line: rows 15 and 22 to 26, and I10."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import uproot
from product import RUNNER, Product, wait_for

ROOT = Path(__file__).parent.parent.parent
EVENTS = 120


@pytest.fixture(scope="module")
def sample(tmp_path_factory) -> Path:
    """A folder with 120 real events in three files, and the merged contents of a quiet run."""
    folder = tmp_path_factory.mktemp("sample")
    words = ["generate", "-b", "40", "-n", "3", "--run-number", "304795", "--evnt-dir", "evnt"]
    subprocess.run([*RUNNER, *words, "-q"], cwd=folder, check=True, capture_output=True)
    subprocess.run(
        [*RUNNER, "run", "-b", "40", "--evnt-dir", "evnt", "-q"],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    merged = subprocess.run(
        [*RUNNER, "merge", "last", "--json"], cwd=folder, check=True, capture_output=True
    ).stdout
    (folder / "reference.json").write_bytes(merged)
    return folder


@pytest.fixture
def job(product: Product, sample: Path) -> Product:
    """The product with a copy of the events."""
    shutil.copytree(sample / "evnt", product.folder / "evnt", symlinks=True)
    shutil.rmtree(product.folder / "evnt" / ".dask-runner", ignore_errors=True)
    return product


def contents(merged: dict) -> dict[str, str]:
    return {Path(file["path"]).name: file["content_hash"] for file in merged["files"]}


def reference(sample: Path) -> dict[str, str]:
    return contents(json.loads((sample / "reference.json").read_bytes()))


def run(job: Product, *words: str, expect: int = 0) -> dict:
    return job.json("run", "--evnt-dir", "evnt", "-q", "--slots", "2", *words, expect=expect)


def flip(path: Path, position: int) -> None:
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("size", [7, 25])
def test_the_merged_content_is_the_same_bits_whatever_the_batch_size(job, sample, size):
    run(job, "-b", str(size))
    assert job.check(finished=True).events_done == EVENTS
    merged = job.json("merge", "last")
    assert contents(merged) == reference(sample)
    assert [file["entries"] for file in merged["files"]] == [EVENTS, EVENTS]


def test_the_independent_script_computes_the_same_content_hash(job, sample):
    for file in json.loads((sample / "reference.json").read_bytes())["files"]:
        done = subprocess.run(
            [sys.executable, ROOT / "scripts" / "content_hash.py", file["path"]],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert file["content_hash"] in done.stdout


def test_row_15_driver_killed_then_rerun_gives_the_same_bits(job, sample):
    driver = job.start("run", "-b", "5", "--evnt-dir", "evnt", "--slots", "2")
    wait_for(lambda: job.done() >= 3, "3 batches")
    driver.kill()
    driver.wait()
    job.run("rerun", "last", "-q")
    assert job.check(finished=True).events_done == EVENTS
    job.run("verify", "last")
    assert contents(job.json("merge", "last")) == reference(sample)


def test_a_replayed_batch_has_the_bytes_of_the_published_one(job):
    run(job, "-b", "40", "--first", "1")
    again = job.json("replay", "last", "0", "--folder", "again")
    assert len(again["outputs"]) == 2
    for output in again["outputs"]:
        assert output["replayed"] == output["published"]
    assert (job.folder / "again" / again["outputs"][0]["name"]).exists()


@pytest.mark.parametrize("damage", ["missing", "truncated", "not-root", "no-tree", "empty"])
def test_row_23_an_input_that_cannot_be_used_is_named_before_anything_runs(job, damage):
    path = job.folder / "evnt" / "304795.40.1.EVNT.root"
    content = path.read_bytes()
    path.unlink()
    if damage == "missing":
        path.symlink_to(job.folder / "nowhere")
    elif damage == "truncated":
        path.write_bytes(content[:2000])
    elif damage == "not-root":
        path.write_bytes(b"#!/bin/sh\n" * 100)
    elif damage == "no-tree":
        with uproot.recreate(path) as file:
            file["histogram"] = np.histogram([1.0, 2.0])
    else:
        path.touch()
    refused = job.run("run", "--evnt-dir", "evnt", expect=4)
    assert path.name in refused.stderr
    assert not job.timestamps, "nothing may be left of a refused run"
    dry = job.json("run", "-t", "--evnt-dir", "evnt", expect=4)
    assert any(path.name in problem for problem in dry["problems"])
    assert run(job, "-b", "40", "--skip-bad-inputs")["done"] == 2


def test_row_23_a_flipped_bit_is_found_when_events_are_read_and_not_retried(job, sample):
    path = job.folder / "evnt" / "304795.40.1.EVNT.root"
    backup = path.read_bytes()
    flip(path, len(backup) // 2)
    summary = run(job, "-b", "20", expect=3)
    assert summary["failed"] >= 1
    result = job.check()
    assert result.failed
    (cause,) = job.json("errors", "last")["causes"]
    assert cause["kind"] == "bad-input"
    assert cause["path"].endswith(path.name)
    assert all(len(line["attempts"]) == 1 for line in job.lines("started"))
    assert {n for line in job.lines("started") for _, n in line["attempts"]} == {1}
    path.write_bytes(backup)
    job.run("rerun", "last", "--accept-changed-inputs", "-q")
    assert contents(job.json("merge", "last")) == reference(sample)


def test_row_22_a_changed_input_is_refused_unless_accepted(job):
    run(job, "-b", "40", "--first", "1")
    path = job.folder / "evnt" / "304795.40.2.EVNT.root"
    flip(path, 100)
    refused = job.run("rerun", "last", expect=4)
    assert path.name in refused.stderr
    assert job.json("rerun", "last", "-t", expect=4)["problems"]
    flip(path, 100)
    job.run("rerun", "last", "-q")
    assert job.check(finished=True).events_done == EVENTS


@pytest.mark.parametrize("damage", ["deleted", "truncated"])
def test_row_24_a_lost_output_is_found_and_just_that_batch_is_done_again(job, sample, damage):
    run(job, "-b", "20")
    path = sorted((job.last / "outputs").glob("*.AOD.root"))[2]
    path.chmod(0o644)
    if damage == "deleted":
        path.unlink()
    else:
        os.truncate(path, 1000)
    found = job.json("verify", "last", expect=3)
    assert [item["path"] for item in found["lost"]] == [str(path)]
    assert job.run("merge", "last", expect=3).stderr
    before = len(job.lines("started"))
    job.run("rerun", "last", "-q")
    again = [pair for line in job.lines("started")[before:] for pair in line["attempts"]]
    assert len(again) == 1
    assert job.check(finished=True).events_done == EVENTS
    assert contents(job.json("merge", "last")) == reference(sample)


def test_row_26_hostile_names_of_folders_and_files(job, sample):
    hostile = job.folder / 'it\'s a $(touch pwned) "dir"\n;'
    (job.folder / "evnt").rename(hostile)
    file = hostile / "304795.40.0.EVNT.root"
    file.rename(hostile / "a b'c$(touch pwned2)&.EVNT.root")
    job.run("run", "-b", "40", "--evnt-dir", str(hostile), "-q")
    assert job.check(finished=True).events_done == EVENTS
    for command in (
        ["show", "last"],
        ["show", "last", "0"],
        ["logs", "last", "0"],
        ["verify", "last"],
    ):
        job.run(*command)
    assert not list(job.folder.rglob("pwned*"))


def test_merge_of_an_incomplete_run_says_what_is_missing(job):
    run(job, "-b", "40", "--first", "2")
    refused = job.run("merge", "last", expect=3)
    assert "304795.40.2.EVNT.root entries 0 to 39" in refused.stderr
    merged = job.json("merge", "last", "--acceptance", "0.6")
    assert merged["events"] == 80
    assert len(merged["missing"]) == 1
    with uproot.open(merged["files"][0]["path"]) as file:
        text = " ".join(str(file[key]) for key in file.keys() if "tree" not in key.lower())  # noqa: SIM118
    assert "304795.40.2.EVNT.root" in text, "the file itself says what is not in it"


def test_merge_never_overwrites_and_leaves_no_half_behind(job):
    run(job, "-b", "40", "--first", "1")
    merged = job.last / "merged"
    merged.mkdir()
    (merged / "merged.NTUP.root").write_bytes(b"mine")
    refused = job.run("merge", "last", "--acceptance", "0.3", expect=2)
    assert "merged.NTUP.root exists" in refused.stderr
    assert [path.name for path in merged.iterdir()] == ["merged.NTUP.root"]


def test_first_and_rerun_do_it_all_in_two_parts(job, sample):
    assert run(job, "-b", "20", "--first", "2")["done"] == 2
    job.run("rerun", "last", "-q")
    assert contents(job.json("merge", "last")) == reference(sample)


def test_a_dry_test_leaves_nothing_behind_also_for_a_rerun(job):
    before = sorted(job.folder.rglob("*"))
    plan = job.json("run", "-t", "-b", "25", "--evnt-dir", "evnt")
    assert (plan["batches"], plan["events"], plan["problems"]) == (6, EVENTS, [])
    assert sorted(job.folder.rglob("*")) == before
    run(job, "-b", "40", "--first", "1")
    before = {path: path.stat().st_mtime_ns for path in job.folder.rglob("*")}
    plan = job.json("rerun", "-t", "last")
    assert plan["batches"] == 2
    assert {path: path.stat().st_mtime_ns for path in job.folder.rglob("*")} == before


def test_clean_keeps_manifest_and_outputs_unless_told(job):
    run(job, "-b", "40", "--label", "a label")
    assert job.run("clean", "last", expect=None, input="n\n", stdin=None).returncode == 2
    assert (job.last / "attempts").exists()
    job.run("clean", "last", "--yes")
    assert not (job.last / "attempts").exists()
    assert job.check(finished=True).events_done == EVENTS
    job.run("clean", "last", "--yes", "--outputs")
    assert not list((job.last / "outputs").glob("*"))
    assert job.json("runs")["runs"][0]["label"] == "a label"
    job.run("rerun", "last", "-q")
    assert job.check(finished=True).events_done == EVENTS


def test_extended_samples_continue_the_event_numbers(job):
    words = [
        "generate",
        "-n",
        "1",
        "-b",
        "40",
        "--run-number",
        "304795",
        "--evnt-dir",
        "evnt",
        "-q",
    ]
    refused = job.run(*words, expect=None)
    assert refused.returncode in {2, 4}
    assert "--extend" in refused.stderr
    job.run(*words, "--extend")
    run(job, "-b", "40")
    job.run("merge", "last")
    with uproot.open(job.last / "merged" / "merged.NTUP.root") as file:
        numbers = ak.to_list(file["events"]["event"].array())
    assert numbers == list(range(numbers[0], numbers[0] + EVENTS + 40))


def test_the_example_of_the_python_api_runs(job):
    text = (ROOT / "docs" / "python.md").read_text()
    code = text.split("```python\n")[1].split("```")[0]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=job.folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "120 events" in done.stdout


def test_the_story_in_small(product):
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "story", "--events", "400"],
        cwd=product.folder, capture_output=True, text=True, check=False, env=product.environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "both times" in done.stdout
