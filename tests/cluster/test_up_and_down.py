"""A cluster from `up` to `down`: what it says, who uses it, what it leaves."""

import os
import shutil
import signal

from product import wait_for

from dask_runner.errors import EXIT_CLUSTER


def test_up_run_down(make_rig):
    rig = make_rig(3)
    status = rig.up()
    assert [host["phase"] for host in status["hosts"]] == ["up"] * 3
    rig.go()
    done = rig.run(*rig.words(30))
    assert "using cluster main" in done.stderr
    rig.down()
    result = rig.check()
    assert result.done == set(range(30))
    assert {host for _, host in rig.hosts_of_executions()} == {"node01", "node02", "node03"}


def test_without_a_cluster_this_machine_is_used_and_it_says_so(make_rig):
    rig = make_rig(1)
    rig.go()
    done = rig.run(*rig.words(2))
    assert "no cluster" in done.stderr
    rig.check()


def test_in_the_foreground_an_interrupt_ends_everything(make_rig):
    rig = make_rig(2)
    rig.write_hostfile()
    manager = rig.start("up")
    wait_for(lambda: rig.json("status")["clusters"], "the cluster")
    for name in ("node01", "node02"):
        rig.wait_phase(name, "up")
    manager.send_signal(signal.SIGINT)
    assert manager.wait(20) == 0
    rig.nothing_left()


def test_the_managers_death_ends_everything(make_rig):
    rig = make_rig(2)
    status = rig.up()
    assert rig.processes()
    os.kill(status["pid"], signal.SIGKILL)
    rig.nothing_left()
    done = rig.run("down", expect=EXIT_CLUSTER)
    assert "no cluster" in done.stderr
    rig.up()
    rig.down()


def test_a_manager_that_nobody_can_find_any_more_ends(make_rig):
    rig = make_rig(1)
    rig.up()
    (folder,) = [path.parent for path in rig.department.desk.rglob("session.json")]
    shutil.rmtree(folder)
    rig.nothing_left()


def test_keys_are_gone_afterwards(make_rig):
    rig = make_rig(1)
    rig.up()
    state = rig.department.desk
    assert list(state.rglob("credentials.json"))
    rig.down()
    assert not list(state.rglob("credentials.json"))


def test_two_runs_share_the_slots(make_rig):
    rig = make_rig(2)
    rig.up()
    first = rig.start(*rig.words(20))
    wait_for((rig.folder / "waiting").exists, "a job to run")
    second = rig.start(*rig.words(20))
    wait_for(lambda: len(rig.status().get("runs", [])) == 2, "both runs to be attached")
    slots = {run["run"]: run["slots"] for run in rig.status()["runs"]}
    assert sorted(slots.values()) == [2, 2]
    rig.go()
    assert first.wait(60) == 0
    assert second.wait(60) == 0
    rig.down()
    for timestamp in rig.timestamps:
        assert rig.run("verify", timestamp).returncode == 0


def test_hosts_may_join_and_leave(make_rig):
    rig = make_rig(2)
    rig.write_hostfile()
    lines = rig.hostfile.read_text().splitlines(keepends=True)
    mine = [line for line in lines if rig.department["node02"].address not in line]
    rig.hostfile.write_text("".join(mine))
    rig.up()
    driver = rig.start(*rig.words(12))
    wait_for((rig.folder / "waiting").exists, "a job to run")
    (line,) = set(lines) - set(mine)
    rig.run("hosts", "add", line.strip())
    rig.wait_phase("node02", "up")
    wait_for(
        lambda: any(host == "node02" for _, host in rig.hosts_of_executions()), "it to be used"
    )
    rig.run("hosts", "drain", rig.department["node01"].address)
    rig.go()
    rig.wait_phase("node01", "drained")
    assert driver.wait(60) == 0
    rig.down()
    rig.check()


def test_two_runs_of_the_same_second_in_different_folders_know_nothing_of_each_other(make_rig):
    rig = make_rig(2)
    rig.up()
    folders = [rig.folder / "a", rig.folder / "b"]
    words = ["command", "-n", "12", "-q", "--output", "o-{index}.txt"]
    for _ in range(2):
        drivers = []
        for folder in folders:
            folder.mkdir(exist_ok=True)
            # The same name on purpose: seconds differ between folders only by chance.
            job = ["sh", "-c", f"echo {folder.name} > $1", "-", "{output}"]
            drivers.append(rig.start(*words, "--runs", str(folder / "runs"), "--", *job))
        for folder, driver in zip(folders, drivers, strict=True):
            assert driver.wait(60) == 0
            newest = max((folder / "runs").iterdir())
            outputs = list(newest.glob("outputs/*"))
            assert {path.read_text() for path in outputs} == {f"{folder.name}\n"}
            assert len(outputs) == 12
    rig.down()
