"""One host in the manager: dialled, checked, its agent started, watched, dialled again.

Owns what is known of the host and when its batches count as dead. Its processes are known to be
dead when its agent says so, when a new agent has swept, or when the lease is over; only then does
`worker` become empty, and its batches may run elsewhere.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import asyncssh

from dask_runner.cluster.channel import Echo, Event, Restart, Vitals
from dask_runner.cluster.interface import HostState
from dask_runner.cluster.manager import tunnel
from dask_runner.cluster.manager.agent_link import (
    AGENT,
    AgentLink,
    Wire,
    start_piped,
    start_remote,
)
from dask_runner.cluster.manager.site import Place, Site
from dask_runner.cluster.ssh.connector import is_local, python_of, remote_command
from dask_runner.cluster.ssh.preflight import Check, HostReport, look_closer
from dask_runner.cluster.status import HostStatus, Phase
from dask_runner.errors import ClusterError, HostGoneError
from dask_runner.execution.numerics import short
from dask_runner.hostfile import Host

_log = logging.getLogger(__name__)

# The time a host needs to kill its batches once its lease is over.
_MARGIN = 2.0
# An agent that has not said anything after so long (imports on a slow disk) is given up.
_START_PATIENCE = 60.0
# What a driver that is gone has left is removed, and again after so many s: its batches, which are
# being killed, make folders for their logs until the last moment.
_REMOVALS = (0.0, 2.0, 10.0)
# What runs on a host is told every 2 s.
_QUIET = 5.0
_REDIAL = 2.0
_BACKOFF = (2.0, 60.0)
_GOOD_TIME = 60.0
_LATEST = 5
# So many workers may end before they are ready; then the host is left out, with their words.
_VAIN = 5
# Tickets expire within hours.
_LOOK_AGAIN = 1800.0
# For the start of a file transfer session.
_SFTP_PATIENCE = 60.0


class HostLink:
    """The life of one host, until `end`. `check` examines the host and gives its report and the
    open connection (None for this machine).
    """

    def __init__(
        self,
        host: Host,
        site: Site,
        check: Callable[[Host], Awaitable[tuple[HostReport, asyncssh.SSHClientConnection | None]]],
    ) -> None:
        self.host = host
        self.name = host.address
        self.phase = Phase.WAITING
        self.worker = ""
        self.starts = 0
        self.slots = 0
        self.auto = False
        self.numerics = ""
        self.announced: dict[str, str] = {}
        self.confirmed = True
        self._site = site
        self._check = check
        self._since = time.monotonic()
        self._reason = self._hint = ""
        self._final = False
        self._report: HostReport | None = None
        self._vitals = Vitals(reading=0.0)
        self._memory_free = 0
        self._closer: tuple[Check, ...] = ()
        self._looked = -_LOOK_AGAIN
        self._errors: deque[str] = deque(maxlen=_LATEST)
        self._connection: asyncssh.SSHClientConnection | None = None
        self._agent: AgentLink | None = None
        self._tunnel: tunnel.Tunnel | None = None
        self._place = Place(bind="", scheduler="")
        # When the agent is given up, and when the worker's processes are dead at the latest: a new
        # agent, which may never speak, does not put off the end of an old one's worker.
        self._patience: asyncio.TimerHandle | None = None
        self._fence: asyncio.TimerHandle | None = None
        self._cut_off = False
        # What this agent's coming has shown: it has swept; but not the machine that `worker` is on.
        self._swept = False
        self._elsewhere = False
        self._worker_home = ""
        self._held: Event | None = None
        self._vain = 0
        self._wake = asyncio.Event()
        self._ending = asyncio.Event()
        self._draining = False
        self._used = 0.0
        self._sftp: asyncio.Task[asyncssh.SFTPClient] | None = None

    # ------------------------------------------------------------------ what others see

    @property
    def settled(self) -> bool:
        """False as long as it is open whether the host comes up."""
        return self.phase not in {Phase.WAITING, Phase.CONNECTING, Phase.STARTING}

    @property
    def has_agent(self) -> bool:
        """True if there is somebody to hang up on."""
        return self._agent is not None

    @property
    def takes_batches(self) -> bool:
        return bool(self.worker) and not self._refusal()

    def state(self, share: int) -> HostState:
        """The host for a run."""
        return HostState(
            name=self.name,
            slots=self.slots,
            share=share,
            worker=self.worker,
            start=self.starts,
            cut_off=self._cut_off,
            numerics=self.numerics,
            refusal=self._refusal(),
            auto=self.auto,
            memory_free=self._memory_free,
            local=is_local(self.host),
        )

    def _refusal(self) -> str:
        """Why the host takes no batches, though its worker may live."""
        if self._draining:
            return "drained by the user"
        if self.worker and self.phase not in {Phase.UP, Phase.DRAINING}:
            # Its worker has no agent, and has till the end of the lease at most.
            return f"its agent is gone, and another one is awaited ({self._reason or self.phase})"
        return self._vitals.refusal

    def status(self) -> HostStatus:
        """The host for the user."""
        facts = self._report.facts if self._report else None
        vitals = self._vitals
        return HostStatus(
            name=self.name,
            phase=self.phase,
            since=time.monotonic() - self._since,
            reason=self._reason,
            hint=self._hint,
            slots=self.slots,
            auto=self.auto,
            load=vitals.load,
            cores=vitals.cores,
            memory_free=vitals.memory_free,
            memory_total=vitals.memory_total,
            memory_room=self._memory_free,
            scratch_free=vitals.scratch_free,
            users=vitals.users,
            python=facts.python if facts else "",
            version=facts.versions.get("dask-runner", "") if facts else "",
            numerics=self.numerics,
            other_bits=self._other_bits(),
            tunnelled=self._tunnel is not None,
            refusal=vitals.refusal,
            paused=vitals.paused,
            announced=tuple(self.announced.values()),
            running=vitals.slots,
            errors=tuple(self._errors),
            warnings=self._warnings(),
            log=str(self._site.folder.host_log(self.name)),
        )

    # ------------------------------------------------------------------ what others do

    def retry(self) -> None:
        """Try again now: after a drain, or whatever kept the host out."""
        self._draining = self._final = False
        if self.phase is Phase.LEFT_OUT:
            self._enter(Phase.WAITING)
        elif self.phase is Phase.DRAINING and self.worker:
            self._enter(Phase.UP)
        self._wake.set()

    def change(self, host: Host) -> None:
        """Have it as the hostfile says now, from the next connection on. Raises ClusterError while
        there is one.
        """
        if host == self.host:
            return
        if self._agent is not None:
            raise ClusterError(
                f"{self.name} is {self.phase}, with what the hostfile said before",
                hint=f"`dask-runner hosts drain {self.name}` first, then add it again",
            )
        self.host = host

    def drain(self) -> None:
        """Give it no new batches, and end its agent when those that run have ended."""
        self._draining = True
        self._used = time.monotonic()
        if self.phase is Phase.UP:
            self._enter(Phase.DRAINING)
        elif self._agent is None:
            self._enter(Phase.DRAINED)
            self._wake.set()

    def restart(self) -> None:
        """The scheduler was started anew: its worker cannot return to it, a new one can."""
        # The agent that has the scheduler itself knows.
        if self._agent is None or not self._place.scheduler:
            return
        port = self._site.scheduler_port
        if self._tunnel is not None and self._tunnel.scheduler_port != port:
            # It leads to where nobody listens any more; the next one will not.
            self._agent.hang_up()
            return
        host = self._place.scheduler.rpartition(":")[0]
        self._agent.tell(Restart(scheduler=f"{host}:{port}"))

    def why_unconfirmed(self) -> str:
        """What to say if its end was not seen."""
        return f"{self._reason or 'no answer'}; what runs there ends within {self._site.lease:g} s"

    def cancel(self, driver: str) -> None:
        if self._agent is not None:
            self._agent.cancel(driver)

    def forget(self, holder: str) -> None:
        """Have everything of a driver that is gone removed."""
        for seconds in _REMOVALS:
            asyncio.get_running_loop().call_later(seconds, self._remove, holder)

    def _remove(self, holder: str) -> None:
        if self._agent is not None:
            self._agent.forget(holder)

    async def ask(self, operation: str, arguments: dict[str, Any]) -> Any:
        """Have its agent do an operation. Raises ClusterError; HostGoneError without an answer."""
        self._used = time.monotonic()
        if self._agent is None:
            raise HostGoneError(f"{self.name} is not up ({self.phase})")
        try:
            return await self._agent.call(operation, arguments)
        except ClusterError as error:
            raise type(error)(f"{self.name}: {error.message}", hint=error.hint) from error

    async def sftp(self) -> asyncssh.SFTPClient:
        """The file transfer session on its connection, one for all. Raises as `ask`."""
        self._used = time.monotonic()
        if self._connection is None:
            raise HostGoneError(f"{self.name} is not connected ({self.phase})")
        if self._sftp is None:
            # The task: who comes while it is being opened waits for the same one.
            self._sftp = asyncio.ensure_future(self._open_sftp(self._connection))
        opening = self._sftp
        try:
            # Who gives up waiting must not take it from the others.
            return await asyncio.shield(opening)
        except ClusterError:
            if self._sftp is opening:
                self._sftp = None
            raise

    async def _open_sftp(self, connection: asyncssh.SSHClientConnection) -> asyncssh.SFTPClient:
        try:
            async with asyncio.timeout(_SFTP_PATIENCE):
                return await connection.start_sftp_client()
        except (OSError, asyncssh.Error) as error:
            if connection.is_closed():
                raise HostGoneError(f"{self.name}: its connection was lost") from error
            reason = str(error) or f"no answer for {_SFTP_PATIENCE:g} s"
            raise ClusterError(
                f"{self.name}: no SFTP: {reason}",
                hint="enable the sftp subsystem in its sshd, or use a shared folder",
            ) from error

    def forget_sftp(self, sftp: asyncssh.SFTPClient) -> None:
        """That session has ended, or hangs: the next copy opens another one."""
        if self._sftp is not None and self._sftp.done() and self._sftp.result() is sftp:
            self._sftp = None
        sftp.exit()

    async def look_closer(self) -> None:
        """See what may end or hinder its processes in time, if that was not done for long."""
        due = time.monotonic() - self._looked > _LOOK_AGAIN
        if not due or self.phase is not Phase.UP or self._connection is None:
            return
        self._looked = time.monotonic()
        try:
            self._closer = tuple(await look_closer(self.host, self._connection))
        except ClusterError as error:
            _log.info("%s", error)

    def hang_up(self) -> None:
        """End its agent, and do not dial again."""
        self._ending.set()
        self._wake.set()
        self.confirmed = self._agent is None and not self.worker
        if self._agent is not None:
            self._agent.hang_up()

    # ------------------------------------------------------------------ its life

    async def live(self) -> None:
        """Dial until the end."""
        pause = _BACKOFF[0]
        while not self._ending.is_set():
            began = time.monotonic()
            try:
                if not self._draining:
                    await self._once()
            except (ClusterError, OSError, asyncssh.Error) as error:
                final = getattr(error, "final", False)
                self._leave_out(str(error), hint=getattr(error, "hint", ""), final=final)
            except Exception as error:  # noqa: BLE001  (whatever it is; see below)
                # A defect of ours must not end the host's life unseen.
                _log.exception("%s: unexpected", self.name)
                self._leave_out(f"unexpected: {type(error).__name__}: {error}")
            if self._ending.is_set():
                break
            if self._draining:
                self._enter(Phase.DRAINED)
            pause = _BACKOFF[0] if time.monotonic() - began > _GOOD_TIME else pause
            await self._pause(pause)
            if self.phase is Phase.LEFT_OUT:
                pause = min(pause * 2, _BACKOFF[1])
        self._enter(Phase.ENDED)

    async def _pause(self, seconds: float) -> None:
        patience: float | None = seconds if self.phase is not Phase.LOST else _REDIAL
        if self._final or self.phase is Phase.DRAINED:
            patience = None  # until the user says so
        self._wake.clear()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), patience)

    async def _once(self) -> None:
        """One connection, from dialling to its end."""
        # A host that is tried again stays what it is, with the reason, until that changes.
        if self.phase not in {Phase.LOST, Phase.LEFT_OUT}:
            self._enter(Phase.CONNECTING)
        report, connection = await self._check(self.host)
        try:
            self._report = report
            if not report.ok:
                self._leave_out(report.why(), hint=report.fix(), final=report.final)
                return
            self._connection = connection
            await self._run_agent(report)
        finally:
            self._connection = self._sftp = None
            if self._tunnel is not None:
                self._tunnel.close()
                self._tunnel = None
            if connection is not None:
                connection.abort() if self.phase is Phase.LOST else connection.close()

    async def _run_agent(self, report: HostReport) -> None:
        assert report.facts is not None
        self.slots, self.auto = self._site.slots(self.host, report.facts.cores)
        self._memory_free = self._memory(report)
        # Nothing else would notice a host that is cut off just now.
        async with asyncio.timeout(_START_PATIENCE + self._site.lease):
            wire = await self._start_agent(report)
        self._swept, self._elsewhere = False, False
        log = self._site.folder.host_log(self.name)
        agent = self._agent = AgentLink(wire, log=log, on_event=self._on_event)
        self._wait_for_word(_START_PATIENCE + self._site.lease)
        try:
            ending = await agent.run(
                self._site.config(self.host, slots=self.slots, place=self._place)
            )
        finally:
            self._agent = None
            self._wait_for_word(None)
        self._ended(ending, agent)

    async def _start_agent(self, report: HostReport) -> Wire:
        self._place, self._tunnel = await tunnel.place_of(self._site, report, self._connection)
        if self.phase is not Phase.LOST:
            self._enter(Phase.STARTING)
        environment = self._site.environment(self.name)
        if self._connection is None:
            return await start_piped(environment)
        words = [python_of(self.host), "-I", "-m", AGENT]
        command = remote_command(self.host, words, environment=environment)
        return await start_remote(self._connection, command)

    def _memory(self, report: HostReport) -> int:
        assert report.facts is not None
        free = report.facts.memory_free
        return min(free, self.host.memory * 1_000_000) if self.host.memory else free

    def _ended(self, ending: str, agent: AgentLink) -> None:
        """The agent's stream has ended; `ending` is "" if it killed all below it first."""
        clean = not ending and self._swept and not self._elsewhere
        if clean:
            self._set_worker("")
        if self._ending.is_set() or (self._draining and clean):
            self.confirmed = clean
            return
        self._cut_off = True
        if self._vain >= _VAIN:
            self._vain = 0
            last = agent.tail.splitlines()[-1:] or ["they say nothing"]
            self._leave_out(f"its workers end before they are ready: {last[0]}")
            return
        if agent.abandoned:
            return  # why is known already
        words = f"its agent ended ({ending or 'of itself'})"
        last = agent.tail.splitlines()[-1:] or [""]
        self._note(f"{words}: {last[0]}" if last[0] else words)
        self._enter(Phase.LOST, self._errors[-1])

    # ------------------------------------------------------------------ what its agent tells

    def _on_event(self, event: Event) -> None:
        if event.kind == "heartbeat" and event.vitals is not None:
            self._beat(event.vitals)
        elif event.kind == "folder":
            self._arrived()
        elif event.kind == "scheduler":
            self._site.scheduler_host = self._place.bind
            self._site.on_scheduler(event.address, event.dashboard)
        elif event.kind == "worker":
            self._worker_is_up(event)
        elif event.kind == "worker-died":
            self._worker_died(event)
        elif event.kind == "error":
            # It is its last word: its worker ends with it.
            self._cut_off = True
            self._note(event.text)

    def _arrived(self) -> None:
        """The agent has killed what an earlier one has left, on the machine that it is on."""
        self._swept = True
        facts = self._report.facts if self._report else None
        here = facts.identity if facts else ""
        # The name may lead to another machine now (an alias of several, a new address): what is on
        # the old one ends with its lease, and nobody can say sooner.
        self._elsewhere = bool(self.worker) and here != self._worker_home
        if not self._elsewhere:
            self._worker_home = here
            self._set_worker("")

    def _worker_is_up(self, event: Event) -> None:
        if self._elsewhere:
            self._held = event
            return
        self.numerics = event.numerics
        if self._tunnel is not None:
            self._tunnel.worker_port = event.port
        self._enter(Phase.DRAINING if self._draining else Phase.UP)
        self._cut_off = False
        self._vain = 0
        self.starts += 1
        self._set_worker(event.address)

    def _worker_died(self, event: Event) -> None:
        self._note(f"its worker died ({event.text}); another one is started")
        self._enter(Phase.STARTING)
        self._held = None
        if not self._elsewhere:
            self._vain += not self.worker
            self._set_worker("")
        if self._vain >= _VAIN and self._agent is not None:
            self._agent.hang_up()

    def _beat(self, vitals: Vitals) -> None:
        assert self._agent is not None
        self._agent.tell(Echo(reading=vitals.reading))
        self._wait_for_word(self._site.lease + _MARGIN)
        if not self._elsewhere:
            self._fence_in(self._site.lease + _MARGIN)
        changed = vitals.refusal != self._vitals.refusal
        self._vitals = vitals
        self._end_if_drained()
        if changed:
            self._site.changed()

    def _end_if_drained(self) -> None:
        """Hang up once nothing has run there, and no file was fetched, for a while: what has just
        been sent, and outputs that are still to come home, show a little later.
        """
        now = time.monotonic()
        if self._vitals.slots or not self._draining:
            self._used = now
        elif self._agent is not None and now - self._used > _QUIET:
            self._agent.hang_up()

    def _wait_for_word(self, seconds: float | None) -> None:
        """Give the agent up after `seconds` without another word; None: there is none now."""
        if self._patience is not None:
            self._patience.cancel()
        if seconds is not None:
            loop = asyncio.get_running_loop()
            self._patience = loop.call_later(seconds, self._give_up)

    def _give_up(self) -> None:
        assert self._agent is not None
        words = "not heard of for longer than its lease"
        self._note(words)
        self._enter(Phase.LOST, words)
        self._agent.abandon()
        if self._connection is not None:
            # Not close(): that would wait for the other side.
            self._connection.abort()

    def _fence_in(self, seconds: float) -> None:
        """Count its processes as dead after `seconds` without another word: by then they are."""
        if self._fence is not None:
            self._fence.cancel()
        self._fence = asyncio.get_running_loop().call_later(seconds, self._fence_now)

    def _fence_now(self) -> None:
        self._cut_off = True
        self._set_worker("")
        held, self._held, self._elsewhere = self._held, None, False
        facts = self._report.facts if self._report else None
        self._worker_home = facts.identity if facts else ""
        if held is not None and self._agent is not None:
            self._worker_is_up(held)

    # ------------------------------------------------------------------ small print

    def _set_worker(self, address: str) -> None:
        if address != self.worker:
            self.worker = address
            self._site.changed()

    def _enter(self, phase: Phase, reason: str = "", hint: str = "") -> None:
        if phase is not self.phase:
            self._since = time.monotonic()
        self.phase, self._reason, self._hint = phase, reason, hint
        self._site.changed()

    def _leave_out(self, reason: str, *, hint: str = "", final: bool = False) -> None:
        # Wherever it is shown, the host stands before it.
        reason = reason.removeprefix(f"{self.name}: ")
        # Whoever shows it says whose it is.
        reason = reason.replace(f"{self.name}: ", "")
        if self.phase is Phase.LOST and not final:
            # Still the same loss; it is dialled on, and what dialling says is not news.
            self._enter(Phase.LOST, reason, hint)
            return
        self._final = final
        self._note(reason)
        self._enter(Phase.LEFT_OUT, reason, hint)

    def _note(self, text: str) -> None:
        stamp = time.strftime("%H:%M:%S")
        if not self._errors or not self._errors[-1].endswith(text):
            self._errors.append(f"{stamp} {text}")
            _log.warning("%s: %s", self.name, text)

    def _warnings(self) -> tuple[str, ...]:
        checks = (*(self._report.checks if self._report else ()), *self._closer)
        own = f"{self.name}: "
        # The load is shown as it is now.
        found = [check for check in checks if check.verdict == "warn" and check.name != "load"]
        words = [check.text.removeprefix(own) for check in found]
        if other := self._other_bits():
            words.append(f"{other}: runs use it only with --accept-numerics")
        return tuple(words)

    def _other_bits(self) -> str:
        ours, theirs = self._site.numerics, self.numerics
        if not (ours and theirs) or ours == theirs:
            return ""
        return f"it computes other bits ({short(theirs)}) than this machine ({short(ours)})"
