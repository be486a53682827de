"""Which host gets which batch, and what becomes of it when a host is bad, cut off, or new.

Rows 10, 13, 17, 28, 29 and 30 of the fault matrix, as a run sees them, on real hosts over real SSH.
"""

import os
import signal
import threading
import time
from pathlib import Path

from product import wait_for

NODES = ("node01", "node02", "node03")


def started_on(rig) -> set[str]:
    """The hosts to which the last run has sent groups."""
    return {line["host"] for line in rig.lines("started")} if rig.timestamps else set()


def waiting_everywhere(rig, number: int):
    """A run with a job waiting in every slot of all hosts."""
    driver = rig.start(*rig.words(number))
    wait_for(lambda: len(rig.hosts_of_executions()) >= 2 * len(NODES), "all slots to be busy")
    return driver


def end(driver, code: int = 0) -> str:
    output, _ = driver.communicate(timeout=120)
    assert driver.returncode == code, output
    return output


def test_a_run_uses_the_hosts_and_slots_that_the_user_wants(make_rig):
    rig = make_rig(3)
    rig.up()
    rig.go()
    one, two, three = (rig.department[name].address for name in NODES)
    rig.run(*rig.words(10, "--hosts", f"!{two},!{three}"))
    assert started_on(rig) == {one}
    rig.run(*rig.words(10, "--hosts", f"{two},{three}"))
    assert started_on(rig) == {two, three}
    (rig.folder / "go").unlink()
    driver = rig.start(*rig.words(10, "--max-slots", "3"))
    before = 20
    wait_for(lambda: len(rig.hosts_of_executions()) == before + 3, "three jobs")
    time.sleep(1.0)  # a fourth one would come now
    assert len(rig.hosts_of_executions()) == before + 3
    rig.go()
    end(driver)
    refused = rig.run(*rig.words(1, "--hosts", "nobody*"), expect=6)
    assert "no host matches 'nobody*'" in refused.stderr
    assert one in refused.stderr
    rig.down()


def test_row_28_a_host_that_fails_what_passes_elsewhere(make_rig):
    rig = make_rig(3)
    rig.up()
    # The last batch waits, so that there is time to look.
    (rig.folder / "job.sh").write_text(
        'echo "$1 $(hostname)" >> "$TEST_FOLDER/executions"\n'
        'test "$(hostname)" = node02 && { echo "no such library"; exit 9; }\n'
        'test "$1" = 59 && until test -e "$TEST_FOLDER/go"; do sleep 0.02; done\n'
        'sleep 0.3\necho "$1" > "$3"\n'
    )
    driver = rig.start(*rig.words(60, "--attempts", "2"))
    (announced,) = wait_for(lambda: rig.look("node02").get("announced"), "it to be announced")
    assert announced.startswith(f"run {rig.timestamps[-1]}: quarantine: ")
    assert "failures in a row" in announced
    rig.go()
    end(driver)
    bad = rig.department["node02"].address
    (note,) = rig.notes("quarantine")
    assert note["data"]["host"] == bad
    assert len(note["data"]["batches"]) >= 3
    here = [place for _, place in rig.hosts_of_executions()].count("node02")
    assert here < 20, "it was not given everything first"
    assert not rig.look("node02").get("announced"), "it was that run's"
    assert bad in rig.run("errors", "last").stdout
    rig.down()
    assert rig.check().done == set(range(60)), "no batch suffers"


def test_row_29_a_batch_that_fails_the_same_way_on_two_hosts(make_rig):
    rig = make_rig(3)
    rig.up()
    (rig.folder / "job.sh").write_text(
        'echo "$1 $(hostname)" >> "$TEST_FOLDER/executions"\n'
        'test "$1" = 3 && { echo "cannot open table 3"; exit 41; }\n'
        'echo "$1" > "$3"\n'
    )
    rig.run(*rig.words(20, "--attempts", "5"), expect=3)
    places = [place for batch, place in rig.hosts_of_executions() if batch == 3]
    assert len(places) == len(set(places)) == 2
    assert not rig.notes("quarantine")
    (note,) = rig.notes("poison")
    assert note["data"]["batch"] == 3
    rig.down()
    assert rig.check().failed == {3}


def test_row_13_a_host_that_is_cut_off_blames_nobody_and_comes_back(make_rig):
    rig = make_rig(3)
    rig.up()
    driver = waiting_everywhere(rig, 12)
    victim = rig.department["node03"]
    victim.cut()
    wait_for(lambda: rig.notes("lost-host"), "the loss", 40)
    (note,) = rig.notes("lost-host")
    assert note["data"]["host"] == victim.address
    assert note["data"]["number"] == 2
    victim.heal()
    wait_for(lambda: rig.notes("host-joined"), "the host to be back", 60)
    rig.go()
    end(driver)
    assert not rig.notes("quarantine"), "what is cut off is no worse than others"
    rig.down()
    assert rig.check().done == set(range(12))
    outcomes = rig.lines("outcome")
    assert not [line for line in outcomes if line["status"] == "failed"]


def test_row_10_a_killed_worker_takes_its_batches_with_it_and_they_run_again(make_rig):
    rig = make_rig(3)
    rig.up()
    driver = waiting_everywhere(rig, 12)
    os.kill(rig.on("node01", "worker_process"), signal.SIGKILL)
    wait_for(lambda: rig.notes("host-joined"), "another worker", 40)
    rig.go()
    end(driver)
    assert not rig.notes("quarantine"), "one death is one failure"
    rig.down()
    assert rig.check().done == set(range(12))


def test_row_17_a_killed_scheduler_costs_no_batch_an_attempt(make_rig):
    rig = make_rig(3)
    rig.up()
    driver = waiting_everywhere(rig, 12)
    (pid,) = [
        pid
        for pid in rig.processes()
        if b"scheduler_process" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: rig.notes("cluster-restarted"), "the scheduler", 60)
    rig.go()
    end(driver)
    rig.down()
    assert rig.check().done == set(range(12))
    assert not [line for line in rig.lines("outcome") if line["status"] == "failed"]


def test_row_30_a_host_that_joins_late_is_used_at_once(make_rig):
    rig = make_rig(2)
    late = rig.department["node02"]
    late.cut()
    rig.up("--min-hosts", "1")
    driver = rig.start(*rig.words(8))
    wait_for(lambda: len(rig.hosts_of_executions()) == 2, "the first host to be busy")
    threading.Timer(0.0, late.heal).start()
    wait_for(lambda: len(rig.hosts_of_executions()) == 4, "the second one to be used", 90)
    rig.go()
    end(driver)
    assert rig.notes("host-joined")[0]["data"]["host"] == late.address
    rig.down()
    assert rig.check().done == set(range(8))


def test_a_host_without_its_agent_gets_nothing_and_fails_no_batch(make_rig):
    rig = make_rig(1)
    rig.environment["DASK_RUNNER_CLUSTER_STAGING"] = "sftp"
    rig.go()
    (rig.folder / "job.sh").write_text(
        'echo "$1 $(hostname)" >> "$TEST_FOLDER/executions"\nsleep 0.3\necho "$1" > "$3"\n'
    )
    rig.up()
    driver = rig.start(*rig.words(24, "--attempts", "1"))
    wait_for(lambda: len(rig.executions()) >= 6, "some batches")
    os.kill(rig.on("node01", "host_agent"), signal.SIGKILL)
    wait_for(lambda: rig.notes("host-joined"), "another agent with a worker", 60)
    end(driver)
    assert not rig.notes("quarantine")
    rig.down()
    assert rig.check().done == set(range(24))
    assert not [line for line in rig.lines("outcome") if line["status"] == "failed"]
