"""Fixtures of all tests. A database that a test has used is sound when it is over.

`--seed N` runs the workloads with that seed alone, to repeat a failure; without it each runs with a few others. With
`--seeds N` they run with so many, from that seed or the first on.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.open_store import OpenStore

SEEDS = (1, 2, 3)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, default=None, help="the one seed that workloads run with")
    parser.addoption("--seeds", type=int, default=None, help="how many seeds workloads run with")
    parser.addoption("--chaos-seconds", type=float, default=5.0, help="how long the proxy behaves badly")
    parser.addoption("--fuzz-seconds", type=float, default=4.0, help="how long the server is sent what is hardly right")
    parser.addoption("--schemathesis-examples", type=int, default=8, help="how often each function is called by it")
    parser.addoption("--rounds", type=int, default=None, help="how often the crash campaign kills the server")
    parser.addoption("--screenshots", default=None, help="the folder for pictures of the example's page")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that takes `seed` is run once for each."""
    if "seed" in metafunc.fixturenames:
        seed = metafunc.config.getoption("--seed")
        count = metafunc.config.getoption("--seeds")
        if count is not None:
            first = SEEDS[0] if seed is None else seed
            metafunc.parametrize("seed", range(first, first + count))
        else:
            metafunc.parametrize("seed", SEEDS if seed is None else (seed,))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[OpenStore]:
    opened = OpenStore(tmp_path)
    try:
        yield opened
        assert opened.check() == []
    finally:
        opened.close()
