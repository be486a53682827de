"""blame: batches that fail everywhere, hosts that fail everything, and neither mistaken for the other."""

import random

import pytest

from dask_runner.batch import Failure, FailureKind
from dask_runner.blame import Blame, Decision

TEN_MINUTES = 600.0


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Court:
    """Hosts a, b and c, and what happens there."""

    def __init__(self, attempts: int = 3, hosts: str = "abc") -> None:
        self.clock = Clock()
        self.blame = Blame(attempts, clock=self.clock)
        self.hosts = set(hosts)

    def bad(
        self, host, batch, *, fingerprint="f", kind=FailureKind.EXIT_CODE, incident="", **failure
    ):
        known = Failure(kind=kind, message="it failed", fingerprint=fingerprint, **failure)
        others = len(self.takers()) > 1
        return self.blame.failed(host, batch, known, others=others, incident=incident)

    def good(self, host, *batches):
        return [self.blame.passed(host, batch) for batch in batches][-1]

    def takers(self):
        return self.hosts - set(self.blame.quarantined())

    def judge(self):
        return self.blame.judge(self.takers())


def test_the_same_failure_on_two_hosts_is_the_batch():
    court = Court()
    assert court.bad("a", 1) is Decision.AGAIN
    assert court.blame.avoided(1) == {"a"}
    assert court.bad("b", 1) is Decision.POISON


def test_twice_on_one_host_is_the_batch_only_if_there_is_no_other_host():
    court = Court()
    court.bad("a", 1)
    assert court.bad("a", 1) is Decision.AGAIN
    alone = Court(hosts="a")
    alone.bad("a", 1)
    assert alone.bad("a", 1) is Decision.POISON


def test_different_failures_end_a_batch_after_its_attempts():
    court = Court(attempts=3)
    assert court.bad("a", 1, fingerprint="1") is Decision.AGAIN
    assert court.bad("b", 1, fingerprint="2") is Decision.AGAIN
    assert court.bad("c", 1, fingerprint="3") is Decision.FAILED


def test_a_lost_batch_is_never_called_poison():
    court = Court(attempts=3)
    assert court.bad("a", 1, kind=FailureKind.LOST, fingerprint="lost") is Decision.AGAIN
    assert court.bad("b", 1, kind=FailureKind.LOST, fingerprint="lost") is Decision.AGAIN
    assert court.bad("c", 1, kind=FailureKind.LOST, fingerprint="lost") is Decision.FAILED


def test_row_28_a_host_that_fails_what_passes_elsewhere_is_put_under_quarantine():
    court = Court()
    for batch in range(3):
        assert court.bad("a", batch) is Decision.AGAIN
        assert court.judge() == []
    court.good("b", 0)
    (verdict,) = court.judge()
    assert (verdict.host, verdict.batches, verdict.fingerprints) == ("a", (0, 1, 2), ("f",))
    assert "1 of 1 batches passed on other hosts" in verdict.text
    assert court.takers() == {"b", "c"}
    assert court.blame.avoided(1) == frozenset(), "what it said is taken back"
    assert court.judge() == [], "once is enough"


def test_row_28_also_if_none_of_its_batches_has_passed_elsewhere_yet():
    court = Court()
    for batch in range(3):
        court.bad("a", batch)
    court.good("b", 10, 11)
    assert court.judge() == []
    court.good("c", 12)
    assert [verdict.host for verdict in court.judge()] == ["a"]


def test_all_hosts_failing_is_the_batches():
    court = Court(attempts=10)
    for batch in range(50):
        for host in "abc":
            court.bad(host, batch, fingerprint=f"{host}{batch}")
        assert court.judge() == []


def test_a_single_host_is_never_put_under_quarantine():
    court = Court(hosts="a")
    court.good("b", *range(50))  # it has left
    for batch in range(20):
        court.bad("a", 100 + batch)
    court.good("b", 200, 201, 202)
    assert court.judge() == []


def test_a_good_batch_ends_a_series():
    court = Court()
    for batch in range(20):
        court.bad("a", batch)
        if batch % 2:
            court.good("a", 100 + batch)
        court.good("b", 200 + batch)
        assert court.judge() == []


def test_batches_that_fail_at_random_hardly_ever_make_a_host_suspect():
    chance = random.Random(1)
    verdicts = 0
    for _ in range(100):
        court = Court(attempts=100)
        for batch in range(400):
            host = chance.choice("abc")
            if chance.random() < 0.5:
                court.bad(host, batch, fingerprint=f"{batch}")
            else:
                court.good(host, batch)
            verdicts += len(court.judge())
    assert verdicts <= 10, "of 100 runs in which batches fail as often as they pass"


@pytest.mark.parametrize("kind", [FailureKind.BAD_INPUT, FailureKind.LOG_ERROR])
def test_errors_of_the_data_never_count_against_a_host(kind):
    court = Court()
    for batch in range(20):
        assert court.bad("a", batch, kind=kind) is Decision.FAILED
        court.good("b", 100 + batch)
        assert court.judge() == []


