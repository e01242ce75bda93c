"""Fixtures of all tests. A database that a test has used is sound when it is over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.open_store import OpenStore


@pytest.fixture
def store(tmp_path: Path) -> Iterator[OpenStore]:
    opened = OpenStore(tmp_path)
    try:
        yield opened
        assert opened.check() == []
    finally:
        opened.close()
