"""The state folder of a cluster that is up."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from dask_runner.cluster import session
from dask_runner.cluster.session import Session, SessionFolder
from dask_runner.cluster.tls import make_credentials
from dask_runner.errors import ClusterError


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    # Deeper than a socket's address may be long.
    folder = tmp_path / ("deep" * 30)
    monkeypatch.setenv("XDG_STATE_HOME", str(folder))
    return folder


@pytest.fixture
def up():
    """A cluster that is up, as far as others can see."""
    with session.claim("main") as (folder, listener):
        folder.write(
            Session(
                name="main",
                cluster="main-x-1",
                pid=os.getpid(),
                hostfile="hostfile.txt",
                lease=30.0,
                staging="auto",
            ),
            make_credentials("main"),
        )
        published = session.publish(folder, "main")
        yield published, listener
        published.remove()


def test_it_is_found_by_name_and_alone(up):
    assert session.find_session("main").session().cluster == "main-x-1"
    assert session.find_session("").name == "main"
    assert session.find_session("local") is None


def test_without_a_cluster_there_is_none():
    assert session.find_session("") is None
    assert session.live_sessions() == []


def test_a_name_that_is_not_up_is_an_error_that_says_which_are(up):
    with pytest.raises(ClusterError, match="no cluster called other") as caught:
        session.find_session("other")
    assert "main" in caught.value.hint


def test_several_need_a_name(up):
    with session.claim("second") as (folder, _):
        second = session.publish(folder, "second")
        with pytest.raises(ClusterError, match="several"):
            session.find_session("")
        second.remove()


def test_nobody_else_can_read_it(up):
    folder, _ = up
    for path in [
        folder.path.parent.parent,
        folder.path.parent,
        folder.path,
        *folder.path.rglob("*"),
    ]:
        if not path.is_socket():
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_keys_that_others_may_read_are_refused(up):
    folder, _ = up
    (folder.path / "credentials.json").chmod(0o644)
    with pytest.raises(ClusterError, match="can read it"):
        folder.credentials()


def test_a_second_one_of_the_name_is_refused(up):
    with pytest.raises(ClusterError, match="up already"), session.claim("main"):
        pass


def test_what_a_dead_manager_left_is_replaced(up):
    folder, listener = up
    listener.close()
    assert not folder.alive
    with session.claim("main") as (new, _):
        published = session.publish(new, "main")
        assert published.alive
        assert not (published.path / "credentials.json").exists()
        published.remove()


def test_nothing_stays_behind(state):
    with session.claim("main"):
        pass
    assert [path for path in state.rglob("*") if path.is_socket() or path.is_file()] == []


def test_a_killed_manager_is_seen_as_gone(state):
    code = (
        "import sys; from dask_runner.cluster import session;"
        "folder, _ = (manager := session.claim('main')).__enter__();"
        "session.publish(folder, 'main'); print('up', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as manager:
        manager.stdout.readline()
        assert [folder.name for folder in session.live_sessions()] == ["main"]
        manager.kill()
        manager.wait()
    assert session.live_sessions() == []
    assert [folder.name for folder in session.sessions()] == ["main"]


def test_a_folder_of_another_user_is_refused(up, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(ClusterError, match="another user"):
        session.state_folder()


def test_paths_are_of_this_machine(up):
    folder, _ = up
    assert isinstance(folder, SessionFolder)
    assert Path(session.state_folder()) == folder.path.parent


def test_a_sweep_removes_what_killed_managers_left_and_nothing_else(up, state):
    folder, _ = up
    unborn = folder.path.parent / ".main.abcdefgh"
    unborn.mkdir(mode=0o700)
    (unborn / "credentials.json").write_text("{}")
    dead = folder.path.parent / "dead"
    dead.mkdir(mode=0o700)
    assert session.remove_dead() == [unborn, dead]
    assert folder.alive
