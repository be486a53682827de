"""What a test may do to a test host."""

import contextlib
import os
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path

from .accounts import new_key
from .computer import SCRATCH, Computer, wait
from .network import CLOSED, OPEN, batch, mac


class Host(Computer):
    """A computer and its faults."""

    def cut(self) -> None:
        """Pull its wires: silent both ways, it goes on."""
        self._network.set_ports(self.wires, f"state {CLOSED}")

    def deafen(self) -> None:
        """A one-way cut: it is heard, but hears nothing."""
        # It would ask for others' addresses, hear no answer, and be silent.
        others = [
            wire for other in self.department.hosts if other is not self for wire in other.wires
        ]
        self._know(
            [(wire.bridge, wire.address) for wire in others] + [("front", self._network.desk)]
        )
        self._network.set_ports(self.wires, "flood off learning off")
        self._network.forget(self.wires)

    def mute(self) -> None:
        """A one-way cut: it hears, but is not heard."""
        for other in self.department.hosts:
            if other is not self and other.alive:
                other._know([(wire.bridge, wire.address) for wire in self.wires])
        batch(
            "ip",
            [f"neigh replace {self.address} lladdr {mac(self.address)} dev {self._network.leg}"],
        )
        self._network.set_ports(self.wires, "locked on learning off")
        self._network.forget(self.wires)
        self._muted = True

    def _know(self, neighbours: Sequence[tuple[str, str]]) -> None:
        """Let it have these (bridge, address) without asking for them."""
        lines = [
            f"neigh replace {address} lladdr {mac(address)} dev {wire.there}"
            for wire in self.wires
            for bridge, address in neighbours
            if bridge == wire.bridge
        ]
        if lines:
            batch("ip", lines, inside=self.pid)

    def heal(self) -> None:
        """Undo cut, deafen and mute."""
        words = f"state {OPEN} flood on learning on"
        # Older kernels do not know `locked`.
        self._network.set_ports(self.wires, f"{words} locked off" if self._muted else words)
        self._muted = False
        for pid in (host.pid for host in self.department.hosts if host.alive):
            batch("ip", ["neigh flush nud permanent"], inside=pid)
        batch("ip", [f"neigh flush dev {self._network.leg} nud permanent"])

    def slow(self, megabits: float) -> None:
        """Let no more through in a second, each way; 0: as much as can be."""
        words = f"tbf rate {int(megabits * 1000)}kbit burst 32kb latency 200ms" if megabits else ""
        self._network.shape(self.wires, self.pid, words)

    def kill(self) -> None:
        """Power off: nothing says goodbye, what was in memory is lost."""
        if self.keeper is None:
            return
        # First, or the dying processes' connections would be closed in good order.
        if self.keeper.alive:
            self.cut()
        self.keeper.close()
        self.keeper = None
        self._muted = False
        self._network.unplug(self.wires)

    def boot(self) -> None:
        """Power on again, with the same key, address and disk."""
        assert self.keeper is None, f"{self.name} is on"
        self.start()
        self.connect()
        self.wait_ready()

    def stop_sshd(self, *, sessions: bool = False) -> None:
        """Nobody listens any more; with `sessions`, open connections end too."""
        pid_file = self.ssh / "sshd.pid"
        if sessions:
            for pid in self.named("sshd"):
                # A session may end by itself as its monitor does.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            wait(lambda: not self.named("sshd"), f"sshd of {self.name} ends")
            pid_file.unlink(missing_ok=True)
            return
        if pid_file.exists():
            self.run(["kill", pid_file.read_text().strip()])
            wait(lambda: not pid_file.exists(), f"sshd of {self.name} ends")

    def start_sshd(self) -> None:
        self.run(self._sshd_command())
        wait((self.ssh / "sshd.pid").exists, f"sshd of {self.name} listens")

    def swap_key(self) -> str:
        """Give it another host key, as after a new installation; the public half."""
        running = bool(self.named("sshd"))
        self.stop_sshd()
        self.public_key = new_key(self.ssh / "host_key")
        if running:
            self.start_sshd()
        return self.public_key

    def fill_scratch(self, folder: str = SCRATCH) -> None:
        """Until nothing more fits. Needs a scratch of a fixed size."""
        _fill(self.path(folder))

    def empty_scratch(self, folder: str = SCRATCH) -> None:
        """Undo fill_scratch; other files stay."""
        (self.path(folder) / "filler").unlink(missing_ok=True)


def _fill(folder: Path) -> None:
    size = shutil.disk_usage(folder).total
    assert size < 2**30, f"{folder} has {size} bytes: build the host with scratch_mb"
    with (folder / "filler").open("ab", buffering=0) as file:
        for piece in (2**20, 4096, 1):
            try:
                while file.write(bytes(piece)) == piece:
                    pass
            except OSError:
                continue
