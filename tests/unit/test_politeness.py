"""When batches stand still: hours, users, load."""

import os
import time

import pytest

from dask_runner.cluster.channel import Politeness
from dask_runner.cluster.host.politeness import (
    LoadOfOthers,
    Manners,
    Observer,
    Scene,
    Terminal,
    in_hours,
    terminals,
)


@pytest.mark.parametrize(
    ("hours", "minute", "inside"),
    [
        ("09:00-17:30", 9 * 60, True),
        ("09:00-17:30", 9 * 60 - 1, False),
        ("09:00-17:30", 17 * 60 + 29, True),
        ("09:00-17:30", 17 * 60 + 30, False),
        ("22:00-06:00", 23 * 60, True),
        ("22:00-06:00", 0, True),
        ("22:00-06:00", 6 * 60 - 1, True),
        ("22:00-06:00", 6 * 60, False),
        ("22:00-06:00", 12 * 60, False),
        ("08:00-08:00", 3, True),
        ("", 3, False),
    ],
)
def test_hours_hold_from_their_first_minute_to_before_their_last(hours, minute, inside):
    assert in_hours(hours, minute) is inside


def test_without_wishes_nothing_pauses():
    manners = Manners(Politeness())
    assert not manners.any
    scene = Scene(minute=600, terminals=(Terminal(user="ada", idle=0.0),), load=99.0)
    assert manners.reason(scene) == ""


def test_quiet_hours_are_named():
    manners = Manners(Politeness(quiet_hours="09:00-17:30"))
    assert manners.any
    assert manners.reason(Scene(minute=600)) == "quiet hours 09:00-17:30"
    assert manners.reason(Scene(minute=0)) == ""


def test_a_user_is_active_for_so_many_minutes():
    manners = Manners(Politeness(user_idle=2))

    def seen(*idle: float) -> Scene:
        return Scene(terminals=tuple(Terminal(user=f"u{int(one)}", idle=one) for one in idle))

    assert manners.reason(seen(119.0, 5.0, 3000.0)) == "in use by u119, u5"
    assert manners.reason(seen(120.0)) == ""


def test_load_has_to_fall_well_below_the_limit():
    manners = Manners(Politeness(load=2.0))
    loads = [1.9, 2.0, 2.1, 1.9, 1.7, 1.6, 1.9, 2.1]
    paused = [bool(manners.reason(Scene(load=load))) for load in loads]
    assert paused == [False, False, True, True, True, False, False, True]


def test_our_own_load_is_not_that_of_others():
    """As the kernel averages: all our 4 threads run for long, then stop."""
    others, load = LoadOfOthers(), 0.0
    shown = []
    for second in range(0, 1200, 5):
        ours = 4 if second < 600 else 0
        load += (ours + 1 - load) * (1 - 2.718281828 ** (-5 / 60))
        shown.append(others.update(load, running=ours, now=float(second)))
    assert max(shown) < 1.35
    assert shown[-1] == pytest.approx(1.0, abs=0.05)


def test_terminals_of_logins_and_of_other_users_are_seen(tmp_path):
    (tmp_path / "pts").mkdir()
    for name, idle in (("pts/0", 100), ("pts/1", 200), ("tty1", 300)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() - idle, time.time()))
    known = [("ada", "tty1"), ("ada", "pts/0"), ("bob", ":0"), ("eve", "pts/9"), ("joe", "")]
    found = {one.user: round(one.idle) for one in terminals(known[:1], tmp_path)}
    assert found == {"ada": 300}, "our own terminals that are in no list are our batches'"
    found = sorted((one.user, round(one.idle)) for one in terminals(known, tmp_path))
    assert found == [("ada", 100), ("ada", 300)]


def test_the_scene_is_of_this_host():
    scene = Observer(os.getpid()).scene()
    assert 0 <= scene.minute < 24 * 60
    assert scene.load >= 0
