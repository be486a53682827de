"""The fault matrix, driver's side, on one machine: rows 9, 10, 15, 16, 20, 21, 25 and 29.

Each test injects the real fault into the real product and ends with the shared invariants.
"""

import calendar
import json
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from product import Jobs, wait_for

SLOTS = ("--slots", "2")


def held(jobs: Jobs, number: int, *more: str) -> subprocess.Popen[str]:
    """A run whose first jobs are running and wait."""
    driver = jobs.start(*jobs.words(number, *SLOTS, *more))
    wait_for((jobs.folder / "waiting").exists, "a job to run")
    return driver


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_row_15_driver_killed_at_a_random_moment_and_again_during_recovery(jobs, seed):
    moment = random.Random(seed)
    jobs.go()
    driver = jobs.start(*jobs.words(60, *SLOTS))
    wanted = moment.randrange(1, 20)
    wait_for(lambda: jobs.done() >= wanted, f"{wanted} batches")
    driver.kill()
    driver.wait()
    manifest = jobs.last / "manifest.jsonl"
    earlier = Path(shutil.copy(manifest, jobs.folder / "earlier.jsonl"))
    size = manifest.stat().st_size
    # Recovery is killed too: somewhere between its start and its first batches.
    again = jobs.start("rerun", "last", *SLOTS)
    wait_for(lambda: manifest.stat().st_size > size, "the rerun to write")
    time.sleep(moment.random() * 1.5)  # the random moment itself, not a synchronisation
    again.kill()
    again.wait()
    jobs.run("rerun", "last", *SLOTS)
    result = jobs.check(earlier=earlier)
    assert result.done == set(range(60))


def test_row_15_what_was_done_before_the_kill_is_not_executed_again(jobs):
    jobs.go()
    driver = jobs.start(*jobs.words(40, *SLOTS))
    wait_for(lambda: jobs.done() >= 5, "5 batches")
    driver.kill()
    driver.wait()
    jobs.nothing_left()
    done = {index for line in jobs.lines("done") for index, _ in line["attempts"]}
    before = jobs.executions()
    jobs.run("rerun", "last", *SLOTS)
    after = jobs.executions()[len(before) :]
    assert not done & set(after)
    assert jobs.check().done == set(range(40))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_row_16_the_first_signal_drains_the_running_batches(jobs, number):
    driver = held(jobs, 10)
    driver.send_signal(number)
    jobs.go()
    output, _ = driver.communicate(timeout=60)
    assert driver.returncode == 130, output
    result = jobs.check()
    assert 1 <= len(result.done) <= 4
    assert not result.failed
    assert jobs.json("rerun", "last")["verdict"] == "done"
    assert jobs.check().done == set(range(10))


def test_row_16_the_second_signal_ends_at_once(jobs):
    driver = held(jobs, 10)
    driver.send_signal(signal.SIGINT)
    time.sleep(0.3)  # two signals at once would be one
    driver.send_signal(signal.SIGINT)
    output, _ = driver.communicate(timeout=30)
    assert driver.returncode == 130, output
    result = jobs.check()
    assert result.pending == set(range(10)), "cancelled batches are nobody's failure"


def test_row_10_worker_killed_old_tree_dead_then_one_new_attempt(jobs):
    driver = held(jobs, 6)
    os.kill(jobs.find("worker_process"), signal.SIGKILL)
    old = [int(line.split()[1]) for line in (jobs.folder / "executions").read_text().splitlines()]
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in old), "the old tree to end")
    jobs.go()
    output, _ = driver.communicate(timeout=90)
    assert driver.returncode == 0, output
    assert jobs.check().done == set(range(6))


def test_row_10_agent_killed_ends_the_run_with_a_clear_message(jobs):
    driver = held(jobs, 6)
    os.kill(jobs.find("host_agent"), signal.SIGKILL)
    output, _ = driver.communicate(timeout=60)
    assert driver.returncode == 6, output
    assert "cluster was lost" in output
    assert "rerun" in output
    jobs.check()
    jobs.go()
    jobs.run("rerun", "last")
    assert jobs.check().done == set(range(6))


