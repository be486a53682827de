"""Fixtures of tests over real sshd: departments of test hosts, and the product pointed at them."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "local"), str(HERE.parent)]

from department import Department, missing  # noqa: E402
from product import Product  # noqa: E402
from rig import LEASE, Rig  # noqa: E402


@pytest.fixture(scope="session")
def _can_build() -> None:
    if reason := missing():
        pytest.skip(reason)


@pytest.fixture
def make_department(_can_build: None) -> Iterator[Callable[..., Department]]:
    """Builds departments (the arguments are Department's) that end with the test."""
    made: list[Department] = []

    def make(*arguments, **options) -> Department:
        made.append(Department(*arguments, **options))
        return made[-1]

    yield make
    for department in reversed(made):
        department.close()


@pytest.fixture
def make_product(tmp_path: Path) -> Iterator[Callable[..., Product]]:
    """The product, in a folder of its own, as somebody runs it who may log in to the hosts.

    The folder is seen by shared hosts only if the department shares it (share=[tmp_path]). With
    `names` the hosts' names resolve for it (hostfile(names=True)).
    """
    made: list[Product] = []

    def make(department: Department, *, names: bool = False) -> Product:
        folder = tmp_path / f"desk{len(made)}" if made else tmp_path
        folder.mkdir(exist_ok=True)
        product = Product(folder)
        product.environment = {**department.environment, "COLUMNS": "200"}
        if names:
            product.runner = department.by_name(product.runner)
        made.append(product)
        return product

    yield make
    for product in made:
        product.close()


@pytest.fixture
def department(make_department: Callable[..., Department], tmp_path: Path) -> Department:
    """Three like hosts that see the test's folder."""
    return make_department(3, share=[tmp_path])


@pytest.fixture
def cluster_product(make_product: Callable[..., Product], department: Department) -> Product:
    """The product before the three hosts of `department`; its hostfile is hostfile.txt."""
    product = make_product(department)
    department.hostfile(product.folder / "hostfile.txt", slots=2)
    return product


@pytest.fixture
def make_rig(
    make_department: Callable[..., Department], tmp_path: Path
) -> Iterator[Callable[..., Rig]]:
    """Jobs before a department whose hosts share the test's folder; the arguments are its own."""
    made: list[Rig] = []

    def make(*arguments, lease: float = LEASE, **options) -> Rig:
        department = make_department(*arguments, share=[tmp_path], **options)
        made.append(Rig(tmp_path, department, lease=lease))
        return made[-1]

    yield make
    for rig in made:
        rig.close()
