"""How a host is, measured: load, memory, scratch space, users; and what follows for batches.

Everything here may wait for a file server, so it runs in a thread of its own.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from dask_runner.cluster.channel import AgentConfig, SlotReport, Vitals
from dask_runner.cluster.host.politeness import Manners, Observer, logins
from dask_runner.cluster.ssh.probe_script import memory
from dask_runner.execution import process_tree
from dask_runner.execution.lease import now

_GIGA: Final = 1e9
_MEGA: Final = 1e6


class Physician:
    """Examines this host for the agent that is configured so; `folder` is its private one."""

    def __init__(self, config: AgentConfig, folder: Path) -> None:
        self._config = config
        self._folder = folder
        self._manners = Manners(config.politeness)
        self._observer = Observer(os.getpid())

    def examine(self, slots: Sequence[SlotReport]) -> Vitals:
        """All that is measured; `slots` are the busy ones."""
        total, free = memory()
        scratch_free, trouble = self._scratch()
        paused = self._manners.reason(self._observer.scene()) if self._manners.any else ""
        return Vitals(
            reading=now(),
            load=os.getloadavg()[0],
            cores=os.cpu_count() or 0,
            memory_free=free,
            memory_total=total,
            scratch_free=scratch_free,
            users=tuple(sorted({user for user, _ in logins()})),
            refusal=paused or trouble or self._short_of_memory(total, free, slots),
            paused=paused,
            slots=tuple(slots),
        )

    def _short_of_memory(self, total: int, free: int, slots: Sequence[SlotReport]) -> str:
        ceiling = self._config.memory_ceiling
        limit = self._config.memory
        share = 1 - free / total if total else 0.0
        if share > ceiling:
            # Whoever has it: what batches may take is not there.
            return f"memory {share:.0%} used"
        if not limit:
            return ""
        used = sum(slot.rss for slot in slots)
        if used > ceiling * limit:
            # The sum counts what batches share for each of them: now it is worth to look closely.
            trees = [pid for slot in slots for pid in process_tree.descendants(slot.pid)]
            used = process_tree.proportional([*(slot.pid for slot in slots), *trees])
        if used <= ceiling * limit:
            return ""
        return f"batches use {used / _GIGA:.1f} of {limit / _GIGA:.1f} GB"

    def _scratch(self) -> tuple[int, str]:
        """The free space of scratch, and what is wrong with it."""
        try:
            scratch = os.statvfs(self._folder)
        except OSError as error:
            return 0, f"scratch cannot be used: {error.strerror}"
        free = scratch.f_bavail * scratch.f_frsize
        short = free < self._config.scratch_floor
        return free, f"scratch has only {free / _MEGA:.0f} MB free" if short else ""