def test_row_17_scheduler_killed_ends_the_run_and_rerun_completes_it(jobs):
    driver = held(jobs, 6)
    os.kill(jobs.find("scheduler_process"), signal.SIGKILL)
    output, _ = driver.communicate(timeout=60)
    assert driver.returncode == 6, output
    jobs.check()
    jobs.go()
    jobs.run("rerun", "last")
    assert jobs.check().done == set(range(6))


def test_row_20_of_two_reruns_one_says_who_holds_the_lock(jobs):
    driver = held(jobs, 4)
    refused = jobs.run("rerun", "last", expect=5)
    assert str(driver.pid) in refused.stderr
    jobs.go()
    assert driver.wait(60) == 0
    assert jobs.check().done == set(range(4))


def test_row_21_runs_of_one_second_have_folders_of_their_own(jobs):
    jobs.go()
    drivers = [jobs.start(*jobs.words(2, "--slots", "1")) for _ in range(3)]
    for driver in drivers:
        output, _ = driver.communicate(timeout=90)
        assert driver.returncode == 0, output
    assert len(jobs.timestamps) == 3
    assert sorted(jobs.executions()) == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("zone", ["Europe/Zurich", "Pacific/Auckland"])
def test_row_21_names_of_runs_are_utc_whatever_the_zone(jobs, zone):
    jobs.environment["TZ"] = zone
    jobs.go()
    jobs.run(*jobs.words(1))
    stamp = jobs.timestamps[0]
    named = calendar.timegm(time.strptime(stamp, "%Y%m%dT%H%M%SZ"))
    assert abs(time.time() - named) < 600, "a name in local time would be off by an hour or more"


def test_row_29_a_batch_that_fails_the_same_way_twice_is_poison_and_the_rest_is_done(jobs):
    jobs.go()
    (jobs.folder / "job.sh").write_text(
        'echo "$1 $$" >> "$TEST_FOLDER/executions"\n'
        'test "$1" = 3 && { echo "cannot open table 3"; exit 41; }\n'
        'echo "$1" > "$3"\n'
    )
    jobs.run(*jobs.words(6), expect=3)
    assert jobs.executions().count(3) == 2
    result = jobs.check()
    assert result.failed == {3}
    assert result.done == {0, 1, 2, 4, 5}
    (cause,) = jobs.json("errors", "last")["causes"]
    assert cause["kind"] == "exit-code"
    assert "cannot open table 3" in cause["tail"]


def test_a_detached_run_goes_on_and_can_be_waited_for(jobs):
    started = json.loads(jobs.run(*jobs.words(4, "--detach", "--json")).stdout)
    wait_for((jobs.folder / "waiting").exists, "a job to run")
    (active,) = jobs.json("status")["runs"]
    assert active["summary"]["timestamp"] == started["run"]
    jobs.go()
    jobs.run("wait", "last")
    assert jobs.check().done == set(range(4))


