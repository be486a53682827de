"""How slots are divided between runs."""

from hypothesis import given
from hypothesis import strategies as st

from dask_runner.cluster.manager.shares import shares

HOSTS = st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 9), max_size=6)
RUNS = st.dictionaries(st.sampled_from("rstu"), st.integers(0, 60), min_size=1, max_size=4)


def total(dealt):
    return {run: sum(by_host.values()) for run, by_host in dealt.items()}


def test_a_run_that_is_alone_gets_everything_whatever_it_asks_for():
    assert shares({"a": 4, "b": 2}, {"r": 1}) == {"r": {"a": 4, "b": 2}}


def test_two_runs_get_halves_on_every_host():
    dealt = shares({"a": 4, "b": 4}, {"r": 100, "s": 100})
    assert dealt == {"r": {"a": 2, "b": 2}, "s": {"a": 2, "b": 2}}


def test_what_a_small_run_does_not_want_goes_to_the_others():
    assert total(shares({"a": 4, "b": 4}, {"r": 100, "s": 1})) == {"r": 7, "s": 1}


def test_more_runs_than_slots():
    dealt = total(shares({"a": 2}, {"r": 5, "s": 5, "t": 5}))
    assert sorted(dealt.values()) == [0, 1, 1]


def test_no_runs():
    assert shares({"a": 2}, {}) == {}


@given(HOSTS, RUNS)
def test_every_slot_is_dealt_exactly_once(hosts, demands):
    dealt = shares(hosts, demands)
    for host, slots in hosts.items():
        assert sum(by_host[host] for by_host in dealt.values()) == slots
    assert all(number >= 0 for by_host in dealt.values() for number in by_host.values())


@given(HOSTS, RUNS)
def test_nobody_gets_more_than_another_who_wants_it(hosts, demands):
    got = total(shares(hosts, demands))
    for slots in got.values():
        for other, others in got.items():
            # Who has too little is never more than a slot behind somebody who has his fill.
            if others < demands[other]:
                assert slots <= max(others + 1, 0)
