"""The page with the deadline: who renews it, who reads it, what it costs."""

import os
import subprocess
import sys
import time
from contextlib import ExitStack, closing

import pytest

from dask_runner.errors import ClusterError
from dask_runner.execution.lease import Lease, LeaseReader, now


@pytest.fixture
def leases():
    with ExitStack() as stack:
        yield lambda seconds: stack.enter_context(closing(Lease(seconds)))


def test_a_lease_runs_from_its_begin_and_then_from_the_reading(leases):
    lease = leases(0.2)
    reader = LeaseReader(lease.path)
    assert not reader.over()
    assert 0 < lease.left() <= 0.2
    began = now()
    while not reader.over():
        assert now() < began + 5
    assert now() >= began + 0.15
    assert lease.left() == 0
    lease.renew(now())
    assert not reader.over()


def test_only_a_newer_reading_of_this_clock_prolongs(leases):
    lease = leases(100.0)
    first = now()
    lease.renew(first)
    assert lease.left() == pytest.approx(first + 100 - now(), abs=0.01)
    lease.renew(first - 50)
    lease.renew(first + 1000)
    lease.renew(float("nan"))
    assert lease.left() == pytest.approx(first + 100 - now(), abs=0.01)


def test_another_process_reads_it(leases):
    lease = leases(60.0)
    code = (
        "import sys; from dask_runner.execution.lease import LeaseReader\n"
        "reader = LeaseReader(sys.argv[1]); print(reader.over(), flush=True); input()\n"
        "print(reader.over(), flush=True)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, lease.path],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as reader:  # fmt: skip
        assert reader.stdout.readline() == "False\n"
        lease._write(now() - 1)
        reader.stdin.write("\n")
        reader.stdin.flush()
        assert reader.stdout.readline() == "True\n"


def test_without_a_path_it_never_ends():
    assert not LeaseReader("").over()


def test_a_lease_whose_agent_is_gone_cannot_be_read():
    with pytest.raises(ClusterError, match="cannot be read"):
        LeaseReader(f"/proc/{os.getpid()}/fd/987654")


def test_a_look_costs_little(leases):
    reader = LeaseReader(leases(60.0).path)
    began = time.perf_counter()
    for _ in range(10_000):
        reader.over()
    assert (time.perf_counter() - began) / 10_000 < 20e-6
