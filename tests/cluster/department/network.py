"""The department's wires: a switch in a network namespace of its own, and one leg of this machine.

The switch has two bridges. `front` carries all hosts and this machine's leg; `back` only the hosts
behind a bastion, and their bastions. Nothing is routed between them, and nothing of the machine's
own network is touched: the leg has a subnet of its own, 10.231.<n>.0/24, and the interface
`dept-<n>`, whose name claims the number among all departments of the machine.
"""

import contextlib
import errno
import os
import random
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from .keeper import Keeper

DESK = 126
BACK = 128
MOST_HOSTS = 120
# What `bridge` calls a port that is closed, and one that is open.
CLOSED, OPEN = 0, 3


def tool(name: str) -> str:
    """The path of a program that may be in a folder for the superuser."""
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if path is None:
        raise FileNotFoundError(errno.ENOENT, f"{name} is not installed", name)
    return path


def mac(address: str) -> str:
    return ":".join(f"{octet:02x}" for octet in (2, *map(int, address.split(".")), 0))


def batch(program: str, lines: Sequence[str], *, inside: int | None = None) -> None:
    """Let `ip` or `bridge` do these lines, in the network of the process `inside` or in ours."""
    enter = [] if inside is None else [tool("nsenter"), f"--net=/proc/{inside}/ns/net"]
    done = subprocess.run(
        [*enter, tool(program), "-batch", "-"],
        input="\n".join(lines) + "\n",
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise OSError(f"{program}: {done.stderr.strip()}\n" + "\n".join(lines))


@dataclass(frozen=True)
class Wire:
    """From a port of the switch, at one of its bridges, to an interface of a host."""

    port: str
    bridge: str
    there: str
    address: str

    @property
    def mac(self) -> str:
        """The same after every boot: others remember it."""
        return mac(self.address)


class Network:
    """The switch, and what may happen to its ports. A port is named like its host."""

    def __init__(self, switch: Keeper) -> None:
        self.switch = switch
        self.number = self._claim()
        self.leg = f"dept-{self.number}"
        try:
            self._arrange()
        except BaseException:
            self.close()
            raise

    @property
    def desk(self) -> str:
        """This machine's address."""
        return self.address(DESK)

    def address(self, number: int) -> str:
        return f"10.231.{self.number}.{number}"

    def _claim(self) -> int:
        numbers = list(range(1, 255))
        random.SystemRandom().shuffle(numbers)
        taken = subprocess.run(
            [tool("ip"), "-4", "route", "show"], capture_output=True, text=True, check=True
        ).stdout
        for number in numbers:
            if f"10.231.{number}." in taken:
                continue
            leg = f"link add name dept-{number} type veth"
            try:
                batch("ip", [f"{leg} peer name desk netns {self.switch.pid}"])
            except OSError as error:
                # Two departments that are built at once: one gets the name.
                if "File exists" not in str(error):
                    raise
                continue
            return number
        raise OSError(
            "all networks 10.231.1.0 to 10.231.254.0 are in use; scripts/department --clean"
        )

    def _arrange(self) -> None:
        lines = [f"link add name {name} type bridge" for name in ("front", "back")]
        lines += [f"link set {name} up" for name in ("lo", "front", "back")]
        batch("ip", [*lines, "link set desk master front up"], inside=self.switch.pid)
        settings = f"address {mac(self.desk)} up"
        batch("ip", [f"addr add {self.desk}/24 dev {self.leg}", f"link set {self.leg} {settings}"])

    def plug(self, wires: Sequence[Wire], pid: int) -> None:
        """Join a host, whose process 1 is `pid`, to the bridges."""
        lines = []
        for wire in wires:
            there = f"name {wire.there} address {wire.mac}"
            lines.append(f"link add name {wire.port} type veth peer {there} netns {pid}")
            lines.append(f"link set {wire.port} master {wire.bridge} up")
        batch("ip", lines, inside=self.switch.pid)

    def unplug(self, wires: Sequence[Wire]) -> None:
        """Take the wires away; the ends in the hosts go with them."""
        for wire in wires:
            # Gone with its host already, perhaps.
            with contextlib.suppress(OSError):
                batch("ip", [f"link del {wire.port}"], inside=self.switch.pid)

    def set_ports(self, wires: Sequence[Wire], words: str) -> None:
        """Settings of the bridges' ports."""
        lines = [f"link set dev {wire.port} {words}" for wire in wires]
        batch("bridge", lines, inside=self.switch.pid)

    def forget(self, wires: Sequence[Wire]) -> None:
        """The bridges no longer know who is at these ports. It would open closed ones."""
        lines = [f"link set {wire.port} type bridge_slave fdb_flush" for wire in wires]
        batch("ip", lines, inside=self.switch.pid)

    def shape(self, wires: Sequence[Wire], pid: int, words: str) -> None:
        """The queues of these wires, both ways; empty words: as ever."""
        what = f"replace dev {{}} root {words}" if words else "del dev {} root"
        batch("tc", [f"qdisc {what.format(wire.port)}" for wire in wires], inside=self.switch.pid)
        batch("tc", [f"qdisc {what.format(wire.there)}" for wire in wires], inside=pid)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            batch("ip", [f"link del {self.leg}"])
