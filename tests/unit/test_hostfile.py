"""The hostfile: ranges, options, quotes, and errors with file, line, token and what to do."""

import os
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_runner.errors import UsageError
from dask_runner.hostfile import (
    HOSTFILE_TEXT,
    Host,
    is_selected,
    load_hosts,
    overlaid,
    parse_hosts,
    select_hosts,
)

TOP = Path(__file__).parents[2]


def addresses(text):
    return [host.address for host in parse_hosts(text, "hosts")]


def refused(text):
    with pytest.raises(UsageError) as caught:
        parse_hosts(text, "hosts")
    return f"{caught.value.message}\n{caught.value.hint}"


def test_lines_comments_and_options(tmp_path):
    path = tmp_path / "hostfile.txt"
    path.write_text(
        "# ours\n\n  tev01  # the old one\r\n"
        'tev02 slots=8 python=/opt/py/bin/python user=ada port=2222 scratch="/data/my dir"\n'
        "127.0.0.1 scratch=/a#b\n"
    )
    path.chmod(0o644)
    assert load_hosts(path) == (
        Host(address="tev01"),
        Host(
            address="tev02",
            slots=8,
            python="/opt/py/bin/python",
            user="ada",
            port=2222,
            scratch="/data/my dir",
        ),
        Host(address="127.0.0.1", scratch="/a#b"),
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tev[02-04,10]", ["tev02", "tev03", "tev04", "tev10"]),
        ("tev[8-11]", ["tev8", "tev9", "tev10", "tev11"]),
        ("tev[098-101].x", ["tev098.x", "tev099.x", "tev100.x", "tev101.x"]),
        ("r[1-2]n[01,3]", ["r1n01", "r1n3", "r2n01", "r2n3"]),
        ("[1-2]a", ["1a", "2a"]),
        ("[10,12]", ["10", "12"]),
        ("[fe80::1]", ["fe80::1"]),
        ("[FE80:0::1%eth0]", ["fe80::1%eth0"]),
        ("[::1]", ["::1"]),
    ],
)
def test_addresses(text, expected):
    assert addresses(text) == expected


def test_options_hold_for_all_hosts_of_a_range():
    hosts = parse_hosts("tev[1-2] slots=3", "hosts")
    assert hosts == (Host(address="tev1", slots=3), Host(address="tev2", slots=3))


@pytest.mark.parametrize(
    ("line", "expected", "hint"),
    [
        ("tev01 slot=8", "slot=8: unknown key slot", "did you mean slots?"),
        ("tev01 colour=8", "colour=8: unknown key", "the keys are slots, python, user, port"),
        ("tev01 slots", "slots: not key=value", "write slots=VALUE"),
        ("tev01 tev02", "tev02: not key=value", "one host on a line"),
        ("slots=8", "slots=8: no host", "begins with the host"),
        ("tev01 slots=0", "slots=0: not a whole number from 1", ""),
        ("tev01 slots=-1", "slots=-1: not a whole", ""),
        ("tev01 slots=", "slots=: not a whole", ""),
        ("tev01 slots=٣", "not a whole number", ""),
        ("tev01 port=65536", "port=65536: not a whole number from 1 to 65535", ""),
        ("tev01 port=" + "9" * 5000, "not a whole number", ""),
        ("tev01 python=python3", "python=python3: not an absolute path", "begin it with /"),
        ("tev01 scratch=$HOME", "scratch=$HOME: not an absolute path", ""),
        ("tev01 scratch=/a\x1b[2J", "unprintable", ""),
        ("tev01 user=-oProxyCommand=x", "not a login name", ""),
        ("tev01 slots=1 slots=2", "slots is given twice", ""),
        ('tev01 scratch="/a b', "a quote is not closed", "close it"),
        ("tev01 scratch='/a\"", "a quote is not closed", "close it"),
        ("-oProxyCommand=x", "no host before it", ""),
        ("-tev01", "'-tev01' is not an address", "letters"),
        ("tev_01", "'tev_01' is not an address", "letters"),
        ("tev01;reboot", "is not an address", ""),
        ("$(reboot)", "is not an address", ""),
        ('"tev01"', "is not an address", ""),
        ("tev01\x00", "is not an address", ""),
        ("ada@tev01", "'ada@tev01' is not", "write tev01 user=ada"),
        ("tev01:2222", "'tev01:2222' is not", "write tev01 port=2222"),
        ("fe80::1", "'fe80::1' is not", "in brackets: [fe80::1]"),
        ("[fe80::1]:22", "an IPv6 address is [address]", "port=N"),
        ("[fe80::zz]", "not an IPv6 address", ""),
        ("[fe80::1%a;b]", "not the name of an interface", ""),
        ("tev[02-8]", "02-8 has 2 digits first and 1 last", "write 02-08"),
        ("tev[8-2]", "8-2 runs backwards", "write 2-8"),
        ("tev[]", "'' is not a number", "tev[02-08,10]"),
        ("tev[1,]", "'' is not a number", ""),
        ("tev[a-c]", "'a-c' is not a number", ""),
        ("tev[1-3", "a bracket has no partner", ""),
        ("tev1]", "a bracket has no partner", ""),
        ("tev[[1]]", "a bracket has no partner", ""),
        ("tev[1-99999999]", "more than 10000 hosts", ""),
        ("tev[1-999][1-999]", "more than 10000 hosts", ""),
        ("tev[" + "9" * 5000 + "]", "is not a number", ""),
        ("t" * 254, "longer than 253", ""),
        ("tev[1,1]", "tev1 is on this line already", "remove one"),
    ],
)
def test_errors_name_file_line_token_and_remedy(line, expected, hint):
    message = refused(f"# first line\n{line}\n")
    assert message.startswith("hosts:2: ")
    assert expected in message
    assert hint in message


