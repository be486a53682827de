"""runs, status, show, logs, errors: called as a user does, on real manifests, in a folder."""

import io
import json
import sys
import threading

import pytest
from reading_runs import FIRST, SECOND, cluster_note, create, fail, start, succeed, write_log
from rich.console import Console

from dask_runner.batch import LogSlice, Outcome, OutcomeStatus
from dask_runner.cli import main
from dask_runner.cli import read as read_module
from dask_runner.errors import EXIT_MANIFEST, EXIT_USAGE
from dask_runner.manifest import Note, NoteKind, Split
from dask_runner.reports import REPORTS
from dask_runner.reports.attempt_log import LogReader
from dask_runner.reports.listing import run_list
from dask_runner.run_folder import RunFolder, group_log_name


@pytest.fixture
def call(tmp_path, monkeypatch, capfd):
    """Run a command in `tmp_path`; give its exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["dask-runner", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capfd.readouterr()
        return ended.value.code or 0, out, err

    return run


@pytest.fixture
def two_runs(tmp_path):
    """An older complete run; a newer one with 0 done, 1 and 2 failed, 3 pending."""
    with create(tmp_path / "runs", 1, label="old") as old:
        start(old, 0)
        succeed(old, 0)
    with create(tmp_path / "runs", 4, timestamp=SECOND, label="a [bold] name") as new:
        new.record(cluster_note(tev1=2))
        start(new, 0, 1, 2)
        succeed(new, 0)
        fail(new, 1, message="no [tree] in file\x1b[31m", log=b"WARN x\n" * 20_000)
        start(new, 1, attempt=2)
        fail(new, 1, attempt=2, message="no [tree] in file\x1b[31m", log=b"second\n")
        fail(new, 2, fingerprint="beef", message="other")
    return new.folder


def parsed(result):
    code, out, _ = result
    assert code == 0
    return json.loads(out)


def test_runs(call, two_runs):
    code, out, _ = call("runs")
    assert code == 0
    heading, first, second = out.splitlines()
    assert heading.split()[:2] == ["run", "verdict"]
    assert first.startswith(FIRST)
    assert "done" in first
    assert second.startswith(SECOND)
    assert "incomplete" in second


def test_runs_fits_a_terminal_of_80_columns(two_runs):
    target = Console(file=io.StringIO(), force_terminal=True, width=80, color_system=None)
    REPORTS["terminal"](run_list(two_runs.path.parent), target)
    lines = target.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.startswith(f"{SECOND}  incomplete  demo") for line in lines)
    assert "…" not in target.file.getvalue(), "nothing is cut away"


def test_runs_json(call, two_runs):
    answer = parsed(call("runs", "--json"))
    assert set(answer) == {"folder", "runs", "unreadable"}
    old, new = answer["runs"]
    assert set(old) == {
        "timestamp", "label", "verdict", "workload", "batches", "done", "failed", "pending",
        "events", "output_bytes", "created", "last",
    }  # fmt: skip
    assert (old["timestamp"], old["label"], old["verdict"]) == (FIRST, "old", "done")
    assert (new["label"], new["verdict"], new["failed"]) == ("a [bold] name", "incomplete", 2)
    assert (new["output_bytes"], new["events"]) == (10, 100)


def test_runs_shows_a_damaged_manifest_beside_the_others(call, two_runs):
    path = two_runs.manifest
    data = path.read_bytes()
    path.write_bytes(data[:300] + b"#" + data[301:])
    code, out, _ = call("runs")
    assert code == 0
    assert out.splitlines()[1].startswith(FIRST)
    assert f"run {SECOND} cannot be read: " in out
    assert [run["timestamp"] for run in parsed(call("runs", "--json"))["unreadable"]] == [SECOND]


def test_runs_of_an_empty_folder(call, tmp_path):
    code, out, _ = call("runs", "--runs", tmp_path / "none")
    assert code == 0
    assert out == f"no runs in {tmp_path / 'none'}\n"


def test_runs_folder_from_settings(call, two_runs, tmp_path):
    (tmp_path / "runs").rename(tmp_path / "elsewhere")
    (tmp_path / "settings.toml").write_text('[storage]\nruns = "elsewhere"\n')
    assert len(parsed(call("runs", "--json"))["runs"]) == 2


def test_status_without_activity(call, two_runs):
    code, out, _ = call("status")
    assert code == 0
    assert out.startswith("no cluster is up, and no active run in ")


def test_status_of_all_active_runs(call, two_runs, tmp_path):
    with create(tmp_path / "runs", 5, timestamp="20261122T000000Z") as manifest:
        manifest.record(cluster_note(tev1=2))
        start(manifest, 0, 1, host="")
        succeed(manifest, 0)
        with create(tmp_path / "runs", 1, timestamp="20261123T000000Z"):
            code, out, _ = call("status")
            answer = parsed(call("status", "--json"))
    assert code == 0
    assert [run["summary"]["timestamp"] for run in answer["runs"]] == [
        "20261122T000000Z", "20261123T000000Z",
    ]  # fmt: skip
    first, second = answer["runs"]
    assert first["cluster"]["hosts"] == [{"host": "tev1", "slots": 2, "busy": 1}]
    assert second["cluster"] is None
    assert FIRST not in out
    assert "local" in out
    assert "1/5" in out
    assert "run 20261123T000000Z: its cluster is not open yet" in out


def test_status_of_one_run(call, two_runs, tmp_path):
    with create(tmp_path / "runs", 3, timestamp="20261122T000000Z") as manifest:
        manifest.record(cluster_note(tev1=2))
        start(manifest, 0, 1, host="tev1")
        answer = parsed(call("status", "20261122", "--json"))
        _, out, _ = call("status", "last")
    assert set(answer) == {"summary", "driver", "cluster", "running"}
    assert answer["summary"]["verdict"] == "running"
    assert answer["driver"]["certain"] is True
    (batch, _) = answer["running"]
    assert set(batch) == {"batch", "attempt", "host", "started", "seconds"}
    assert (batch["batch"], batch["attempt"], batch["host"]) == (0, 1, "tev1")
    assert "2 running batches" in out
    assert "process " in out


def test_status_of_a_run_that_nobody_drives(call, two_runs):
    answer = parsed(call("status", SECOND, "--json"))
    assert answer["driver"] is None
    assert answer["running"] == []
    assert answer["summary"]["rerun"] == f"dask-runner rerun {SECOND}"
    _, out, _ = call("status", SECOND)
    assert "nobody is at work on this run" in out
    assert f"dask-runner rerun {SECOND}" in out


def test_watch_ends_with_the_run(call, two_runs):
    code, out, _ = call("status", SECOND, "--watch")
    assert code == 0
    assert "2 failed" in out
    code, _, err = call("status", "--watch", "--json")
    assert code == EXIT_USAGE
    assert "exclude each other" in err


def test_watch_follows_a_run_until_its_driver_ends(call, tmp_path, monkeypatch):
    manifest = create(tmp_path / "runs", 2)
    start(manifest, 0, 1)
    looks = []

    def next_look(_seconds):
        looks.append(1)
        succeed(manifest, len(looks) - 1)
        if len(looks) == 2:
            manifest.close()

    monkeypatch.setattr(read_module.time, "sleep", next_look)
    code, out, _ = call("status", "last", "--watch")
    assert code == 0
    assert len(looks) == 2
    assert "2/2 done" in out


def test_show_run(call, two_runs):
    code, out, _ = call("show", SECOND)
    assert code == 0
    for wanted in (
        "dask-runner run -b 25", "by ada on tev1", "seed", "run.batch_size", "in.root[0:25]",
        "cluster: cluster open", "failed batches by cause", f"dask-runner rerun {SECOND}",
    ):  # fmt: skip
        assert wanted in out
    assert "\x1b" not in out


def test_show_run_json(call, two_runs):
    answer = parsed(call("show", SECOND, "--json"))
    assert set(answer) == {"header", "summary", "driver", "inputs", "first", "last", "notes"}
    assert answer["header"]["seed"] == 7
    assert [batch["index"] for batch in answer["first"] + answer["last"]] == [0, 1, 2, 3]
    assert answer["summary"]["causes"][0]["batches"] == 1


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 9])
def test_first_and_last_batches_do_not_overlap(call, tmp_path, number):
    create(tmp_path / "runs", number).close()
    answer = parsed(call("show", "last", "--json"))
    indices = [batch["index"] for batch in answer["first"] + answer["last"]]
    assert indices == sorted({0, 1, number - 2, number - 1} & set(range(number)))


def test_show_batch_with_every_attempt(call, two_runs):
    answer = parsed(call("show", SECOND, 1, "--json"))
    assert set(answer) == {
        "timestamp", "batch", "id", "verdict", "running", "attempts", "outputs", "parts", "part_of",
    }  # fmt: skip
    assert (answer["verdict"], answer["id"], answer["running"]) == ("failed", "000001", False)
    first, second = answer["attempts"]
    assert set(first) == {
        "attempt", "status", "published", "host", "sent", "started", "wall", "cpu", "max_rss",
        "bytes_written", "outputs", "failure", "log", "log_slice", "counters",
    }  # fmt: skip
    assert (first["attempt"], second["attempt"], first["status"]) == (1, 2, "failed")
    assert first["log"] == str(two_runs.attempt(1, 1) / "log.txt")
    assert first["failure"]["kind"] == "exception"
    _, out, _ = call("show", SECOND, 1)
    assert "attempt 1: failed" in out
    assert "attempt 2: failed" in out
    assert "no [tree] in file [31m" in out
    assert "  | broke" in out


def test_show_done_batch(call, two_runs):
    answer = parsed(call("show", FIRST, 0, "--json"))
    assert answer["attempts"][0]["published"] is True
    (output,) = answer["outputs"]
    assert output["path"].endswith(f"{FIRST}/outputs/0.root")
    assert (output["bytes"], output["entries"], output["sha256"]) == (10, 25, "a" * 64)
    _, out, _ = call("show", FIRST, 0)
    assert "attempt 1: done, published" in out
    assert "most memory 50 MB" in out
    assert "events" in out


def test_show_attempt_whose_driver_died_and_output_that_was_lost(call, tmp_path):
    with create(tmp_path / "runs", 2) as manifest:
        start(manifest, 0, 1)
        succeed(manifest, 0)
        manifest.record(Note.lost_output([0], "gone"), Note(kind=NoteKind.RERUN))
    lost = parsed(call("show", "last", 0, "--json"))
    assert (lost["verdict"], lost["outputs"]) == ("pending", [])
    assert lost["attempts"][0]["published"] is False
    died = parsed(call("show", "last", 1, "--json"))
    assert [attempt["status"] for attempt in died["attempts"]] == ["unfinished"]


def test_show_split_batch(call, tmp_path):
    with create(tmp_path / "runs", 2) as manifest:
        batch = manifest.state.batches[1]
        parts = tuple(
            type(batch)(index=index, workload="demo", count=count)
            for index, count in ((2, 10), (3, 15))
        )
        manifest.record(Split(batch=1, parts=parts))
    assert parsed(call("show", "last", 1, "--json"))["parts"] == [2, 3]
    assert parsed(call("show", "last", 1, "--json"))["verdict"] == "superseded"
    assert parsed(call("show", "last", 3, "--json"))["part_of"] == 1


def test_unknown_run_batch_attempt(call, two_runs):
    code, _, err = call("show", "2027")
    assert code == EXIT_MANIFEST
    assert "no run '2027'" in err
    code, _, err = call("show", "2026112")
    assert code == EXIT_USAGE
    assert "not unique" in err
    code, _, err = call("show", SECOND, 4)
    assert code == EXIT_USAGE
    assert f"run {SECOND} has no batch 4" in err
    assert "its batches are 0 to 3" in err
    code, _, err = call("logs", SECOND, 1, "--attempt", 3)
    assert code == EXIT_USAGE
    assert "has no attempt 3" in err


def test_errors_tell_what_was_held_against_hosts(call, tmp_path):
    text = "tev9 is under quarantine: 3 failures in a row there [x]"
    with create(tmp_path / "runs", 1) as manifest:
        manifest.record(Note(kind=NoteKind.QUARANTINE, text=text, data={"host": "tev9"}))
    (note,) = parsed(call("errors", FIRST, "--json"))["hosts"]
    assert note["data"] == {"host": "tev9"}
    assert text in call("errors", FIRST)[1]
    assert text in call("show", FIRST)[1]


def test_errors(call, two_runs):
    answer = parsed(call("errors", SECOND, "--json"))
    assert set(answer) == {"timestamp", "failed", "failed_attempts", "causes", "hosts", "rerun"}
    assert (answer["failed"], answer["failed_attempts"]) == (2, 3)
    first, second = answer["causes"]
    assert set(first) == {
        "kind", "fingerprint", "message", "batches", "events", "hosts", "example", "attempt",
        "log", "read", "tail", "path",
    }  # fmt: skip
    assert (first["example"], first["attempt"], second["fingerprint"]) == (1, 2, "beef")
    code, out, _ = call("errors", SECOND)
    assert code == 0
    assert "2 failed batches in 2 causes" in out
    assert "no [tree] in file [31m" in out
    assert "\x1b" not in out
    assert "  | broke" in out
    assert f"dask-runner rerun {SECOND} --cause beef" in out
    _, out, _ = call("errors", FIRST)
    assert out == f"run {FIRST}: no failed batches\n"


def test_logs_fold_and_raw_does_not(call, two_runs):
    code, out, err = call("logs", SECOND, 1, "--attempt", 1)
    assert code == 0
    assert out == "WARN x  [x 20000]\n"
    assert "attempt 1 (failed): " in err
    assert call("logs", SECOND, 1, "--attempt", 1, "--raw")[1] == "WARN x\n" * 20_000
    assert call("logs", SECOND, 1)[1] == "second\n", "the latest attempt"


def test_logs_as_json_are_lines(call, two_runs):
    folded = parsed(call("logs", SECOND, 1, "--attempt", 1, "--json"))
    assert folded["lines"] == ["WARN x  [x 20000]"]
    assert (folded["batch"], folded["attempt"], folded["status"]) == (1, 1, "failed")
    assert folded["path"].endswith("log.txt")
    every = parsed(call("logs", SECOND, 1, "--attempt", 1, "--json", "--raw"))
    assert every["lines"] == ["WARN x"] * 20_000
    assert call("logs", SECOND, 1, "--json", "-f")[0] == 2


def test_raw_log_is_the_very_bytes(tmp_path, monkeypatch, capfdbinary):
    data = b"\x1b[31m\xff\xfe\r\n\x00 end"
    with create(tmp_path / "runs", 1) as manifest:
        start(manifest, 0)
        fail(manifest, 0, log=data)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["dask-runner", "logs", "last", "0", "--raw"])
    with pytest.raises(SystemExit):
        main()
    assert capfdbinary.readouterr().out == data


def test_log_in_a_shared_file_is_only_its_slice(call, tmp_path):
    with create(tmp_path / "runs", 2) as manifest:
        start(manifest, 0, 1)
        shared = manifest.folder.attempts / group_log_name(0, 1)
        shared.parent.mkdir(parents=True)
        shared.write_bytes(b"first\nsecond\nthird\n")
        folder = manifest.folder
        assert LogReader(folder.path, 1).find().shared
        log = LogSlice(path=group_log_name(0, 1), offset=6, length=7)
        manifest.record(Outcome(batch=1, attempt=1, status=OutcomeStatus.DONE, log=log))
    assert call("logs", "last", 1)[1] == "second\n"


def test_no_log_says_why(call, tmp_path):
    with create(tmp_path / "runs", 2) as manifest:
        start(manifest, 0)
        fail(manifest, 0, log=None)
        code, _, err = call("logs", "last", 1)
        assert (code, "has not started yet" in err) == (EXIT_USAGE, True)
    code, _, err = call("logs", "last", 0)
    assert (code, "attempt 1 of batch 0 left no log (failed)" in err) == (EXIT_USAGE, True)
    code, _, err = call("logs", "last", 1)
    assert (code, "has not been tried yet" in err) == (EXIT_USAGE, True)


def test_log_of_a_running_attempt(call, tmp_path):
    with create(tmp_path / "runs", 1) as manifest:
        start(manifest, 0)
        write_log(manifest, 0, b"so far\n")
        _, out, err = call("logs", "last", 0)
    assert out == "so far\n"
    assert "attempt 1 (running)" in err


def test_follow_from_before_the_start_to_the_outcome(tmp_path):
    manifest = create(tmp_path, 1)
    text = b"".join(b"line %d\n" % number for number in range(5))
    looks = []

    def pause():
        looks.append(len(looks))
        if len(looks) == 2:
            start(manifest, 0)
        elif len(looks) == 4:
            write_log(manifest, 0, text[:10])
        elif len(looks) == 6:
            write_log(manifest, 0, text[:20])
        elif len(looks) == 8:
            fail(manifest, 0, log=text)

    with manifest:
        got = b"".join(LogReader(manifest.folder.path, 0, pause=pause).follow())
    assert got == text
    assert len(looks) == 8


def test_follow_ends_when_the_driver_is_gone(tmp_path):
    manifest = create(tmp_path, 1)
    start(manifest, 0)
    write_log(manifest, 0, b"half\n")
    got = b"".join(LogReader(manifest.folder.path, 0, pause=manifest.close).follow())
    assert got == b"half\n"


def test_follow_command_prints_as_it_comes(call, tmp_path):
    manifest = create(tmp_path / "runs", 1)
    start(manifest, 0)
    write_log(manifest, 0, b"WARN 1\nWARN 2\n")
    other = threading.Timer(
        0.5, lambda: (fail(manifest, 0, log=b"WARN 1\nWARN 2\nend"), manifest.close())
    )
    other.start()
    code, out, _ = call("logs", "last", 0, "-f")
    other.join()
    assert code == 0
    assert out == "WARN 1  [x 2, numbers differ]\nend\n"


def test_outputs_in_a_folder_of_their_own(call, tmp_path):
    with create(tmp_path / "runs", 1, outputs=tmp_path / "big disk") as manifest:
        start(manifest, 0)
        fail(manifest, 0)
    answer = parsed(call("errors", "last", "--json"))
    log = RunFolder.at(tmp_path / "runs" / FIRST, tmp_path / "big disk").attempt(0, 1) / "log.txt"
    assert answer["causes"][0]["log"] == str(log)
    assert call("logs", "last", 0)[1] == "going\nbroke\n"
