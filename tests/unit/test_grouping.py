from hypothesis import given
from hypothesis import strategies as st

from dask_runner.grouping import Grouping


def feed(grouping: Grouping, wall: float, groups: int = 20) -> None:
    for _ in range(groups):
        for _ in range(20):
            grouping.learn(wall)
        grouping.group_ended(well=True)


def test_the_first_batches_go_alone_and_one_for_each_slot():
    grouping = Grouping(4)
    assert grouping.size(1000) == 1
    assert grouping.ahead() == 1


def test_short_batches_share_a_group_of_about_half_a_second():
    grouping = Grouping(2)
    feed(grouping, 0.01)
    assert 40 <= grouping.size(1_000_000) <= 60
    assert grouping.ahead() == 2


def test_long_batches_go_alone_and_none_waits_behind_another():
    grouping = Grouping(2)
    feed(grouping, 10.0)
    assert grouping.size(1000) == 1
    assert grouping.ahead() == 1


def test_groups_start_small_after_one_ended_badly():
    grouping = Grouping(2)
    feed(grouping, 1e-5)
    assert grouping.size(1_000_000) > 100
    grouping.group_ended(well=False)
    assert grouping.size(1_000_000) == 1


@given(
    slots=st.integers(1, 500),
    walls=st.lists(st.floats(0, 1e4), max_size=50),
    remaining=st.integers(1, 10**7),
)
def test_a_group_is_never_empty_and_leaves_work_for_the_other_slots(slots, walls, remaining):
    grouping = Grouping(slots)
    for wall in walls:
        grouping.learn(wall)
        grouping.group_ended(well=True)
    size = grouping.size(remaining)
    assert 1 <= size <= max(1, -(-remaining // (2 * slots)))
    assert grouping.ahead() in {1, 2}


@given(st.lists(st.floats(0, 1e4), min_size=10, max_size=700))
def test_the_timeout_is_a_multiple_of_the_median_but_never_below_a_minute(walls):
    grouping = Grouping(1)
    for wall in walls:
        grouping.learn(wall)
    latest = sorted(walls[-501:])
    assert grouping.timeout(20) == max(60.0, 20 * latest[len(latest) // 2])
    assert grouping.timeout(0) == 0


def test_there_is_no_timeout_before_there_is_a_median():
    grouping = Grouping(1)
    grouping.learn(1e-3)
    assert grouping.timeout(20) == 0


def test_the_user_may_ask_for_a_process_for_each_batch():
    grouping = Grouping(2, largest=1)
    feed(grouping, 1e-5)
    assert grouping.size(1_000_000) == 1


def test_large_results_do_not_pile_up_in_a_group():
    grouping = Grouping(slots=1)
    for _ in range(10):
        grouping.learn(0.001)
        grouping.group_ended(well=True)
    assert grouping.size(10_000) > 100
    grouping.learn_returned(15_000_000)
    assert grouping.size(10_000) == 2
    grouping.learn_returned(40_000_000)
    assert grouping.size(10_000) == 1