def test_cancel_ends_a_detached_run_at_once(jobs):
    jobs.run(*jobs.words(4, "--detach"))
    wait_for((jobs.folder / "waiting").exists, "a job to run")
    jobs.run("cancel", "last")
    assert jobs.check().pending == set(range(4))
    jobs.go()
    jobs.run("rerun", "last")
    assert jobs.check().done == set(range(4))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MB that fills up."""
    mount = tmp_path / "small"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", mount], check=True)
    yield mount
    subprocess.run(["umount", "-l", mount], check=True)


def fill(mount: Path) -> Path:
    ballast = mount / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 4096)
        except OSError:
            return ballast


def test_row_9_manifest_disk_full_stops_the_run_and_rerun_works_after_space_is_made(
    jobs, small_disk
):
    runs = small_disk / "runs"
    jobs.runs = runs
    output_dir = jobs.folder / "results"
    driver = held(jobs, 400, "--runs", str(runs), "--output-dir", str(output_dir))
    ballast = fill(small_disk)
    jobs.go()
    output, _ = driver.communicate(timeout=90)
    assert driver.returncode == 7, output
    jobs.nothing_left()
    ballast.unlink()
    jobs.run("rerun", "last", "--runs", str(runs), "--first", "20")
    result = jobs.check()
    assert len(result.done) >= 20


def test_row_8_output_disk_full_fails_attempts_and_publishes_nothing_partial(jobs, small_disk):
    (jobs.folder / "job.sh").write_text('head -c 600000 /dev/zero > "$3"\n')
    jobs.run(*jobs.words(3, "--output-dir", str(small_disk / "results")), expect=None)
    result = jobs.check()
    assert len(result.done) <= 1
    causes = jobs.json("errors", "last")["causes"]
    assert causes, "a full disk must be explained"


def test_a_host_that_computes_other_bits_is_refused_unless_accepted(jobs):
    jobs.go()
    jobs.run(*jobs.words(2, "--first", "1"))
    # The self-test's answer as it would be after a change of processor or C library.
    folder = jobs.folder / "cache" / "dask-runner"
    jobs.environment["XDG_CACHE_HOME"] = str(jobs.folder / "cache")
    jobs.run(*jobs.words(1))
    (cache,) = folder.iterdir()
    key, _, _ = cache.read_text().partition("\n")
    cache.write_text(f"{key}\nnumpy+fit 0123456789abcdef")
    first = jobs.timestamps[0]
    refused = jobs.run("rerun", first, expect=6)
    assert "other bits" in refused.stderr
    jobs.run("rerun", first, "--accept-numerics")
    lines = (jobs.runs / first / "manifest.jsonl").read_text()
    assert "0123456789abcdef" in lines, "what was accepted is on record"


def test_waiting_for_a_run_in_parts_ends_as_the_run_did(jobs):
    jobs.go()
    jobs.run(*jobs.words(4, "--first", "2"))
    jobs.run("wait", "last")
    driver = jobs.start("rerun", "last")
    wait_for(lambda: jobs.lines("started")[2:], "the rerun to dispatch")
    driver.send_signal(signal.SIGINT)
    code = driver.wait(60)
    jobs.run("wait", "last", expect=code)


def test_outputs_and_attempts_have_the_users_umask(jobs):
    jobs.go()
    jobs.run(*jobs.words(1), umask=0o077)
    (output,) = (jobs.last / "outputs").iterdir()
    assert output.stat().st_mode & 0o777 == 0o400
    for path in (jobs.last / "attempts").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path


def test_a_file_system_without_links_between_folders_is_refused_at_once(jobs):
    attempts = jobs.folder / "results" / ".dask-runner"
    attempts.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", attempts], check=True)
    try:
        refused = jobs.run(*jobs.words(1, "--output-dir", "results"), expect=7)
        assert "hard links" in refused.stderr
        assert not jobs.timestamps
        assert not list((jobs.folder / "results").glob(".probe*"))
    finally:
        subprocess.run(["umount", attempts], check=True)


def test_a_rerun_in_parts_takes_what_was_never_tried_before_what_failed(jobs):
    jobs.go()
    (jobs.folder / "job.sh").write_text('test "$1" = 0 && exit 4\necho "$1" > "$3"\n')
    jobs.run(*jobs.words(4, "--first", "2"), expect=3)
    jobs.run("rerun", "last", "--first", "2", expect=3)
    result = jobs.check()
    assert (result.done, result.failed) == ({1, 2, 3}, {0})


def test_a_rerun_may_give_the_run_another_label(jobs):
    jobs.go()
    jobs.run(*jobs.words(2, "--first", "1", "--label", "one"))
    assert jobs.json("runs")["runs"][0]["label"] == "one"
    assert jobs.json("rerun", "last", "--label", "two")["label"] == "two"
    assert jobs.json("runs")["runs"][0]["label"] == "two"
    jobs.run("rerun", "last")
    assert jobs.json("status", "last")["summary"]["label"] == "two"
