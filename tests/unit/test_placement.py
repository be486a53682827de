"""placement: no host above its share, no more than the user allows, the emptiest host first."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_runner.cluster.interface import HostState
from dask_runner.placement import Load, Placement, Rules, limit, memory_slots

GB = 1_000_000_000


def host(name: str, slots: int = 2, **more) -> HostState:
    return HostState(
        **{"name": name, "slots": slots, "share": slots, "worker": f"{name}:1", **more}
    )


def hosts(*states: HostState) -> dict[str, HostState]:
    return {state.name: state for state in states}


def fill(placement: Placement, **options) -> Counter:
    """Send until there is no room; the groups at each host."""
    counts: Counter = Counter()
    while (state := placement.choose(**options)) is not None:
        counts[state.name] += 1
        placement.load.setdefault(state.name, Load()).active += 1
        assert sum(counts.values()) < 10_000
    return counts


@pytest.mark.parametrize(
    ("patterns", "wanted"),
    [
        ("", "tev1 tev2 lab1"),
        ("tev*", "tev1 tev2"),
        ("tev1,lab1", "tev1 lab1"),
        ("!tev2", "tev1 lab1"),
        ("tev*, !tev1", "tev2"),
        ("*[12],!lab*", "tev1 tev2"),
        ("TEV1", "tev1"),
        ("!LAB*", "tev1 tev2"),
    ],
)
def test_patterns_choose_hosts_and_leave_out(patterns, wanted):
    rules = Rules(hosts=patterns)
    assert " ".join(name for name in ("tev1", "tev2", "lab1") if rules.wants(name)) == wanted


def test_each_host_gets_its_share_and_the_emptiest_comes_first():
    placement = Placement(Rules())
    placement.update(hosts(host("a", 2), host("b", 8)))
    order = []
    for _ in range(10):
        state = placement.choose()
        order.append(state.name)
        placement.load.setdefault(state.name, Load()).active += 1
    assert placement.choose() is None
    assert Counter(order) == {"a": 2, "b": 8}
    assert order[0] == "b", "of two empty hosts, the one with more room"
    assert order.index("a") < 3, "the small one is not kept waiting until the big one is full"


def test_groups_wait_only_at_hosts_that_are_all_ours():
    placement = Placement(Rules())
    placement.update(hosts(host("whole", 4), host("shared", 4, share=3)))
    assert fill(placement, ahead=2) == {"whole": 8, "shared": 3}


def test_a_limit_on_all_slots_is_never_exceeded_by_waiting_groups():
    placement = Placement(Rules(max_slots=5))
    placement.update(hosts(host("a", 4), host("b", 4)))
    assert placement.slots == 5
    assert sum(fill(placement, ahead=2).values()) == 5
    placement = Placement(Rules(max_slots=50))
    placement.update(hosts(host("a", 4), host("b", 4)))
    assert fill(placement, ahead=2) == {"a": 8, "b": 8}, "it does not limit anything"


@pytest.mark.parametrize(
    "changes", [{"worker": ""}, {"refusal": "memory above 90 %"}, {"share": 0}]
)
def test_a_host_that_cannot_take_batches_gets_none(changes):
    placement = Placement(Rules())
    placement.update(hosts(host("a"), host("b", **changes)))
    assert set(placement.takers()) == {"a"}
    assert set(fill(placement)) == {"a"}
    placement.update(hosts(host("a"), host("b")), excluded={"a"})
    assert set(placement.takers()) == {"b"}


def test_a_suspect_gets_one_group_at_a_time():
    placement = Placement(Rules())
    placement.update(hosts(host("a", 4), host("b", 4)), suspects={"b"})
    assert fill(placement, ahead=2) == {"a": 8, "b": 1}


def test_a_batch_is_kept_from_hosts_where_it_failed_if_there_is_another():
    placement = Placement(Rules())
    placement.update(hosts(host("a"), host("b")))
    assert fill(placement, avoid={"a"}) == {"b": 2}
    assert placement.choose(avoid={"a"}) is None, "it waits for the other one"
    assert placement.choose(avoid={"a", "b"}).name == "a", "there is no other one"


def test_a_host_whose_files_do_not_come_home_gets_no_more():
    placement = Placement(Rules())
    placement.update(hosts(host("a", 2)))
    placement.load["a"] = Load(unsettled=8)
    assert placement.choose(ahead=2) is None


def test_memory_limits_hosts_whose_slots_nobody_fixed():
    free = {"auto": True, "memory_free": 10 * GB}
    assert limit(host("a", 16, **free), Rules(), 0) == 16, "nothing is known of the batches"
    assert limit(host("a", 16, **free), Rules(memory=2 * GB), 0) == 4
    assert limit(host("a", 16, **free), Rules(memory=2 * GB), GB) == 8, "what was seen counts more"
    assert limit(host("a", 16, **free), Rules(), 100 * GB) == 1, "one may try"
    assert limit(host("a", 16, memory_free=10 * GB), Rules(), 100 * GB) == 16, "the user fixed it"
    assert limit(host("a", 16, **free), Rules(slots=3), GB) == 3
    assert limit(host("a", 16, share=0, **free), Rules(), GB) == 0


@given(st.integers(1, 10**12), st.integers(1, 10**12))
def test_what_fits_by_memory_uses_at_most_four_fifths(free, batch):
    slots = memory_slots(host("a", memory_free=free), batch)
    assert slots >= 1
    assert slots == 1 or slots * batch <= 0.8 * free * (1 + 1e-9)


@given(
    st.lists(
        st.tuples(st.integers(1, 20), st.integers(0, 20), st.booleans(), st.integers(0, 10)),
        max_size=12,
    ),
    st.integers(0, 40),
    st.integers(0, 6),
    st.sampled_from([1, 2]),
)
def test_no_limit_is_ever_exceeded_and_no_room_is_left(found, max_slots, slots, ahead):
    states = hosts(
        *(
            host(str(i), number, share=min(share, number), worker="w" if up else "", refusal="")
            for i, (number, share, up, _) in enumerate(found)
        )
    )
    rules = Rules(max_slots=max_slots, slots=slots)
    placement = Placement(rules)
    placement.update(states)
    for name, (_, _, _, before) in zip(states, found, strict=True):
        placement.load[name] = Load(active=before)
    fill(placement, ahead=ahead)
    active = {name: load.active for name, load in placement.load.items()}
    before = {name: one[3] for name, one in zip(states, found, strict=True)}
    total = 0
    for name, state in states.items():
        most = min(state.share, slots or state.share) if state.worker else 0
        total += most
        waiting = ahead if most == state.slots and not max_slots else 1
        if not max_slots:
            assert active[name] == max(before[name], most * waiting)
        elif max_slots < placement.slots:
            assert active[name] <= max(before[name], most)
    if max_slots and max_slots < total and sum(before.values()) <= max_slots:
        assert sum(active.values()) <= max_slots
