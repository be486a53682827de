"""The dry test's view of hosts: where numbers of slots come from, and what a pilot batch adds."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from dask_runner import prospect
from dask_runner.cluster.status import HostStatus, Phase
from dask_runner.execution.task import Limits
from dask_runner.opening import Target
from dask_runner.pilot import Pilot, measure
from dask_runner.prospect import Prospects
from dask_runner.reports.dry_run import _prospect
from dask_runner.settings import load_settings
from dask_runner.workloads.command import Command

GB = 1_000_000_000
MB = 1_000_000
EVERYTHING = Target()


def host(name: str, slots: int, **more) -> HostStatus:
    return HostStatus(**{"name": name, "phase": Phase.UP, "since": 1.0, "slots": slots, **more})


@pytest.fixture
def ask(monkeypatch):
    """Prospects of a cluster with these hosts; without hosts, none is up."""

    def make(*hosts: HostStatus, target: Target = EVERYTHING, **run) -> Prospects:
        told = SimpleNamespace(staging="shared")
        session = SimpleNamespace(name="main", session=lambda: told) if hosts else None
        monkeypatch.setattr(prospect, "find_session", lambda _name: session)
        monkeypatch.setattr(prospect, "status_of", lambda _: SimpleNamespace(hosts=hosts))
        settings = load_settings(None, {}, {f"run.{k}": v for k, v in run.items()}).settings
        return Prospects(settings, target)

    return make


def rooms(told) -> dict[str, int]:
    return {room.host: room.slots for room in told.hosts}


def test_without_a_cluster_it_is_this_machine_and_there_is_no_pilot(ask):
    prospects = ask(slots=3)
    told = prospects.tell(10, None)
    assert (told.cluster, told.slots, told.staging) == ("", 3, "")
    assert "--slots" in told.hosts[0].how
    assert not prospects.auto
    assert not prospects.remote
    assert "one for each core" in ask().tell(10, None).hosts[0].how


def test_a_number_that_was_fixed_needs_no_pilot(ask):
    prospects = ask(host("a", 4), host("b", 8, phase=Phase.LEFT_OUT, reason="no python"))
    assert prospects.remote
    assert not prospects.auto
    told = prospects.tell(10, None)
    assert rooms(told) == {"a": 4, "b": 0}
    assert told.hosts[1].how == "left out: no python"
    assert told.staging == "nothing is copied: the hosts see the folders here"


def test_memory_limits_auto_hosts_by_the_limit_of_a_batch_and_then_by_the_pilot(ask):
    auto = {"auto": True, "memory_free": 10 * GB}
    prospects = ask(host("a", 15, **auto), host("b", 2, **auto), host("c", 15), memory=2000)
    assert prospects.auto
    assert rooms(prospects.tell(10, None)) == {"a": 4, "b": 2, "c": 15}
    told = prospects.tell(60, Pilot(wall=10.0, max_rss=1 * GB, complete=True))
    assert rooms(told) == {"a": 8, "b": 2, "c": 15}
    assert "over 1000 MB of the pilot" in told.hosts[0].how
    assert told.seconds == 30.0, "60 batches in three rounds of 25 slots"


def test_the_users_limits_count(ask):
    target = Target(hosts="tev*", max_slots=5)
    told = ask(host("tev1", 4), host("tev2", 4), host("lab", 4), target=target).tell(1, None)
    assert rooms(told) == {"tev1": 4, "tev2": 4}
    assert told.slots == 5
    assert rooms(ask(host("a", 4), slots=2).tell(1, None)) == {"a": 2}


def test_a_pilot_without_a_result_promises_no_time(ask):
    prospects = ask(host("a", 4, auto=True, memory_free=GB))
    for pilot in (Pilot(skipped="there are problems"), Pilot(failure="exit-code: 3", wall=1.0)):
        told = prospects.tell(100, pilot)
        assert told.seconds == 0
        text = "\n".join(_prospect(told))
        assert "expected" not in text
        assert "there are problems" in text or "exit-code: 3" in text


def pilot(code: str, **limits) -> Pilot:
    workload = Command.from_options(
        words=[sys.executable, "-c", code],
        number=1,
        outputs=[],
        setup=None,
        parameters="",
        merge_command="",
        seed=1,
    )
    return measure(workload, workload.plan().batches[0], Limits(**limits))


def test_a_pilot_measures_a_real_batch_and_leaves_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    seen = pilot("x = bytearray(200_000_000)\nimport time\ntime.sleep(0.5)")
    assert seen.complete
    assert seen.useful
    assert seen.wall >= 0.5
    assert seen.max_rss >= 200 * MB
    assert list(Path(tmp_path).iterdir()) == []


def test_a_pilot_that_fails_says_why():
    seen = pilot("raise SystemExit(9)")
    assert seen.failure.startswith("exit-code")
    assert not seen.useful


def test_a_pilot_is_stopped_after_its_time_and_what_it_used_so_far_counts(monkeypatch):
    monkeypatch.setattr("dask_runner.pilot._LONGEST", 2.0)
    seen = pilot("x = bytearray(100_000_000)\nimport time\ntime.sleep(60)")
    assert not seen.complete
    assert seen.useful
    assert seen.max_rss >= 100 * MB
    assert 1.5 <= seen.wall < 20
