"""The log scan: real error lines, harmless lines, ignored lines, bounded memory."""

import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_runner.errors import UsageError
from dask_runner.workloads.external_log import LogScan, check_patterns

_LOG = (Path(__file__).parent.parent / "standins" / "athena.log").read_bytes()


def _scan(log, chunks=(), **options):
    scan = LogScan(**options)
    position = 0
    for size in chunks:
        scan.feed(log[position : position + size])
        position += size
    scan.feed(log[position:])
    scan.close()
    return scan


def test_a_real_log_has_its_error_lines_counted_and_nothing_else():
    scan = _scan(_LOG)
    assert (scan.errors, scan.ignored) == (4, 0)
    assert scan.first.endswith("GetGap: point outside of the accordion")


def test_ignored_lines_are_counted_and_not_dropped():
    scan = _scan(_LOG, ignore=["GetGap", "particle was not processed"])
    assert (scan.errors, scan.ignored) == (2, 2)
    assert "AthenaEventLoopMgr  FATAL" in scan.first


@pytest.mark.parametrize(
    "line",
    [
        "Traceback (most recent call last):",
        "terminate called after throwing an instance of 'std::bad_alloc'",
        "-------- EEEE ------- G4Exception-START -------- EEEE -------",
        "SysError in <TFile::ReadBuffer>: error reading from file x.root",
        "Core dump from CoreDumpSvc on host at 2026-11-20",
        "ERROR at the beginning of a line",
        "\x1b[31mSvc ERROR in colour\x1b[0m",
        "stage 1 ERROR without anything",
    ],
)
def test_default_patterns(line):
    assert _scan(f"all well\n{line}\nall well\n".encode()).errors == 1
    assert _scan(line.encode()).errors == 1


@pytest.mark.parametrize(
    "line",
    [
        "10:02:12 CoreDumpSvc          INFO install f-a-t-a-l handler",
        "Py:Athena    DEBUG ERROR handling is set up",
        "NO_ERRORS_FOUND",
        "IOError is not in the list",
    ],
)
def test_harmless_lines(line):
    assert _scan(line.encode()).errors == 0


def test_patterns_of_the_settings_come_besides_the_usual_ones():
    log = b"my own trouble\nSvc ERROR x\n"
    assert _scan(log, patterns=["own trouble"]).errors == 2


@given(st.lists(st.integers(1, 200), max_size=20))
def test_the_chunks_in_which_output_comes_do_not_matter(chunks):
    scan = _scan(_LOG, chunks, ignore=["GetGap"])
    assert (scan.errors, scan.ignored) == (3, 1)


def test_a_line_without_end_takes_no_memory():
    scan = LogScan()
    tracemalloc.start()
    for _ in range(500):
        scan.feed(b"x" * 65536)
    scan.feed(b" ERROR here\n")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert scan.errors == 1
    assert peak < 2_000_000


def test_bytes_that_are_not_text():
    assert _scan(b"\xff\xfe ERROR \xff\n").first == "\ufffd\ufffd ERROR \ufffd"


def test_a_pattern_that_is_no_regular_expression_is_refused():
    with pytest.raises(UsageError, match="is not a regular expression"):
        check_patterns(["("], "ignore_patterns of step 'simulate'")
