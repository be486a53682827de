"""What the manager has hosts do when a driver's connection ends."""

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
