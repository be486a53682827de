"""Logs for people: where lines end, what is folded and how it is marked; nothing is lost."""

import time
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from dask_runner.reports.attempt_log import whole_lines
from dask_runner.reports.log_view import Block, fold, lines_of, mask, read_bytes, shown

# Few letters and digits, so that repetition is common.
few_lines = st.lists(st.text("ab1 ", max_size=3), max_size=80)


def text_of(data, size=1 << 16):
    return list(shown(fold(lines_of(data[at : at + size] for at in range(0, len(data), size)))))


@given(few_lines)
def test_folding_loses_nothing_but_numbers(lines):
    blocks = list(fold(lines))
    unfolded = [line for block in blocks for line in block.lines * block.count]
    assert list(map(mask, unfolded)) == list(map(mask, lines))
    for block in blocks:
        assert block.lines, "no block is empty"
    exact = [line for block in blocks for line in block.lines * block.count if block.exact]
    if all(block.exact for block in blocks):
        assert exact == lines


@given(few_lines)
def test_blocks_called_exact_repeat_exactly(lines):
    at = 0
    for block in fold(lines):
        size = len(block.lines) * block.count
        here = lines[at : at + size]
        assert (here == list(block.lines) * block.count) == block.exact
        at += size
    assert at == len(lines)


@given(st.lists(st.text("ab", min_size=1, max_size=3), max_size=60))
def test_no_line_stands_twice_in_a_row_after_folding(lines):
    blocks = list(fold(lines))
    for one, other in pairwise(blocks):
        if len(one.lines) == len(other.lines) == 1:
            assert one.lines != other.lines


def test_140_kilobytes_of_one_warning_is_one_line():
    warning = b"WARNING CaloCell with negative energy\n"
    data = warning * (140_000 // len(warning))
    assert text_of(data, 1000) == ["WARNING CaloCell with negative energy  [x 3684]"]


def test_lines_that_differ_in_numbers_are_folded_and_said_to_differ():
    data = b"".join(b"event %d: pt=%.3e at 0x%x\n" % (n, n / 7, n * 99) for n in range(1000))
    assert text_of(data) == ["event 0: pt=0.000e+00 at 0x0  [x 1000, numbers differ]"]


def test_warnings_of_two_lines_and_triples_are_folded_as_groups():
    data = b"f.py:3: RuntimeWarning: overflow\n  y = exp(x)\n" * 500 + b"A\nA\nB\n" * 4
    assert text_of(data) == [
        "f.py:3: RuntimeWarning: overflow", "  y = exp(x)  [these 2 lines x 500]",
        "A", "A", "B  [these 3 lines x 4]",
    ]  # fmt: skip


def test_ordinary_lines_stay_as_they_are():
    data = b"start\nreading a.root\nreading b.root\nend without line end"
    assert text_of(data) == data.decode().splitlines()


def test_bytes_that_are_not_utf8_and_control_characters_are_harmless():
    lines = text_of(b"caf\xe9 \xff\xfe\n\x1b]0;title\x07\x1b[2Jgone\n\xe2\x82\xac\n")
    assert lines == ["caf\\xe9 \\xff\\xfe", " ]0;title  [2Jgone", "€"]


@given(st.lists(st.sampled_from([b"a", b"b1", b"\n", b"\r\n", b"\r", b"\xff"]), max_size=30))
def test_line_ends_do_not_depend_on_how_the_bytes_arrive(pieces):
    data = b"".join(pieces)
    whole = list(lines_of([data] if data else []))
    assert list(lines_of(bytes([byte]) for byte in data)) == whole
    expected = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    if expected[-1] == b"":
        expected.pop()
    assert [line.encode() for line in whole] == [
        line.replace(b"\xff", b"\\xff") for line in expected
    ]


def test_flood_without_line_ends_is_cut_and_says_so():
    (first, *rest) = text_of(b"x" * 3_000_000)
    assert first.startswith("x" * 2000 + " [... 1046576 characters more]")
    assert len(rest) <= 1


def test_large_log_is_folded_in_reasonable_time_and_memory():
    # 10 MB, the default cap, of lines that do not repeat: the worst case.
    words = [
        f"{chr(97 + n % 26)}{chr(97 + n // 26 % 26)}{chr(97 + n // 676 % 26)}"
        for n in range(17_000)
    ]
    data = ("\n".join(word * 40 for word in words) + "\n").encode() * 5
    began = time.process_time()
    count = sum(1 for _ in shown(fold(lines_of([data]))))
    assert count > 10_000
    assert time.process_time() - began < 10


def test_marker_only_where_something_was_folded():
    assert list(shown([Block(lines=("a [x 3]",))])) == ["a [x 3]"]


def test_slice_of_a_file(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(bytes(range(256)) * 1000)
    assert b"".join(read_bytes(path, 256, 512)) == bytes(range(256)) * 2
    assert b"".join(read_bytes(path, 255_990)) == bytes(range(246, 256))
    assert b"".join(read_bytes(path, 255_990, 99)) == bytes(range(246, 256))
    assert b"".join(read_bytes(path, 0, 0)) == b""


@given(st.binary(max_size=60), st.integers(1, 7))
def test_whole_lines_keep_every_byte(data, size):
    pieces = list(whole_lines(data[at : at + size] for at in range(0, len(data), size)))
    assert b"".join(pieces) == data
    assert all(piece.endswith(b"\n") for piece in pieces[:-1])
