"""Hosts with and without the driver's folder, over real SSH: files come to them and back."""

import os
import shutil
import signal
import sys
from pathlib import Path

from product import wait_for

from dask_runner.chain import formats

sys.path[:0] = [str(Path(__file__).parent.parent), str(Path(__file__).parent.parent / "unit")]
from chain_events import evnt  # noqa: E402
from web import serve  # noqa: E402

HOSTILE = os.fsdecode(b"e v'\xff\n.EVNT.root")
CACHE = str(Path("~root/.cache/dask-runner").expanduser())

# Waits for a file on its own host: an unshared one sees nothing of the test's.
TOOL = """\
#!/bin/sh
touch "/tmp/waiting-$1"
until test -e /tmp/go; do sleep 0.05; done
echo "host $(hostname) batch $1"
test "$1" = 3 && exit 7
cp "$DASK_RUNNER_SHIPPED/the table.txt" "$2"
"""


def staged(rig) -> dict[str, tuple[str, str]]:
    """Host -> how it came to outputs and inputs, as the last run's manifest says."""
    names = {host.address: host.name for host in rig.department.hosts}
    return {
        names[note["data"]["host"]]: (note["data"]["outputs"], note["data"]["inputs"])
        for note in rig.notes("staging")
        if "outputs" in note["data"]
    }


def nothing_there(host) -> bool:
    """Whether no attempt of any run is on the host, whatever folder its agent has."""
    return not list(host.path("/tmp").glob("dask-runner-*/attempts/*"))


def test_a_run_over_hosts_with_and_without_the_folder_gives_the_same_bits(make_rig):
    rig = make_rig(3, node02={"shared": False}, node03={"shared": False})
    (rig.folder / "evnt").mkdir()
    for number, name in enumerate(("plain.EVNT.root", HOSTILE)):
        formats.write(rig.folder / "evnt" / name, evnt(40, first=1 + 40 * number))
    words = ["run", "-b", "4", "--evnt-dir", "evnt", "-q"]
    rig.run(*words, "--cluster", "local")
    reference = [file["content_hash"] for file in rig.json("merge", "last")["files"]]
    rig.up()
    words.remove("-q")
    told = rig.run(*words).stderr
    assert told.count("files are copied for hosts without the folders here") == 1
    assert staged(rig) == {
        "node01": ("shared", "shared"),
        "node02": ("copied", "copied"),
        "node03": ("copied", "copied"),
    }
    assert [file["content_hash"] for file in rig.json("merge", "last")["files"]] == reference
    assert rig.run("verify", "last").returncode == 0
    for name in ("node02", "node03"):
        host = rig.department[name]
        cached = {os.fsencode(path.name) for path in host.path(CACHE).glob("??/*/*")}
        assert cached <= {b"plain.EVNT.root", os.fsencode(HOSTILE)}
        assert cached
        assert nothing_there(host)
    for outcome in rig.lines("outcome"):
        assert (rig.last / "attempts" / outcome["log"]["path"]).stat().st_size
    rig.down()
    assert len(rig.check(finished=True).done) == 20


def test_shipped_programs_reach_hosts_without_the_folder_and_logs_come_home(make_rig):
    rig = make_rig(2, node01={"shared": False}, node02={"shared": False})
    (rig.folder / "tool.sh").write_text(TOOL)
    (rig.folder / "tool.sh").chmod(0o755)
    (rig.folder / "the table.txt").write_text("as shipped\n")
    rig.up()
    words = ["command", "-n", "8", "--attempts", "1", "-q"]
    words += ["--ship", "tool.sh", "--ship", "the table.txt"]
    driver = rig.start(*words, "--", "{shipped}/tool.sh", "{index}", "{output}")
    hosts = rig.department.hosts
    wait_for(lambda: list(hosts[0].path("/tmp").glob("waiting-*")), "a job to run")
    (rig.folder / "tool.sh").write_text("#!/bin/sh\nexit 9\n")
    (rig.folder / "the table.txt").write_text("edited\n")
    for host in hosts:
        host.path("/tmp/go").touch()
    output, _ = driver.communicate(timeout=60)
    assert driver.returncode == 3, output
    assert "batch 3" in rig.run("logs", "last", "3").stdout
    contents = {path.read_text() for path in (rig.last / "outputs").iterdir()}
    assert contents == {"as shipped\n"}
    assert all(nothing_there(host) for host in hosts)
    rig.down()
    assert rig.check().failed == {3}


def test_with_staging_shared_a_host_without_the_folder_is_left_out_with_the_reason(make_rig):
    """What `up` is told holds for the runs."""
    rig = make_rig(2, node02={"shared": False})
    rig.up("--staging", "shared")
    rig.go()
    rig.run(*rig.words(12), "-q")
    rig.down()
    assert rig.check(finished=True).done == set(range(12))
    assert {host for _, host in rig.hosts_of_executions()} == {"node01"}
    text = (rig.last / "manifest.jsonl").read_text()
    assert f"{rig.department['node02'].address} does not see" in text


def test_each_host_fetches_a_url_for_itself(make_rig):
    rig = make_rig(2, node02={"shared": False})
    pages = rig.folder / "pages"
    pages.mkdir()
    formats.write(pages / "far.EVNT.root", evnt(40, first=1))
    with serve(pages, rig.department.network.desk) as web:
        rig.up()
        rig.run("run", "-b", "4", "--input", f"{web.url}/far.EVNT.root", "-q")
        # The driver, and each host once.
        assert web.asked["/far.EVNT.root"] == 3
    rig.down()
    assert len(rig.check(finished=True).done) == 10


def test_a_killed_driver_leaves_nothing_on_the_hosts_and_a_rerun_goes_on(make_rig):
    rig = make_rig(1, node01={"shared": False})
    host = rig.department["node01"]
    (rig.folder / "tool.sh").write_text(TOOL.replace('test "$1" = 3 && exit 7\n', ""))
    (rig.folder / "tool.sh").chmod(0o755)
    (rig.folder / "the table.txt").write_text("x\n")
    rig.up()
    words = ["command", "-n", "6", "-q", "--ship", "tool.sh", "--ship", "the table.txt", "--"]
    driver = rig.start(*words, "{shipped}/tool.sh", "{index}", "{output}")
    wait_for(lambda: list(host.path("/tmp").glob("waiting-*")), "a job to run")
    assert not nothing_there(host)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    wait_for(lambda: nothing_there(host), "its attempts to be removed")
    host.path("/tmp/go").touch()
    rig.run("rerun", "last", "-q")
    rig.down()
    assert rig.check(finished=True).done == set(range(6))


def test_a_cache_that_somebody_removes_is_filled_again(make_rig):
    rig = make_rig(1, node01={"shared": False})
    host = rig.department["node01"]
    (rig.folder / "the table.txt").write_text("x\n")
    rig.up()
    words = ["command", "-n", "2", "-q", "--ship", "the table.txt", "--"]
    words += ["cp", "{shipped}/the table.txt", "{output}"]
    rig.run(*words)
    shutil.rmtree(host.path(CACHE))
    rig.run(*words)
    rig.down()
    assert rig.check(finished=True).done == {0, 1}
