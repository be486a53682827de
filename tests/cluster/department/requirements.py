"""Can hosts be built here?"""

import functools
import os
import subprocess
from pathlib import Path

from .network import tool

# program -> Debian's package
PROGRAMS = {
    "sshd": "openssh-server",
    "ssh": "openssh-client",
    "ip": "iproute2",
    "bridge": "iproute2",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
}
CSH = Path("/bin/csh")


@functools.cache
def missing() -> str:
    """Why no hosts can be built, with the remedy; empty if they can."""
    if os.geteuid() != 0:
        return "test hosts are network namespaces: they need root"
    lacking = set()
    for program, package in PROGRAMS.items():
        try:
            tool(program)
        except FileNotFoundError:
            lacking.add(package)
    if not CSH.exists():
        lacking.add("csh")
    if lacking:
        return f"test hosts need: apt install {' '.join(sorted(lacking))}"
    words = ["--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "--mount-proc"]
    done = subprocess.run(
        [tool("unshare"), *words, tool("ip"), "link", "add", "name", "probe0", "type", "bridge"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        return (
            f"test hosts are network namespaces, which cannot be made here: {done.stderr.strip()}"
        )
    return ""
