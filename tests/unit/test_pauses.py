"""How long a host that does not answer is left alone."""

from dask_runner.pauses import Pauses


def test_each_pause_in_a_row_is_longer_until_the_host_answers():
    now = [100.0]
    pauses = Pauses(clock=lambda: now[0])
    lengths = []
    for _ in range(8):
        pauses.begin("a", "is not up")
        began = now[0]
        assert pauses.now() == {"a": "is not up"}
        while pauses.now():
            now[0] += 0.5
        lengths.append(now[0] - began)
    assert lengths == [1, 2, 4, 8, 16, 30, 30, 30]
    pauses.end("a")
    pauses.begin("a", "is not up")
    now[0] += 1
    assert not pauses.now()


def test_several_words_at_once_are_one_pause():
    now = [100.0]
    pauses = Pauses(clock=lambda: now[0])
    for _ in range(5):
        pauses.begin("a", "is not up")
    pauses.begin("b", "lost")
    assert pauses.now() == {"a": "is not up", "b": "lost"}
    now[0] += 1
    assert not pauses.now()
