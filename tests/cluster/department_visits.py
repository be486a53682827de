"""Visits to test hosts with the real ssh."""

import subprocess

from department import Department


def ssh(department: Department, name: str, command: str = "true", *options: str, **more: str):
    program, *words = department.ssh(name, command, **more)
    return subprocess.run(
        [program, *options, *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def reachable(department: Department, name: str) -> bool:
    """For a host that should be: a busy machine may need its time."""
    return ssh(department, name, "true", "-o", "ConnectTimeout=20").returncode == 0


def unreachable(department: Department, name: str) -> bool:
    return ssh(department, name, "true", "-o", "ConnectTimeout=1").returncode == 255
