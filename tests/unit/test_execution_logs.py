"""Log capture: marks cut anywhere, exact boundaries, the cap, constant memory, full disks."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_runner.execution.log_capture import TAIL, BatchLog, GroupLogs, mark

NONCE = b"\0" + bytes(range(1, 16))
HEAD = b"# head\n"


def new_logs(folder, *, cap=0):
    return GroupLogs(
        attempts=folder,
        group_log="groups/g.log",
        name_of=lambda position: f"{position}.txt",
        head_of=lambda position: HEAD,
        cap=cap,
        nonce=NONCE,
    )


def body(folder, logs, position):
    found, _ = logs.take(position)
    if found is None:
        return None
    data = (folder / found.path).read_bytes()[found.offset : found.offset + found.length]
    assert data.startswith(HEAD)
    return data[len(HEAD) :]


OUTPUTS = st.lists(
    st.one_of(
        st.binary(max_size=40),
        st.just(NONCE[:-1]),
        st.just(NONCE[:1] * 20),
        st.just(NONCE[:9] + NONCE[:3]),
    ),
    min_size=1,
    max_size=6,
)


@given(outputs=OUTPUTS, sizes=st.lists(st.integers(1, 25), min_size=1), own=st.booleans())
def test_each_batch_gets_its_bytes_however_the_stream_is_cut(tmp_path_factory, outputs, sizes, own):
    folder = tmp_path_factory.mktemp("logs")
    stream = b"".join(mark(NONCE, k, own=own) + data for k, data in enumerate(outputs))
    logs = new_logs(folder)
    turn = 0
    while stream:
        size = sizes[turn % len(sizes)]
        logs.feed(stream[:size])
        stream = stream[size:]
        turn += 1
    logs.finish()
    for k, data in enumerate(outputs):
        assert body(folder, logs, k) == (data if data or own else None)


def test_output_before_the_first_mark_belongs_to_the_first_batch(tmp_path):
    logs = new_logs(tmp_path)
    logs.feed(b"from an import\n")
    logs.feed(mark(NONCE, 0, own=True) + b"from the batch\n")
    logs.finish()
    assert body(tmp_path, logs, 0) == b"from an import\nfrom the batch\n"


def test_output_without_any_mark_is_kept(tmp_path):
    logs = new_logs(tmp_path)
    logs.feed(b"dies in an import\n")
    logs.finish()
    found, tail = logs.take(0)
    assert found.path == "groups/g.log"
    assert tail == b"dies in an import\n"


def test_output_is_visible_while_the_batch_runs(tmp_path):
    logs = new_logs(tmp_path)
    logs.feed(mark(NONCE, 0, own=True) + b"working")
    assert (tmp_path / "0.txt").read_bytes() == HEAD + b"working"


@given(parts=st.lists(st.binary(max_size=30), max_size=20), cap=st.integers(1, 60))
def test_the_cap_keeps_head_and_tail_and_counts_the_rest(tmp_path_factory, parts, cap):
    path = tmp_path_factory.mktemp("cap") / "log"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    log = BatchLog(descriptor, "log", cap)
    for part in parts:
        log.write(part)
    everything = b"".join(parts)
    assert log.size == len(everything)
    found = log.close()
    os.close(descriptor)
    written = path.read_bytes()
    assert found.length == len(written)
    first, last = max(cap // 2, 1), max(cap - cap // 2, 1)
    if len(everything) <= first + last:
        assert (written, found.dropped) == (everything, 0)
    else:
        notice = b"\n[dask-runner: %d bytes dropped here]\n" % found.dropped
        assert written == everything[:first] + notice + everything[-last:]
        assert found.dropped == len(everything) - first - last


def test_the_tail_is_the_last_of_what_was_written(tmp_path):
    descriptor = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    log = BatchLog(descriptor, "log", 100)
    for k in range(2000):
        log.write(b"line %d\n" % k)
    assert len(log.tail) == TAIL
    assert log.tail.endswith(b"line 1998\nline 1999\n")
    os.close(descriptor)


def test_a_disk_that_takes_nothing_is_counted():
    descriptor = os.open("/dev/full", os.O_WRONLY)
    log = BatchLog(descriptor, "log", 1000)
    log.write(b"x" * 300)
    assert log.close().dropped == 300
    os.close(descriptor)


def test_a_log_that_cannot_be_made_stops_nobody(tmp_path):
    logs = new_logs(tmp_path / "missing")
    logs.feed(mark(NONCE, 0, own=True) + b"lost")
    logs.finish()
    assert logs.take(0)[0] is None or not (tmp_path / "missing" / "0.txt").exists()


@pytest.mark.parametrize("own", [True, False])
def test_a_log_is_never_written_through_a_link(tmp_path, own):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    name = tmp_path / ("0.txt" if own else "groups/g.log")
    name.parent.mkdir(exist_ok=True)
    name.symlink_to(victim)
    logs = new_logs(tmp_path)
    logs.feed(mark(NONCE, 0, own=own) + b"data")
    logs.finish()
    assert victim.read_text() == "precious"
