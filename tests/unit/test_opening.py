"""What a session is opened with: the bits that its hosts have to compute."""

from types import SimpleNamespace

import pytest

from dask_runner import opening
from dask_runner.cluster.attached import SshCluster
from dask_runner.cluster.interface import HostState
from dask_runner.errors import ClusterError
from dask_runner.manifest import Note
from dask_runner.opening import check_numerics, cluster_note

OURS, OTHER, THIRD = ("numpy+fit " + letter * 64 for letter in "abc")


class Attached(SshCluster):
    """A cluster that is up, without one."""

    def __init__(self) -> None:
        self.name = "main+desk+1"
        self._view = SimpleNamespace(address="tls://10.0.0.1:4")


class Local:
    """A cluster on this machine."""

    name = address = "local"


def hosts(**numerics: str) -> dict[str, HostState]:
    return {
        name: HostState(name=name, slots=2, share=2, worker=f"tls://{name}", numerics=found)
        for name, found in numerics.items()
    }


@pytest.fixture(autouse=True)
def _desk(monkeypatch):
    monkeypatch.setattr(opening, "cached_selftest", lambda: OURS)
    monkeypatch.setattr(opening.socket, "gethostname", lambda: "desk")


def judge(found, *notes: Note, accept=False, cluster=None):
    state = SimpleNamespace(notes=notes)
    bits = check_numerics(state, cluster or Attached(), found, accept=accept)
    refused = {name for name, host in found.items() if bits.refusal(host)}
    return bits, refused, cluster_note(cluster or Attached(), found, bits)


def test_hosts_of_a_new_run_are_compared_with_this_machine_not_with_each_other():
    _, refused, note = judge(hosts(a=OTHER, b=OTHER, c=OURS))
    assert refused == {"a", "b"}
    assert note.data["numerics"] == {"c": OURS}
    assert note.data["reference"] == {"host": "desk", "numerics": OURS}
    assert "accepted_numerics" not in note.data


def test_a_cluster_of_which_no_host_agrees_is_refused_with_both_named():
    with pytest.raises(ClusterError) as caught:
        judge(hosts(a=OTHER, b=OTHER))
    assert f"than desk ({'a' * 12})" in caught.value.message
    assert f"a ({'b' * 12}), b" in caught.value.message
    assert "--accept-numerics" in caught.value.hint


def test_what_is_accepted_is_on_record():
    _, refused, note = judge(hosts(a=OTHER, b=OURS), accept=True)
    assert not refused
    assert note.data["accepted_numerics"] == ["a"]
    assert note.data["reference"] == {"host": "desk", "numerics": OURS}


def test_if_all_hosts_are_accepted_their_bits_are_the_runs():
    found = hosts(a=THIRD, b=OTHER, c=OTHER)
    _, refused, note = judge(found, accept=True)
    assert not refused
    assert note.data["reference"] == {"host": "b", "numerics": OTHER}
    assert note.data["accepted_numerics"] == ["a"]
    assert judge(found, note)[1] == {"a"}, "a rerun goes on with what the run was made with"
    with pytest.raises(ClusterError, match="than b"):
        judge(hosts(d=OURS), note)


def test_a_rerun_compares_with_what_the_run_was_made_with():
    before = Note(kind="cluster", data={"numerics": {"x": OTHER, "y": OURS}})
    _, refused, note = judge(hosts(a=OTHER, b=OURS), before)
    assert refused == {"b"}
    assert note.data["reference"] == {"host": "x", "numerics": OTHER}


def test_on_this_machine_alone_its_worker_says_what_it_computes():
    bits, refused, _ = judge(hosts(here=THIRD), cluster=Local())
    assert (bits.reference, bits.origin, refused) == (THIRD, "here", set())


def test_a_host_that_has_not_said_yet_is_no_reason_to_refuse():
    bits, refused, _ = judge(hosts(a=""))
    assert (bits.reference, refused) == (OURS, set())
