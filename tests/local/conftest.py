"""Fixtures of tests with real processes."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

from product import Jobs, Product  # noqa: E402


@pytest.fixture
def product(tmp_path: Path) -> Iterator[Product]:
    thing = Product(tmp_path)
    yield thing
    thing.close()


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    thing = Jobs(tmp_path)
    yield thing
    thing.close()
