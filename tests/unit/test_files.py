"""Old content or new, never a mixture; and names that no encoding can harm."""

import errno
import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_runner import files
from dask_runner.errors import UsageError
from dask_runner.files import (
    beside,
    fingerprint,
    path_to_text,
    read_trusted,
    sha256,
    text_to_path,
    write_atomic,
)

NAMES = st.binary(min_size=1, max_size=30).map(lambda name: name.replace(b"\0", b"x"))


@given(NAMES)
def test_any_file_name_becomes_text_and_back(name):
    path = Path(os.fsdecode(name))
    text = path_to_text(path)
    text.encode()
    assert text_to_path(text) == path


@given(NAMES, NAMES)
def test_two_names_are_never_one_text(one, two):
    texts = path_to_text(os.fsdecode(one)), path_to_text(os.fsdecode(two))
    assert (texts[0] == texts[1]) == (one == two)


def test_ordinary_names_are_readable_as_they_are():
    assert path_to_text("runs/a b'$(x)\n.root") == "runs/a b'$(x)\n.root"
    assert path_to_text(os.fsdecode(b"a\xff%")) == "a%FF%25"


def test_writing_replaces_the_whole_file_or_nothing(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomic(path, b"old", mode=0o600)
    assert path.stat().st_mode & 0o777 == 0o600

    def fail(_descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_name_beside_is_gone_afterwards_unless_it_was_renamed(tmp_path):
    path = tmp_path / "file"
    with beside(path) as temporary:
        temporary.write_bytes(b"x")
    assert list(tmp_path.iterdir()) == []
    with beside(path) as temporary:
        temporary.write_bytes(b"x")
        temporary.replace(path)
    assert path.read_bytes() == b"x"


def test_hashes(tmp_path):
    path = tmp_path / "file"
    for size in (0, 1, 65_536, 65_537, 131_072, 200_000):
        content = bytes(index % 251 for index in range(size))
        path.write_bytes(content)
        assert sha256(path) == hashlib.sha256(content).hexdigest()
        before = fingerprint(path)
        for position in {0, size // 2, size - 1} - {-1}:
            changed = bytearray(content)
            if not changed:
                continue
            changed[position] ^= 1
            path.write_bytes(changed)
            inside = 65_536 <= position < size - 65_536
            assert (fingerprint(path) == before) == inside
        path.write_bytes(content + b"x")
        assert fingerprint(path) != before


def test_only_files_of_our_own_are_trusted(tmp_path):
    path = tmp_path / "settings.toml"
    path.write_text("a = 1")
    assert read_trusted(path) == "a = 1"
    path.chmod(0o666)
    with pytest.raises(UsageError, match="others may write to it") as refusal:
        read_trusted(path)
    assert "chmod go-w" in refusal.value.hint
    path.chmod(0o644)
    os.chown(path, 12345, -1)
    with pytest.raises(UsageError, match="belongs to another user"):
        read_trusted(path)


def test_what_is_no_text_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="not a regular file"):
        read_trusted(tmp_path / "pipe")
    with pytest.raises(UsageError, match="cannot be read"):
        read_trusted(tmp_path / "nothing")
    (tmp_path / "bytes").write_bytes(b"a\n\xff")
    with pytest.raises(UsageError, match="line 2: not UTF-8"):
        read_trusted(tmp_path / "bytes")
