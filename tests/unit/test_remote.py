"""Files that are read where they are: the same bytes, few requests, and nobody waits for ever."""

import sys

import histogram_files
import numpy as np
import pytest
from range_server import serving

from dask_runner import downloads, verify
from dask_runner.batch import Attempt, Batch, InputFile, InputRange
from dask_runner.errors import BadInputError, UnreachableError, UsageError
from dask_runner.execution.failures import cause_of
from dask_runner.host_files import input_paths
from dask_runner.rootfiles import remote
from dask_runner.rootfiles.chunks import reader

pytest.importorskip("aiohttp")
TREE = histogram_files.TREE


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("served")
    histogram_files.write(found / "jets.root", 3000, seed=7, basket=500)
    (found / "half.root").write_bytes((found / "jets.root").read_bytes()[:20_000])
    (found / "text.root").write_text("not what it seems" * 10)
    (found / "empty.root").write_bytes(b"")
    return found


@pytest.fixture
def server(folder):
    with serving(folder) as one:
        yield one


def test_ranges_are_read_like_the_file(server, folder):
    url = server.url("jets.root")
    size = (folder / "jets.root").stat().st_size
    with reader(folder / "jets.root", TREE) as local, reader(url, TREE) as far:
        assert far.types == local.types
        assert far.shape(["jet_pt"]) == local.shape(["jet_pt"])
        before = len(server.requests)
        for one, other in zip(
            local.chunks(["jet_pt", "met"], 1200, 1700),
            far.chunks(["jet_pt", "met"], 1200, 1700),
            strict=True,
        ):
            assert np.array_equal(one.columns["met"].data, other.columns["met"].data)
            assert np.array_equal(one.columns["jet_pt"].data, other.columns["jet_pt"].data)
        own = server.requests[before:]
    # Two baskets of two branches, those near each other at once.
    assert len(own) <= 4
    assert sum(last - first + 1 for first, last in own) < size / 3


def test_what_the_server_says_of_a_file(server, folder):
    url = server.url("jets.root")
    size = (folder / "jets.root").stat().st_size
    assert remote.facts(url) == remote.RemoteFacts(bytes=size, stamp='"1"')
    server.tag = ""
    assert remote.facts(url).stamp == ""
    # Not even the end of the file is asked for.
    assert {last for _, last in server.requests} == {63}


@pytest.mark.parametrize(
    ("mode", "name", "message"),
    [
        ("404", "jets.root", "no such file"),
        ("403", "jets.root", "does not allow"),
        ("418", "jets.root", "server says 418"),
        ("whole", "jets.root", "whole files only"),
        ("short", "jets.root", "the server gave"),
        ("", "none.root", "no such file"),
        ("", "half.root", "truncated"),
        ("", "text.root", "not a ROOT file"),
        ("", "empty.root", "empty.root"),
    ],
)
def test_what_is_wrong_with_the_file_is_final(server, mode, name, message):
    server.mode = mode
    with (
        pytest.raises(BadInputError, match=message) as caught,
        reader(server.url(name), TREE) as tree,
    ):
        list(tree.chunks(["jet_pt"], 0, 3000))
    assert server.url(name) in caught.value.message
    assert not cause_of(caught.value).kind.may_pass_elsewhere


@pytest.mark.parametrize("mode", ["hang", "stall", "500", "503"])
def test_what_is_wrong_with_the_server_may_pass(server, mode):
    server.mode = mode
    url = server.url("jets.root")
    with pytest.raises(UnreachableError) as caught, reader(url, TREE, timeout=0.3) as tree:
        list(tree.chunks(["jet_pt"], 0, 3000))
    assert url in caught.value.message
    if not mode.isdecimal():
        assert "no answer within" in caught.value.message
        assert "remote_timeout" in caught.value.hint
    assert cause_of(caught.value).kind.may_pass_elsewhere


def test_nobody_there():
    with pytest.raises(UnreachableError, match="127.0.0.1:1/"):
        remote.facts("http://127.0.0.1:1/a.root", timeout=5)


def test_xrootd_has_our_deadline(server):
    pytest.importorskip("fsspec_xrootd")
    port = server.server_address[1]
    server.mode = "hang"
    with pytest.raises(UnreachableError, match="no answer within 1 s"):
        remote.facts(f"root://127.0.0.1:{port}//jets.root", timeout=1)


@pytest.mark.parametrize(
    ("url", "module"),
    [("https://example.org/a.root", "aiohttp"), ("root://example.org//a.root", "fsspec_xrootd")],
)
def test_a_missing_library_is_named_with_what_installs_it(monkeypatch, url, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError, match=f"{module} is not installed") as caught:
        remote.facts(url)
    assert caught.value.hint == "pip install 'dask-runner[remote]'"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://example.org/a.root", "not read from where it is"),
        ("https:///a.root", "not a URL"),
        ("root://example.org//data/*.root", "not asked for patterns"),
        ("https://example.org/a b.root", "not a URL"),
        ("https://me:secret@example.org/a.root", "secret"),
        ("root://me:secret@example.org//a.root", "secret"),
        ("root://example.org:0//a.root", "not a URL"),
    ],
)
def test_wrong_addresses(url, message):
    with pytest.raises(UsageError, match=message) as caught:
        downloads.check_address(url)
    assert "me:secret" not in str(caught.value)


def test_addresses():
    for text in ("root://eos.cern.ch//eos/a.root", "https://example.org/a.root"):
        downloads.check_address(text)
        assert downloads.is_address(text)
    for text in ("/data/a.root", "data/root:/a.root", "a.root"):
        assert not downloads.is_address(text)


def test_a_file_that_has_changed_is_noticed(server):
    url = server.url("jets.root")
    facts = remote.facts(url)
    file = InputFile(path=url, bytes=facts.bytes, mtime_ns=0, entries=3000, fingerprint=facts.stamp)
    assert verify.changed_inputs([file], thorough=True) == ()
    server.tag = '"2"'
    (line,) = verify.changed_inputs([file], thorough=False)
    assert line == f"{url}: the server says that it has changed"
    with (
        pytest.raises(BadInputError, match="changed, since the run was planned"),
        remote.opened_remote(url, expected=facts),
    ):
        pass
    # A server that gives no stamp has at least a size.
    server.tag = ""
    assert verify.changed_inputs([file], thorough=False) == ()
    other = remote.RemoteFacts(bytes=facts.bytes + 1)
    assert remote.difference(other, facts) == f"{facts.bytes} bytes instead of {facts.bytes + 1}"
    server.mode = "404"
    (line,) = verify.changed_inputs([file], thorough=False)
    assert "no such file" in line


def test_nobody_brings_them_to_the_hosts():
    batch = Batch(
        index=0,
        workload="histogram",
        inputs=(InputRange(path="https://example.org/a.root", remote=True), InputRange(path="/b")),
    )
    assert input_paths([Attempt(batch=batch, number=1)]) == ["/b"]
