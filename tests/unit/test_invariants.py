"""The checker itself: it passes a right run, and finds every violation that is put into one."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import uproot
from invariants import Content, InvariantError, check, secrets, survivors

EVENTS = 5


def line(seq, **record):
    body = json.dumps({**record, "seq": seq}, separators=(",", ":"))[:-1].encode()
    return b'%s,"crc":"%08x"}\n' % (body, zlib.crc32(body))


def write(folder, records):
    path = folder / "manifest.jsonl"
    path.write_bytes(b"".join(line(seq, **record) for seq, record in enumerate(records)))


def root_file(path, first, count=EVENTS):
    with uproot.recreate(path) as file:
        tree = file.mktree("events", {"number": "int64", "pt": "float64"})
        tree.extend({"number": np.arange(first, first + count), "pt": np.ones(count)})
    path.chmod(0o444)


def described(path, entries):
    data = path.read_bytes()
    return {
        "name": path.name,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "entries": entries,
    }


@pytest.fixture
def run(tmp_path):
    """A finished run of two batches, one of them tried twice, and its records."""
    folder = tmp_path / "20261120T225745Z"
    (folder / "outputs").mkdir(parents=True)
    (folder / "attempts").mkdir()
    plan, ends = [], []
    for index in range(2):
        path = folder / "outputs" / f"x.{index}.root"
        root_file(path, index * EVENTS)
        output = {"name": path.name, "tree": "events", "entries": EVENTS}
        plan.append(
            {
                "type": "batch",
                "index": index,
                "workload": "w",
                "count": EVENTS,
                "inputs": [{"path": "in", "first": index * EVENTS, "count": EVENTS}],
                "outputs": [output],
            }
        )
        written = [described(path, EVENTS)]
        number = index + 1
        ends += [
            {
                "type": "outcome",
                "batch": index,
                "attempt": number,
                "status": "done",
                "outputs": written,
            },
            {"type": "intent", "attempts": [[index, number]]},
            {"type": "done", "attempts": [[index, number]]},
        ]
    records = [
        {"type": "header", "outputs": "outputs", "attempts": "attempts", "batches": 2, "inputs": 1},
        {"type": "input", "path": "in", "entries": 2 * EVENTS},
        *plan,
        {"type": "started", "attempts": [[0, 1], [1, 1]]},
        {"type": "outcome", "batch": 1, "attempt": 1, "status": "failed", "failure": {}},
        {"type": "started", "attempts": [[1, 2]]},
        *ends,
        {"type": "note", "kind": "rerun"},
    ]
    write(folder, records)
    return folder, records


def refused(folder, word, **options):
    with pytest.raises(InvariantError) as found:
        check(folder, **{"finished": True, **options})
    assert any(violation.startswith(word) for violation in found.value.violations), str(found.value)
    return str(found.value)


def test_a_right_run_passes(run):
    folder, _ = run
    result = check(folder, finished=True)
    assert (result.done, result.failed, result.pending) == ({0, 1}, set(), set())
    assert result.events_done == 2 * EVENTS
    assert check(folder, finished=True, reference_hash=result.content) == result


def test_the_content_does_not_depend_on_how_it_is_cut(run, tmp_path):
    folder, records = run
    whole = tmp_path / "whole"
    (whole / "outputs").mkdir(parents=True)
    path = whole / "outputs" / "all.root"
    root_file(path, 0, 2 * EVENTS)
    batch = {
        **records[2],
        "count": 2 * EVENTS,
        "inputs": [{"path": "in", "count": 2 * EVENTS}],
        "outputs": [{"name": "all.root", "tree": "events", "entries": 2 * EVENTS}],
    }
    outcome = {**records[7], "outputs": [described(path, 2 * EVENTS)]}
    header = {**records[0], "batches": 1}
    done = {"type": "done", "attempts": [[0, 1]]}
    started = {"type": "started", "attempts": [[0, 1]]}
    write(whole, [header, records[1], batch, started, outcome, done])
    assert check(whole, finished=True).content == check(folder).content


def test_files_of_two_formats_with_equal_trees_are_not_mixed(tmp_path):
    for first in (0, EVENTS, 2 * EVENTS):
        root_file(tmp_path / f"{first}", first)
    root_file(tmp_path / "both", 0, 2 * EVENTS)

    def digest(*parts):
        content = Content()
        for part in parts:
            for content.place, name in enumerate(part):
                content.add_tree(tmp_path / name, "events")
        return content.digest()

    assert digest(["both", "both"]) == digest(["0", "0"], ["5", "5"])
    assert digest(["both", "both"]) != digest(["0", "5"], ["5", "0"])


def test_i1_pending_after_the_end(run):
    folder, records = run
    write(folder, records[:-2])
    assert check(folder).pending == {1}
    assert "pending" in refused(folder, "I1")


def test_i1_a_record_of_an_unknown_batch(run):
    folder, records = run
    write(folder, [*records, {"type": "done", "attempts": [[9, 1]]}])
    assert "unknown batch 9" in refused(folder, "I1")


def test_i1_a_lost_line_of_the_plan(run):
    folder, records = run
    write(folder, records[:3])
    assert "1 of 2 planned" in refused(folder, "I1")


@pytest.mark.parametrize("fault", ["missing", "short", "other bytes", "not root"])
def test_i2_a_done_output_that_does_not_hold(run, fault):
    folder, records = run
    path = folder / "outputs" / "x.1.root"
    path.chmod(0o644)
    content = path.read_bytes()
    match fault:
        case "missing":
            path.unlink()
        case "short":
            path.write_bytes(content[:-1])
        case "other bytes":
            path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        case "not root":
            path.write_bytes(b"x" * 1000)
            new = {**records[10], "outputs": [described(path, EVENTS)]}
            write(folder, [*records[:10], new, *records[11:]])
    refused(folder, "I2")


def test_i2_the_wrong_number_of_entries(run):
    folder, records = run
    path = folder / "outputs" / "x.1.root"
    path.unlink()
    root_file(path, EVENTS, EVENTS - 1)
    new = {**records[10], "outputs": [described(path, EVENTS - 1)]}
    write(folder, [*records[:10], new, *records[11:]])
    assert "has 4 entries, planned were 5" in refused(folder, "I2")


def test_i2_done_without_its_output_or_outcome(run):
    folder, records = run
    write(folder, [*records[:10], {**records[10], "outputs": []}, *records[11:]])
    assert "without its output" in refused(folder, "I2")
    write(folder, [*records[:10], *records[11:]])
    refused(folder, "I2")


def test_i3_a_done_that_was_acknowledged_is_lost(run, tmp_path):
    folder, records = run
    earlier = shutil.copy(folder / "manifest.jsonl", tmp_path / "earlier")
    check(folder, earlier=earlier)
    write(folder, records[:-2])
    assert "done before and not any more: 1" in refused(folder, "I3", earlier=earlier)


def test_i3_damage_and_a_torn_tail(run):
    folder, _ = run
    path = folder / "manifest.jsonl"
    content = path.read_bytes()
    path.write_bytes(content + b"torn")
    check(folder)
    assert "torn tail" in refused(folder, "I3")
    path.write_bytes(content[:500] + bytes([content[500] ^ 4]) + content[501:])
    assert "damaged in the middle" in refused(folder, "I3", finished=False)


def test_i4_started_again_after_done(run):
    folder, records = run
    again = {"type": "started", "attempts": [[0, 2]]}
    write(folder, [*records, again])
    assert "started again after it was done" in refused(folder, "I4")
    lost = {"type": "note", "kind": "lost-output", "data": {"batches": [0]}}
    write(folder, [*records, lost, again])
    assert check(folder).pending == {0}
    write(folder, [*records[:5], records[4], *records[5:]])
    assert "started twice" in refused(folder, "I4")


@pytest.mark.parametrize(
    ("inputs", "word"),
    [
        ({"path": "in", "first": 6, "count": 4}, "[5, 6) of in are in no batch"),
        ({"path": "in", "first": 4, "count": 6}, "[4, 5) of in are also in batch 1"),
        ({"path": "in", "first": 5, "count": 4}, "has 10 events, batches end at 9"),
        ({"path": "other", "first": 5, "count": 5}, "is no input"),
    ],
)
def test_i5_gaps_and_overlaps(run, inputs, word):
    folder, records = run
    write(folder, [*records[:3], {**records[3], "inputs": [inputs]}, *records[4:]])
    assert word in refused(folder, "I5")


def test_i5_a_split_that_loses_events(run):
    folder, records = run
    part = {"index": 2, "workload": "w", "count": 2}
    parts = [
        {**part, "inputs": [{"path": "in", "first": 5, "count": 2}]},
        {**part, "index": 3, "inputs": [{"path": "in", "first": 8, "count": 2}]},
    ]
    write(folder, [*records[:10], {"type": "split", "batch": 1, "parts": parts}])
    assert "[7, 8) of in are in no batch" in refused(folder, "I5", finished=False)


def test_i6_names(run):
    folder, records = run
    stranger = folder / "outputs" / "stranger.root"
    stranger.write_bytes(b"x")
    assert "never planned" in refused(folder, "I6")
    check(folder, also=["stranger.root"])
    check(folder, shared_outputs=True)
    stranger.unlink()
    same = {**records[3], "outputs": records[2]["outputs"]}
    write(folder, [*records[:3], same, *records[4:]])
    assert "is an output of batches 0 and 1" in refused(folder, "I6")
    write(folder, records[:10])
    assert "x.1.root is published, but batch 1 is not done" in refused(folder, "I6")


def test_i6_a_published_file_is_writable(run):
    folder, _ = run
    (folder / "outputs" / "x.0.root").chmod(0o644)
    assert "still writable" in refused(folder, "I6")


def test_i6_done_by_two_attempts(run):
    folder, records = run
    write(folder, [*records, {"type": "done", "attempts": [[0, 2]]}])
    assert "done by two attempts" in refused(folder, "I6")


def test_i7_survivors_are_found_by_environment_and_arguments():
    marker = "DASK_RUNNER_RUN=20990101T000000Z-7"
    sleep = [sys.executable, "-c", "input()"]
    children = [
        subprocess.Popen(sleep, stdin=subprocess.PIPE, env={**os.environ, name: value})
        for name, value in [marker.split("="), ("OTHER", "x")]
    ]
    children.append(subprocess.Popen([*sleep, marker], stdin=subprocess.PIPE))
    try:
        found = survivors("20990101T000000Z-7")
        assert found == sorted([children[0].pid, children[2].pid])
        assert survivors("20990101T000000Z") == []
    finally:
        for child in children:
            child.send_signal(signal.SIGKILL)
            child.communicate()
    assert survivors("20990101T000000Z-7") == []


def test_i9_key_material_in_a_log(run):
    folder, _ = run
    log = folder / "attempts" / "000" / "000001.1" / "log.txt"
    log.parent.mkdir(parents=True)
    # Across the border of two blocks, where a careless search would miss it.
    log.write_bytes(b"x" * ((1 << 20) - 15) + b"-----BEGIN PRIVATE KEY-----")
    assert secrets(folder) == [log]
    assert "log.txt holds key material" in refused(folder, "I9")


def test_i10_another_result(run):
    folder, _ = run
    assert "is not the reference" in refused(folder, "I10", reference_hash="0" * 64)


def test_it_is_independent_of_the_product():
    code = "import sys, invariants; sys.exit(any('dask_runner' in name for name in sys.modules))"
    where = Path(sys.modules["invariants"].__file__).parent
    subprocess.run([sys.executable, "-c", code], check=True, cwd=where)
