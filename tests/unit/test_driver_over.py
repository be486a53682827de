"""What a driver tells the manager, and what that has hosts do when the connection ends."""

from types import SimpleNamespace
from typing import Any

from dask_runner.cluster.manager.manager import AttachedRun, Manager

RUN = "20261120T225745Z"


class Link:
    """What a manager needs of a host then."""

    def __init__(self) -> None:
        self.cancelled: list[str] = []
        self.forgotten: list[str] = []
        self.announced: dict[str, str] = {}

    def cancel(self, driver: str) -> None:
        self.cancelled.append(driver)

    def forget(self, holder: str) -> None:
        self.forgotten.append(holder)


def test_of_two_drivers_of_a_run_each_leaves_only_what_it_has():
    site: Any = SimpleNamespace()
    manager = Manager(site, [], SimpleNamespace())  # type: ignore[arg-type]
    link: Any = Link()
    manager._links["tev01"] = link
    killed, rerun = (AttachedRun(RUN, f"{RUN}/{n}", n) for n in (1, 2))
    manager.attach(killed)
    manager.attach(rerun)
    manager.detach(killed)
    assert (link.cancelled, link.forgotten) == ([f"{RUN}/1"], [f"{RUN}/1"])
    manager.detach(rerun)
    assert link.cancelled == link.forgotten == [f"{RUN}/1", f"{RUN}/2"]


def test_what_a_run_says_of_its_batches_is_kept_while_it_is_attached():
    site: Any = SimpleNamespace(name="main")
    manager = Manager(site, [], SimpleNamespace())  # type: ignore[arg-type]
    run = AttachedRun(RUN, f"{RUN}/1", 1)
    manager.attach(run)
    for batch in range(7):
        manager.announce(run, "", f"batch {batch} fails everywhere")
    status = manager._run_status(run, {})
    assert status.announced[-1] == "batch 6 fails everywhere"
    assert len(status.announced) == 5
    assert manager._events[-1].endswith(f"run {RUN}: batch 6 fails everywhere")
