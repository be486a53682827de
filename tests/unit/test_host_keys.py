"""Known host keys: read as OpenSSH reads them, and appended to without harm."""

import subprocess
from pathlib import Path

import asyncssh
import pytest

from dask_runner.cluster.ssh.host_keys import ShownKey, judge, lookup, record, recorded_name

KEYS = [asyncssh.generate_private_key("ssh-ed25519") for _ in range(3)]


def line_of(names: str, number: int, marker: str = "") -> str:
    key = KEYS[number].export_public_key().decode().strip()
    return f"{marker + ' ' if marker else ''}{names} {key} a comment\n"


def state_of(path: Path, name: str, port: int = 22, number: int = 0) -> str:
    key = asyncssh.import_public_key(KEYS[number].export_public_key())
    return judge(lookup([path], name, port), key)[0]


@pytest.fixture
def known(tmp_path: Path) -> Path:
    return tmp_path / ".ssh" / "known_hosts"


def write(known: Path, *lines: str) -> None:
    known.parent.mkdir(exist_ok=True)
    known.write_text("".join(lines))


@pytest.mark.parametrize(
    ("names", "name", "port", "state"),
    [
        ("tev01", "tev01", 22, "known"),
        ("tev01", "TEV01", 22, "known"),
        ("Tev01,10.0.0.1", "tev01", 22, "known"),
        ("tev01", "tev012", 22, "unknown"),
        ("*.example.org", "tev01.example.org", 22, "known"),
        ("*.example.org,!tev01.*", "tev01.example.org", 22, "unknown"),
        ("tev0?", "tev01", 22, "known"),
        ("[tev01]:2222", "tev01", 2222, "known"),
        ("[tev01]:2222", "tev01", 22, "unknown"),
        ("[tev01]:2222", "tev01", 2223, "unknown"),
        ("tev01", "tev01", 2222, "known"),
        ("[te*]:2222", "tev01", 2222, "known"),
        ("tev[01]", "tev0", 22, "unknown"),
        ("2001:db8::7", "2001:db8::7", 22, "known"),
    ],
)
def test_names_match_as_in_ssh(known, names, name, port, state):
    write(known, "# a comment\n", "\n", line_of(names, 0))
    assert state_of(known, name, port) == state


def test_names_that_ssh_keygen_hashed_match(known):
    write(known, line_of("tev01", 0), line_of("[tev02]:2222", 1))
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", known], check=True, capture_output=True)
    assert "tev0" not in known.read_text()
    assert state_of(known, "tev01") == "known"
    assert state_of(known, "tev02", 2222, number=1) == "known"
    assert state_of(known, "tev01", number=1) == "changed"
    assert state_of(known, "tev03") == "unknown"


def test_another_key_is_changed_and_its_line_is_named(known):
    write(known, line_of("tev02", 0), line_of("tev01", 1))
    state, place = judge(lookup([known], "tev01", 22), KEYS[0].convert_to_public())
    assert state == "changed"
    assert place == f"line 2 of {known}"


def test_a_key_without_port_that_differs_does_not_make_another_port_changed(known):
    write(known, line_of("tev01", 1))
    assert state_of(known, "tev01", 2222) == "unknown"


def test_a_revoked_key_is_never_good(known):
    write(known, line_of("tev01", 0), line_of("*", 0, "@revoked"))
    assert state_of(known, "tev01") == "revoked"


def test_an_authority_is_no_host_key(known):
    write(known, line_of("*.example.org", 0, "@cert-authority"))
    assert state_of(known, "tev01.example.org") == "unknown"


def test_damaged_lines_and_missing_files_hide_no_others(known):
    write(known, "tev01 ssh-ed25519 AAAAgarbage\n", "|1|x|y z\n", "tev01\n", "@odd tev01 k\n")
    with known.open("ab") as file:
        file.write(b"\xff\xfe tev01\n" + line_of("tev01", 0).encode())
    assert state_of(known, "tev01") == "known"
    assert lookup([known.with_name("none"), known], "tev01", 22)


def shown(known: Path, number: int, state: str = "unknown") -> ShownKey:
    text = KEYS[number].export_public_key().decode().strip()
    name = recorded_name("tev01", 22)
    return ShownKey(
        host="tev01",
        name=name,
        type="ssh-ed25519",
        fingerprint="",
        key=text,
        state=state,
        file=str(known),
    )


def test_recorded_keys_are_found_by_us_and_by_ssh_keygen(known):
    record([shown(known, 0)])
    assert state_of(known, "tev01") == "known"
    assert known.stat().st_mode & 0o777 == 0o600
    assert known.parent.stat().st_mode & 0o777 == 0o700
    subprocess.run(["ssh-keygen", "-F", "tev01", "-f", known], check=True, capture_output=True)


def test_a_line_without_an_end_is_not_glued_to_the_new_one(known):
    write(known, line_of("tev02", 1).strip())
    record([shown(known, 0)])
    assert state_of(known, "tev01") == "known"
    assert state_of(known, "tev02", number=1) == "known"


@pytest.mark.parametrize("state", ["known", "changed", "revoked"])
def test_only_new_keys_can_be_recorded(known, state):
    with pytest.raises(ValueError, match=state):
        record([shown(known, 0, state)])
    assert not known.exists()