def test_duplicates_name_the_other_line():
    assert "hosts:3: TEV02 is on line 1 already" in refused("tev[01-05]\nx\nTEV02\n")
    assert "hosts:2: ::1 is on line 1 already" in refused("[::1]\n[0::1]\n")


def test_no_hosts():
    assert "hosts: no hosts" in refused("# nothing\n\n")


def test_a_hostfile_that_others_may_write_is_refused(tmp_path):
    path = tmp_path / "hostfile.txt"
    path.write_text("tev01\n")
    path.chmod(0o622)
    with pytest.raises(UsageError, match="others may write"):
        load_hosts(path)
    path.chmod(0o600)
    assert len(load_hosts(path)) == 1
    if os.geteuid() == 0:
        os.chown(path, 12345, -1)
        with pytest.raises(UsageError, match="another user"):
            load_hosts(path)


def test_what_is_said_of_a_host_goes_before_what_was_known():
    known = Host(address="tev01", slots=4, python="/old/python")
    assert overlaid(known, Host(address="TEV01")) == known
    said = Host(address="tev01", python="/new/python", user="ada")
    assert overlaid(known, said) == Host(address="tev01", slots=4, python="/new/python", user="ada")
    assert overlaid(None, said) == said


@pytest.mark.parametrize(
    ("pattern", "chosen"),
    [
        ("", ["tev01", "TEV02", "fe80::1"]),
        ("TEV*", ["tev01", "TEV02"]),
        ("[fe80::1]", ["fe80::1"]),
        ("tev0[13]", ["tev01"]),
        ("!tev02,tev*", ["tev01"]),
    ],
)
def test_patterns_mean_the_same_for_hosts_of_a_file_and_of_a_cluster(pattern, chosen):
    hosts = [Host(address=name) for name in ("tev01", "TEV02", "fe80::1")]
    assert [host.address for host in select_hosts(hosts, pattern)] == chosen
    assert [host.address for host in hosts if is_selected(host.address, pattern)] == chosen


def test_the_written_hostfile_is_valid_and_so_are_its_examples():
    assert addresses(HOSTFILE_TEXT) == ["localhost"]
    examples = [line[4:] for line in HOSTFILE_TEXT.split("\n") if line.startswith("#   ")][:4]
    assert len(parse_hosts("\n".join(examples), "hosts")) == 1 + 8 + 1 + 1
    assert (TOP / "hostfile.txt").read_text() == HOSTFILE_TEXT, "run scripts/update_generated.py"


NAMES = st.from_regex(r"\A[a-z][a-z0-9.-]{0,8}\Z")
PATHS = st.text(string.ascii_letters + " #=[]'$(){};|&*\\").map(lambda text: f"/{text}")
HOSTS = st.builds(
    Host,
    address=NAMES,
    slots=st.integers(0, 4096),
    python=st.one_of(st.just(""), PATHS),
    user=st.one_of(st.just(""), st.from_regex(r"\A[a-z_][a-z0-9_-]{0,8}\Z")),
    port=st.integers(0, 65535),
    scratch=st.one_of(st.just(""), PATHS),
)


def as_line(host):
    options = {
        key: f'"{value}"' if isinstance(value, str) else value
        for key in ("slots", "python", "user", "port", "scratch")
        if (value := getattr(host, key))
    }
    words = [host.address, *(f"{key}={value}" for key, value in options.items())]
    return "  ".join(words) + " # comment"


@given(st.lists(HOSTS, min_size=1, max_size=5, unique_by=lambda host: host.address))
def test_what_is_written_is_read(hosts):
    assert parse_hosts("\n".join(map(as_line, hosts)), "hosts") == tuple(hosts)


@given(NAMES, st.integers(0, 300), st.integers(0, 50), st.integers(1, 5), st.booleans())
def test_ranges_are_what_a_loop_writes(name, first, more, width, padded):
    numbers = [f"{n:0{width if padded else 0}d}" for n in range(first, first + more + 1)]
    if padded and len(numbers[0]) != len(numbers[-1]):
        numbers = [number for number in numbers if len(number) == len(numbers[0])]
    text = f"{name}[{numbers[0]}-{numbers[-1]}]"
    assert addresses(text) == [name + number for number in numbers]


@given(st.text())
def test_any_text_gives_hosts_with_plain_addresses_or_a_usage_error(text):
    try:
        hosts = parse_hosts(text, "hosts")
    except UsageError as error:
        assert error.message.startswith("hosts:")  # noqa: PT017 - either end is right
        return
    allowed = set(string.ascii_letters + string.digits + ".-:%_")
    assert all(set(host.address) <= allowed for host in hosts)