def test_poison_batches_never_count_against_the_hosts_where_they_failed():
    court = Court()
    for batch in range(20):
        court.bad("a", batch, fingerprint=f"{batch}")
        assert court.bad("b", batch, fingerprint=f"{batch}") is Decision.POISON
        court.good("c", 100 + batch)
        assert court.judge() == []


def test_batches_that_failed_for_good_only_because_of_a_bad_host_go_again():
    court = Court(attempts=2)
    court.bad("a", 0, fingerprint="x")
    assert court.bad("b", 0, fingerprint="y") is Decision.FAILED
    court.bad("a", 1)
    court.good("b", 1)
    court.bad("a", 2)
    court.good("b", 2, 3, 4, 5)
    (verdict,) = court.judge()
    assert verdict.acquitted == (0,)
    assert court.blame.avoided(0) == {"b"}
    assert court.bad("c", 0, fingerprint="z") is Decision.FAILED, "two attempts count"


def test_batches_that_fail_on_good_hosts_too_stay_failed():
    court = Court(attempts=2)
    for host, word in (("b", "x"), ("c", "y")):
        last = court.bad(host, 0, fingerprint=word)
    assert last is Decision.FAILED
    for batch in (1, 2, 3):
        court.bad("a", batch)
        court.good("b", batch, 10 + batch, 20 + batch, 30 + batch)
    (verdict,) = court.judge()
    assert verdict.acquitted == ()


def quarantined() -> Court:
    court = Court()
    for batch in range(3):
        court.bad("a", batch)
        court.good("b", batch)
    assert court.judge()
    return court


def test_under_quarantine_nothing_counts_against_a_batch():
    court = quarantined()
    for _ in range(10):
        assert court.bad("a", 50) is Decision.AGAIN
    assert court.blame.avoided(50) == frozenset()


def test_after_ten_minutes_one_good_batch_ends_the_quarantine():
    court = quarantined()
    assert court.good("a", 49) is False, "sent before it began"
    assert court.blame.probation() == []
    court.clock.now += TEN_MINUTES
    assert court.blame.probation() == ["a"]
    assert court.blame.probation() == [], "said once"
    assert court.blame.on_probation() == ["a"]
    assert court.good("a", 50) is True
    assert court.takers() == {"a", "b", "c"}


def test_a_failed_trial_doubles_the_time():
    court = quarantined()
    for factor in (2, 4, 8):
        court.clock.now += 1e6
        assert court.blame.probation() == ["a"]
        court.bad("a", 50)
        assert court.blame.quarantined() == {"a": pytest.approx(TEN_MINUTES * factor)}


def test_a_full_disk_counts_at_once_if_others_go_on():
    court = Court()
    court.bad("a", 0, kind=FailureKind.DISK_FULL)
    assert court.judge() == [], "it may be everybody's disk"
    court.good("b", 0)
    (verdict,) = court.judge()
    assert verdict.host == "a"
    assert "disk is full" in verdict.text


def test_a_full_disk_of_all_is_nobodys():
    court = Court()
    for batch in range(10):
        for host in "abc":
            court.bad(host, batch, kind=FailureKind.DISK_FULL)
            assert court.judge() == []


def test_a_host_that_cannot_take_a_batch_is_out_at_once():
    court = Court()
    court.blame.accuse("a", "no space for its files")
    (verdict,) = court.judge()
    assert verdict.text == "no space for its files"


def test_the_death_of_a_worker_is_one_failure_however_many_batches_it_took():
    court = Court()
    for batch in range(8):
        court.bad("a", batch, kind=FailureKind.LOST, incident="tls://a:1")
        court.good("b", 100 + batch)
    assert court.judge() == []
    for number in range(2, 4):
        court.bad("a", 10 + number, kind=FailureKind.LOST, incident=f"tls://a:{number}")
    assert [verdict.host for verdict in court.judge()] == ["a"]


def test_batches_under_which_hosts_are_lost_run_alone_and_fail_in_the_end():
    blame = Blame(3)
    assert [blame.lost(1, alone=False) for _ in range(3)] == [
        Decision.AGAIN,
        Decision.AGAIN,
        Decision.ALONE,
    ]
    assert [blame.lost(1, alone=True) for _ in range(3)] == [
        Decision.ALONE,
        Decision.ALONE,
        Decision.FAILED,
    ]


def test_without_other_hosts_an_amnesty_ends_every_quarantine():
    court = quarantined()
    assert court.blame.amnesty() == ["a"]
    assert court.takers() == {"a", "b", "c"}


def test_the_revision_tells_of_every_change_for_hosts():
    court = Court()
    seen = court.blame.revision
    court.good("b", 100)
    assert court.blame.revision == seen
    for batch in range(3):
        court.bad("a", batch)
    assert court.blame.revision > seen, "a suspect"
    seen = court.blame.revision
    court.good("b", 0)
    assert court.judge()
    assert court.blame.revision > seen
    seen = court.blame.revision
    court.clock.now += TEN_MINUTES
    court.blame.probation()
    assert court.blame.revision > seen
    seen = court.blame.revision
    court.good("a", 5)
    assert court.blame.revision > seen
