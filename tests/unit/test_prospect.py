"""The dry test's view of hosts: where numbers of slots come from, and what a pilot batch adds."""

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from chain_events import evnt

from dask_runner import prospect, shipping
from dask_runner.chain import formats
from dask_runner.cluster.status import HostStatus, Phase
from dask_runner.errors import UsageError
from dask_runner.execution.task import Limits
from dask_runner.opening import Target
from dask_runner.pilot import Pilot, measure
from dask_runner.prospect import Prospects
from dask_runner.reports.dry_run import _prospect
from dask_runner.settings import load_settings
from dask_runner.workloads.command import Command
from dask_runner.workloads.reconstruct import Reconstruct

sys.path[:0] = [str(Path(__file__).parent.parent)]
from web import serve  # noqa: E402

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
    auto = {"auto": True, "memory_room": 10 * GB, "memory_free": 1 * GB}
    prospects = ask(host("a", 15, **auto), host("b", 2, **auto), host("c", 15), memory=2000)
    assert prospects.auto
    assert rooms(prospects.tell(10, None)) == {"a": 4, "b": 2, "c": 15}
    told = prospects.tell(60, Pilot(wall=10.0, max_rss=1 * GB, complete=True))
    assert rooms(told) == {"a": 8, "b": 2, "c": 15}
    assert "over 1000 MB of the pilot" in told.hosts[0].how
    assert told.seconds == 30.0, "60 batches in three rounds of 25 slots"


def test_a_host_that_computes_other_bits_has_no_slots_unless_it_is_accepted(ask):
    odd = host("b", 4, other_bits="it computes other bits (1) than this machine (2)")
    told = ask(host("a", 4), odd).tell(10, None)
    assert rooms(told) == {"a": 4, "b": 0}
    assert told.hosts[1].how == odd.other_bits
    accepting = Target(accept_numerics=True)
    assert rooms(ask(host("a", 4), odd, target=accepting).tell(10, None)) == {"a": 4, "b": 4}


def test_the_users_limits_count(ask):
    target = Target(hosts="tev*", max_slots=5)
    told = ask(host("tev1", 4), host("tev2", 4), host("lab", 4), target=target).tell(1, None)
    assert rooms(told) == {"tev1": 4, "tev2": 4}
    assert told.slots == 5
    assert rooms(ask(host("a", 4), slots=2).tell(1, None)) == {"a": 2}


def test_a_pilot_without_a_result_promises_no_time(ask):
    prospects = ask(host("a", 4, auto=True, memory_room=GB))
    for pilot in (Pilot(skipped="there are problems"), Pilot(failure="exit-code: 3", wall=1.0)):
        told = prospects.tell(100, pilot)
        assert told.seconds == 0
        text = "\n".join(_prospect(told))
        assert "expected" not in text
        assert "there are problems" in text or "exit-code: 3" in text


def command(*words: str, shipped: bool = False) -> Command:
    return Command.from_options(
        words=list(words),
        number=1,
        outputs=[],
        setup=None,
        parameters="",
        merge_command="",
        seed=1,
        shipped=shipped,
    )


def pilot(code: str, **limits) -> Pilot:
    workload = command(sys.executable, "-c", code)
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
    monkeypatch.setattr("dask_runner.pilot._LONGEST", 6.0)
    seen = pilot("x = bytearray(100_000_000)\nimport time\ntime.sleep(60)")
    assert not seen.complete
    assert seen.useful
    assert seen.max_rss >= 100 * MB
    assert 1.5 <= seen.wall < 20


def test_a_pilot_has_what_is_shipped(tmp_path):
    (tmp_path / "word.txt").write_text("shipped\n")
    job = ("/bin/sh", "-c", "grep shipped $DASK_RUNNER_SHIPPED/word.txt")
    with shipping.tried([tmp_path / "word.txt"], command(*job, shipped=True), ()) as tried:
        batch = tried.workload.plan().batches[0]
        seen = measure(tried.workload, batch, Limits(), shipped=tried.folder, preload=tried.preload)
    assert seen.complete, seen.failure


def test_a_pilot_of_an_input_from_the_web_has_a_copy_of_it(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "web").mkdir()
    formats.write(tmp_path / "web" / "a.EVNT.root", evnt(4))
    with serve(tmp_path / "web") as web:
        settings = load_settings(None, {}, {"run.batch_size": 2}).settings
        workload = Reconstruct.from_settings(settings, [f"{web.url}/a.EVNT.root"])
        plan = workload.plan()
        assert not plan.problems
        seen = measure(workload, plan.batches[0], Limits(), inputs=plan.inputs)
        assert seen.complete, seen.failure
        web.refuse = 404
        shutil.rmtree(tmp_path / "cache")
        seen = measure(workload, plan.batches[0], Limits(), inputs=plan.inputs)
        assert "could not be fetched" in seen.skipped


def test_a_slip_in_a_pattern_is_refused_by_the_dry_test_too(ask):
    with pytest.raises(UsageError, match="no host matches 'tve\\*'"):
        ask(host("tev1", 4), target=Target(hosts="tev1,tve*"))
    assert rooms(ask(host("tev1", 4), target=Target(hosts="TEV*")).tell(1, None)) == {"tev1": 4}
