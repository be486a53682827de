"""How slots are divided between runs."""

from hypothesis import given
from hypothesis import strategies as st

from dask_runner.cluster.manager.shares import Wish, shares

NAMES = "abcdef"
HOSTS = st.dictionaries(st.sampled_from(NAMES), st.integers(0, 9), max_size=6)
WISHES = st.builds(
    Wish,
    slots=st.integers(0, 60),
    hosts=st.none() | st.frozensets(st.sampled_from(NAMES)),
)
RUNS = st.dictionaries(st.sampled_from("rstu"), WISHES, min_size=1, max_size=4)


def total(dealt):
    return {run: sum(by_host.values()) for run, by_host in dealt.items()}


def wish(slots, hosts=None):
    return Wish(slots=slots, hosts=None if hosts is None else frozenset(hosts))


def test_a_run_that_is_alone_gets_everything_whatever_it_asks_for():
    assert shares({"a": 4, "b": 2}, {"r": wish(1)}) == {"r": {"a": 4, "b": 2}}


def test_two_runs_get_halves_on_every_host():
    dealt = shares({"a": 4, "b": 4}, {"r": wish(100), "s": wish(100)})
    assert dealt == {"r": {"a": 2, "b": 2}, "s": {"a": 2, "b": 2}}


def test_what_a_small_run_does_not_want_goes_to_the_others():
    assert total(shares({"a": 4, "b": 4}, {"r": wish(100), "s": wish(1)})) == {"r": 7, "s": 1}


def test_a_run_that_may_use_one_host_only_gets_its_part_there():
    dealt = shares({"a": 1, "b": 8}, {"r": wish(1, "a"), "s": wish(8)})
    assert dealt == {"r": {"a": 1, "b": 0}, "s": {"a": 0, "b": 8}}
    dealt = shares({"a": 4, "b": 4}, {"r": wish(4, "a"), "s": wish(8)})
    assert total(dealt) == {"r": 4, "s": 4}
    assert dealt["r"]["b"] == 0


def test_more_runs_than_slots():
    dealt = total(shares({"a": 2}, {"r": wish(5), "s": wish(5), "t": wish(5)}))
    assert sorted(dealt.values()) == [0, 1, 1]


def test_no_runs():
    assert shares({"a": 2}, {}) == {}


@given(HOSTS, RUNS)
def test_no_slot_is_dealt_twice_and_none_that_somebody_may_use_is_kept(hosts, wishes):
    dealt = shares(hosts, wishes)
    for host, slots in hosts.items():
        given_out = sum(by_host[host] for by_host in dealt.values())
        usable = any(one.takes(host) for one in wishes.values())
        assert given_out == (slots if usable else 0)
    for run, by_host in dealt.items():
        assert all(wishes[run].takes(host) for host, number in by_host.items() if number)


@given(HOSTS, st.dictionaries(st.sampled_from("rstu"), st.integers(0, 60), min_size=1))
def test_nobody_gets_more_than_another_who_wants_it(hosts, demands):
    got = total(shares(hosts, {run: wish(slots) for run, slots in demands.items()}))
    for slots in got.values():
        for other, others in got.items():
            # Who has too little is never more than a slot behind somebody who has his fill.
            if others < demands[other]:
                assert slots <= others + 1
