"""A cluster that is up, as `status` and `up` show it."""

import io

from rich.console import Console

from dask_runner.cluster.channel import SlotReport
from dask_runner.cluster.status import ClusterStatus, HostStatus, Phase, RunStatus
from dask_runner.reports import terminal


def host(name="tev01", phase=Phase.UP, **values) -> HostStatus:
    known = {"slots": 4, "memory_total": 16_000_000_000, "memory_free": 12_000_000_000, "cores": 8}
    return HostStatus(name=name, phase=phase, since=10.0, **{**known, **values})


def cluster(*hosts: HostStatus, **values) -> ClusterStatus:
    known = {
        "name": "main",
        "cluster": "main-desk-1",
        "pid": 7,
        "machine": "desk",
        "up_for": 61.0,
        "scheduler": "desk",
        "address": "tls://10.0.0.1:40000",
        "settled": True,
    }
    return ClusterStatus(hosts=hosts, **{**known, **values})


def shown(view: ClusterStatus) -> str:
    page = io.StringIO()
    terminal.write(view, Console(file=page, width=200))
    return page.getvalue()


def test_the_head_counts_what_works():
    text = shown(cluster(host(), host("tev02", Phase.LOST)))
    assert "cluster main: 1 of 2 hosts up, 4 slots" in text
    assert "tls://10.0.0.1:40000" in text


def test_a_host_that_is_left_out_says_why_and_what_to_do():
    out = host("tev02", Phase.LEFT_OUT, reason="no python there", hint="install python 3.11")
    lines = shown(cluster(out)).splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("tev02: "))
    assert lines[at : at + 2] == ["tev02: no python there", "  install python 3.11"]


def test_why_a_host_takes_no_batches_stands_beside_it():
    text = shown(
        cluster(
            host(refusal="memory 95 % full"),
            host("tev02", refusal="ada is at work", paused="ada is at work"),
            host("tev03", announced=("run 20261120T000000Z: quarantine",)),
            host("tev04", tunnelled=True),
        )
    )
    assert "no new batches: memory 95 % full" in text
    assert "paused: ada is at work" in text
    assert "quarantine" in text
    assert "through SSH" in text


def test_what_runs_where():
    slot = SlotReport(run="20261120T000000Z", batch=17, pid=3, seconds=5.0, rss=200_000_000)
    run = RunStatus(run="20261120T000000Z", pid=9, demand=8, slots=4)
    text = shown(cluster(host(running=(slot,)), runs=(run,)))
    row = next(line for line in text.splitlines() if line.startswith("tev01") and " 17 " in line)
    assert "200 MB" in row
    assert "no run is using it" not in text


def test_what_a_run_says_of_its_batches():
    run = RunStatus(run="20261120T000000Z", pid=9, demand=8, slots=4, announced=("batch 7 fails",))
    assert "20261120T000000Z: batch 7 fails" in shown(cluster(host(), runs=(run,)))


def test_warnings_of_this_machine_and_of_hosts():
    text = shown(
        cluster(host(warnings=("it computes other bits",)), warnings=("this machine: no ticket",))
    )
    assert "tev01: it computes other bits" in text
    assert "this machine: no ticket" in text


def test_who_changes_the_hostfile_is_told_how_it_is_read_again():
    hint = "name it: python=/PATH in the hostfile"
    text = shown(cluster(host("tev02", Phase.LEFT_OUT, reason="no python", hint=hint)))
    assert f"{hint}; then `dask-runner hosts add tev02`" in text


def test_the_way_to_the_dashboard():
    assert "ssh -L 8787:localhost:1234 desk" in shown(cluster(host(), dashboard=1234))


def test_words_of_a_host_cannot_steer_the_terminal():
    evil = host("tev02", Phase.LEFT_OUT, reason="\x1b[2J[bold]gone[/]")
    assert "\x1b" not in shown(cluster(evil))
