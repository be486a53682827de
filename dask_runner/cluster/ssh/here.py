"""This machine as a place for processes that are to last, without SSH, and without its imports."""

from dask_runner.cluster.ssh.probe_script import lasting
from dask_runner.cluster.ssh.report import Check, LastingFacts
from dask_runner.cluster.ssh.verdicts import judge_lasting
from dask_runner.hostfile import Host


def look_here(*, detached: bool) -> list[Check]:
    """What may end or hinder processes here in time; of a manager that is `detached` also whether
    a logout does: another one ends with its terminal anyway.
    """
    checks = judge_lasting(Host(address="this machine"), LastingFacts(**lasting()))
    return [check for check in checks if detached or check.name != "linger"]
