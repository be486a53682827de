"""When the manager counts a host's processes as dead, and what it says of the host: without a host."""

import asyncio
from types import SimpleNamespace

import pytest

from dask_runner.cluster.channel import Event, Vitals
from dask_runner.cluster.manager.host_link import HostLink
from dask_runner.cluster.status import Phase
from dask_runner.hostfile import Host

LEASE = 0.05


class Agent:
    """What a HostLink needs of an AgentLink."""

    def __init__(self) -> None:
        self.told = []
        self.hung_up = self.abandoned = False
        self.tail = "last words"

    def tell(self, command) -> None:
        self.told.append(command)

    def hang_up(self) -> None:
        self.hung_up = True

    def abandon(self) -> None:
        self.abandoned = True


class Rig:
    """A link whose agent is there; `identity` is the machine that it is on."""

    def __init__(self, identity: str = "boot-1 ns-1") -> None:
        self.changed = asyncio.Event()
        site = SimpleNamespace(lease=LEASE, changed=self.changed.set)
        self.link = HostLink(Host(address="tev01"), site, None)
        self.agent = Agent()
        self.link._agent = self.agent
        self.be_on(identity)

    def be_on(self, identity: str) -> None:
        """A new agent, on this machine."""
        self.link._report = SimpleNamespace(facts=SimpleNamespace(identity=identity), checks=())
        self.link._swept = self.link._elsewhere = False

    def tell(self, kind: str, **values) -> None:
        self.link._on_event(Event(kind=kind, **values))

    def up(self, address: str = "tls://10.0.0.1:1") -> None:
        self.tell("folder")
        self.tell("worker", address=address, numerics="bits")


def in_loop(test):
    """Run a test in an event loop."""

    def run() -> None:
        asyncio.run(test())

    run.__name__ = test.__name__
    run.__doc__ = test.__doc__
    return run


@in_loop
async def test_a_new_agent_on_the_same_machine_has_killed_the_old_worker():
    rig = Rig()
    rig.up()
    assert rig.link.phase is Phase.UP
    rig.be_on("boot-1 ns-1")
    rig.tell("folder")
    assert rig.link.worker == ""


@in_loop
async def test_a_new_agent_on_another_machine_says_nothing_of_the_old_worker():
    rig = Rig()
    rig.up()
    rig.link._beat(Vitals(reading=1.0))
    rig.be_on("boot-2 ns-1")
    rig.tell("folder")
    rig.tell("worker", address="tls://10.0.0.2:2", numerics="bits")
    assert rig.link.worker == "tls://10.0.0.1:1"
    # Its heartbeats are not the old one's, whose lease runs out.
    rig.link._beat(Vitals(reading=2.0))
    async with asyncio.timeout(10):
        while rig.link.worker != "tls://10.0.0.2:2":
            await rig.changed.wait()
            rig.changed.clear()
    assert rig.link.starts == 2


@in_loop
async def test_an_exit_code_is_believed_only_of_an_agent_that_has_swept():
    rig = Rig()
    rig.up()
    rig.be_on("boot-1 ns-1")
    rig.link._ended("", rig.agent)
    assert rig.link.worker, "it never spoke, so it killed nothing"
    rig.tell("folder")
    rig.up()
    rig.link._ended("", rig.agent)
    assert rig.link.worker == ""


@in_loop
async def test_the_end_of_a_host_that_does_not_answer_is_not_confirmed():
    rig = Rig()
    rig.up()
    rig.link.hang_up()
    assert rig.agent.hung_up
    assert not rig.link.confirmed
    rig.link._ended("its connection was lost", rig.agent)
    assert not rig.link.confirmed
    rig.link._ended("", rig.agent)
    assert rig.link.confirmed


@in_loop
async def test_a_host_without_agent_and_worker_has_ended_already():
    rig = Rig()
    rig.link._agent = None
    rig.link.hang_up()
    assert rig.link.confirmed


@in_loop
async def test_a_host_whose_workers_never_get_ready_is_left_out_with_their_words():
    rig = Rig()
    rig.tell("folder")
    for _ in range(5):
        assert not rig.agent.hung_up
        rig.tell("worker-died", text="exit code 1")
    assert rig.agent.hung_up
    rig.link._ended("", rig.agent)
    assert rig.link.phase is Phase.LEFT_OUT
    assert "last words" in rig.link._reason


@in_loop
async def test_workers_that_die_after_they_were_ready_are_no_reason_to_leave_a_host_out():
    rig = Rig()
    for number in range(8):
        rig.up(f"tls://10.0.0.1:{number + 1}")
        rig.tell("worker-died", text="killed by SIGKILL")
    assert not rig.agent.hung_up
    assert rig.link.phase is Phase.STARTING


@in_loop
async def test_a_host_without_its_agent_takes_no_batches_though_its_worker_may_live():
    rig = Rig()
    rig.up()
    assert rig.link.takes_batches
    rig.link._agent = None
    rig.link._ended("its connection was lost", rig.agent)
    assert rig.link.worker
    assert not rig.link.takes_batches
    assert "agent" in rig.link.state(1).refusal


@in_loop
async def test_a_host_may_be_taken_back_while_it_drains():
    rig = Rig()
    rig.up()
    rig.link.drain()
    assert rig.link.phase is Phase.DRAINING
    assert rig.link.state(1).refusal == "drained by the user"
    rig.link.retry()
    assert rig.link.phase is Phase.UP
    assert rig.link.takes_batches


@pytest.mark.parametrize("phase", [Phase.LEFT_OUT, Phase.LOST])
def test_a_host_that_is_not_up_is_drained_at_once(phase):
    rig = Rig()
    rig.link._agent = None
    rig.link.phase = phase
    rig.link.drain()
    assert rig.link.phase is Phase.DRAINED
