"""The cluster on this machine: who gets in, what is told, what is left."""

import gc
import os
import signal
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from distributed import Client, Security
from product import wait_for

from dask_runner.cluster.dask_settings import security
from dask_runner.cluster.interface import ClusterConfig
from dask_runner.cluster.local import LocalCluster
from dask_runner.cluster.tls import make_credentials
from dask_runner.execution.process_tree import processes_with


@pytest.fixture
def cluster() -> Iterator[LocalCluster]:
    # With something to preload, or else the zygote comes with the first batch only.
    with LocalCluster(ClusterConfig(slots=2, preload=("msgspec",))) as cluster:
        yield cluster
    assert not members(cluster)


def members(cluster: LocalCluster) -> list[int]:
    return processes_with("DASK_RUNNER_CLUSTER", cluster.name)


def told(pid: int, name: str) -> bytes:
    """What /proc tells of a process, nothing if it has just ended."""
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def member(cluster: LocalCluster, word: str) -> int:
    return next((pid for pid in members(cluster) if word.encode() in told(pid, "cmdline")), 0)


def listening(cluster: LocalCluster) -> list[tuple[str, int]]:
    """Every address that a process of the cluster listens on."""
    import psutil

    return [
        (connection.laddr.ip, connection.laddr.port)
        for pid in members(cluster)
        for connection in psutil.Process(pid).net_connections(kind="tcp")
        if connection.status == psutil.CONN_LISTEN
    ]


def test_a_client_with_the_clusters_certificate_gets_in(cluster):
    with cluster.client() as client:
        assert client.submit(sum, [1, 2]).result(timeout=20) == 3
        (worker,) = client.scheduler_info(n_workers=-1)["workers"].values()
        assert worker["nthreads"] == 2
        assert worker["memory_limit"] == 0


def refused(address: str, security: Security | None) -> bool:
    try:
        client = Client(address, security=security, timeout="3s", set_as_default=False)
    except (OSError, TimeoutError, TypeError, ValueError, RuntimeError):
        refusal = True
    else:
        refusal = False
        client.close()
    # Else it closes itself when the next client starts, and holds that up (see `connecting`).
    gc.collect()
    return refusal


def test_nobody_else_gets_in(cluster):
    plain = cluster.address.replace("tls://", "tcp://")
    assert refused(plain, None), "plain TCP"
    foreign = security(make_credentials("foreign"))
    assert refused(cluster.address, foreign), "another cluster's certificate"


def test_everything_listens_on_loopback_only_and_http_serves_nothing(cluster):
    addresses = listening(cluster)
    assert addresses
    assert {ip for ip, _ in addresses} == {"127.0.0.1"}
    served = []
    for _, port in addresses:
        for path in (
            "/",
            "/status",
            "/info/main/workers.html",
            "/metrics",
            "/health",
            "/json/counts.json",
        ):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
                    served.append((port, path, answer.status))
            except (urllib.error.HTTPError, OSError):
                continue
    assert served == []


def test_no_key_is_in_an_argument_an_environment_or_a_readable_file(cluster):
    for pid in members(cluster):
        for name in ("cmdline", "environ"):
            assert b"PRIVATE KEY" not in told(pid, name)
    pid = member(cluster, "worker_process")
    environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    (folder,) = [word[7:] for word in environment if word.startswith(b"TMPDIR=")]
    root = Path(os.fsdecode(folder))
    assert root.stat().st_mode & 0o077 == 0
    for path in root.rglob("*"):
        if path.is_file():
            assert b"PRIVATE KEY" not in path.read_bytes()


def test_a_dead_worker_is_replaced_and_nothing_of_the_old_one_stays(cluster):
    old = member(cluster, "worker_process")
    below = [pid for pid in members(cluster) if b"zygote" in told(pid, "cmdline")]
    assert below
    os.kill(old, signal.SIGKILL)
    wait_for(lambda: member(cluster, "worker_process") not in {0, old}, "a new worker")
    assert not set(below) & set(members(cluster))
    with cluster.client() as client:
        assert client.submit(sum, [1, 2]).result(timeout=30) == 3


@pytest.mark.parametrize("word", ["host_agent", "worker_process", "scheduler_process"])
def test_nothing_is_left_whoever_is_killed_last(word):
    with LocalCluster(ClusterConfig(slots=1)) as cluster:
        os.kill(member(cluster, word), signal.SIGKILL)
        if word != "worker_process":
            wait_for(cluster.failure, "the failure to be told")
    wait_for(lambda: not members(cluster), "all processes to end", 15)


def test_the_cluster_tells_why_it_did_not_start(monkeypatch, tmp_path):
    from dask_runner.errors import ClusterError

    missing = tmp_path / "file"
    missing.touch()
    with (
        pytest.raises(ClusterError, match="did not start"),
        LocalCluster(ClusterConfig(slots=1, scratch=str(missing / "x"))),
    ):
        pass


def test_idle_connections_do_not_stop_the_cluster(cluster):
    host, port = cluster.address.removeprefix("tls://").split(":")
    idle = [socket.create_connection((host, int(port)), timeout=5) for _ in range(200)]
    try:
        with cluster.client() as client:
            assert client.submit(sum, [1, 2]).result(timeout=30) == 3
    finally:
        for connection in idle:
            connection.close()
