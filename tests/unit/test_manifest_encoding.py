"""A line holds any record exactly, in strict JSON, and notices every flipped bit."""

import json
import math
import zlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from manifest_runs import bad, batches, done, good, output, started

from dask_runner.batch import Batch, InputFile, Outcome, OutcomeStatus, WorkloadSpec
from dask_runner.manifest import Header, Intent, Note, Split
from dask_runner.manifest.encoding import decode, encode, is_intact

TEXT = st.text(st.characters()) | st.text(st.characters(categories=["Cs", "Ll"]))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | TEXT,
    lambda inner: (
        st.lists(inner) | st.dictionaries(TEXT | st.sampled_from(["$float", "$x"]), inner)
    ),
    max_leaves=8,
)


def same(one, other):
    """Equality with NaN equal to itself and 0.0 different from -0.0 and 0."""
    return repr(msgspec.to_builtins(one)) == repr(msgspec.to_builtins(other))


def strict(line):
    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    return json.loads(line, parse_constant=refuse)


@given(JSON, TEXT, st.integers(0, 2**40))
def test_any_json_in_a_record_comes_back_exactly(value, text, seq):
    record = Note(kind="x", text=text, data={"value": value}, time="t")
    line = encode(record, seq)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert same(decode(line[:-1]), record)
    assert strict(line)["seq"] == seq


@given(st.dictionaries(TEXT, st.floats()), st.floats(), TEXT)
def test_an_outcome_with_any_numbers_and_names_comes_back_exactly(counters, wall, host):
    record = Outcome(
        batch=1,
        attempt=2,
        status=OutcomeStatus.DONE,
        wall=wall,
        host=host,
        counters=counters,
        outputs=(output(),),
    )
    line = encode(record, 5)
    assert same(decode(line[:-1]), record)
    strict(line)


@pytest.mark.parametrize(
    "record",
    [
        Header(
            timestamp="t", workload=WorkloadSpec(name="w", configuration={"x": math.nan}), seed=1
        ),
        InputFile(path="a%FF", bytes=1, mtime_ns=2, entries=3, fingerprint="f"),
        batches(2)[1],
        started(1, 2),
        good(3),
        bad(4, message="a\udcffb $HOME"),
        Intent(attempts=((1, 2),)),
        done(1),
        Note(kind="rerun"),
        Split(batch=0, parts=tuple(batches(2))),
    ],
    ids=lambda record: type(record).__name__,
)
def test_every_kind_of_record_comes_back(record):
    found = decode(encode(record, 0)[:-1])
    assert type(found) is type(record)
    assert same(found, record)


def test_infinity_is_written_as_declared_and_not_as_null():
    record = Batch(index=0, workload="w", parameters={"cut": math.inf, "name": "a\udcff"})
    found = strict(encode(record, 0))
    assert found["parameters"] == {"cut": {"$float": "inf"}, "name": {"$text": "a\\udcff"}}


def test_the_check_sum_is_that_of_the_specification():
    line = encode(good(1), 12)
    body, _, tail = line.rpartition(b',"crc":"')
    assert tail == b'%08x"}\n' % zlib.crc32(body)
    assert line.startswith(b'{"type":"outcome",')


def test_every_flipped_bit_of_a_line_is_noticed():
    line = encode(good(1, outputs=[output()]), 12)[:-1]
    assert is_intact(line)
    for position in range(len(line)):
        for bit in range(8):
            flipped = bytearray(line)
            flipped[position] ^= 1 << bit
            assert not is_intact(bytes(flipped)), (position, bit)
