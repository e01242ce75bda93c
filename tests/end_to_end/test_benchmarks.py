"""The benchmarks themselves, for a moment each: that they run, that money stays, and that a failure is seen."""

from __future__ import annotations

from contextlib import closing

from tests.benchmarks import engine_only, mutation_latency, reads, transfers
from tests.benchmarks.pairs import uniform
from tests.benchmarks.peers.server import PeerServer
from tests.benchmarks.transfer_load import ORDER, HttpTeller, SocketTeller, TransferLoad

SMALL = ["--accounts", "200", "--sessions", "4", "--seconds", "0.2", "--rounds", "1", "--warmup", "0.05"]


def test_transfers_beside_their_peers() -> None:
    """FastAPI alone is left out: it would have to be installed."""
    options = transfers.parser("").parse_args([*SMALL, "--zipf", "0", "1.5", "--peers", "starlette", "echo"])
    rows, figures = transfers.measure(options)
    names = ["websocket", "HTTP", "Starlette + SQLite", "websocket echo", "HTTP echo"]
    assert list(rows) == [*names, *(f"{name}, Zipf 1.5" for name in names)]
    for name, row in rows.items():
        assert int(str(row["per s"])) > 0, name
        assert row["failed"] == 0, figures.get("first failure")
    sums = {name: value for name, value in figures.items() if name.endswith("sum of balances")}
    assert list(sums.values()) == ["as seeded"] * 3, sums
    both = {"of peer", "of echo", "of alpha 0"}
    assert {name: both & set(row) for name, row in rows.items() if "Zipf" in name} == {
        "websocket, Zipf 1.5": both,
        "HTTP, Zipf 1.5": {"of echo", "of alpha 0"},
        "Starlette + SQLite, Zipf 1.5": {"of echo", "of alpha 0"},
        "websocket echo, Zipf 1.5": {"of alpha 0"},
        "HTTP echo, Zipf 1.5": {"of alpha 0"},
    }
    assert figures["websocket, of peer (at least 1.5)"] == rows["websocket"]["of peer"]


def test_the_engine_without_its_wire() -> None:
    options = transfers.parser("").parse_args([*SMALL, "--over", "http"])
    rows, figures = engine_only.measure(options)
    assert list(rows) == ["engine", "HTTP"]
    assert [row["failed"] for row in rows.values()] == [0, 0]
    assert int(str(rows["engine"]["per s"])) > 0
    assert [figures[f"{name}, sum of balances"] for name in rows] == ["as seeded"] * 2


def test_reads_beside_echoes() -> None:
    arguments = ["--accounts", "300", "--connections", "4", "--seconds", "0.1", "--rounds", "1", "--warmup", "0.01"]
    rows, figures = reads.measure(reads.parser().parse_args(arguments))
    reading = [f"{over} {read}" for read in ("cached", "point", "range") for over in ("HTTP", "websocket")]
    assert list(rows) == [*reading, "HTTP echo", "websocket echo"]
    for name, row in rows.items():
        assert int(str(row["per s"])) > 0, name
        assert row["failed"] == 0, figures.get("first failure")


def test_a_mutation_that_is_alone() -> None:
    figures = mutation_latency.measure(mutation_latency.parser().parse_args(["--mutations", "3", "--pause", "0"]))
    assert figures["mutations"] == 3
    least_ms = float(str(figures["sync p50 ms"])) + float(str(figures["round trip p50 ms"]))
    ratio = float(str(figures["mutation p50 ms"])) / least_ms
    assert figures["mutation / (sync + round trip), p50 (under 3)"] == ratio


def test_an_answer_that_is_not_wanted_is_a_failure() -> None:
    with PeerServer("echo_server") as echo:
        over_http = HttpTeller(echo.port, "/", ORDER, lambda body: False)
        over_socket = SocketTeller(echo.port, lambda body: False)
        for load in (TransferLoad([over_http], uniform(10)), TransferLoad([over_socket], uniform(10))):
            with closing(load):
                load.run(0.01)
                assert load.latencies_ms == []
                assert load.failures
                assert '"amount":1' in load.failures[0]


def test_a_lost_balance_is_seen() -> None:
    found = transfers.sums({"ours": 200_000, "theirs": 199_999}, 200_000)
    wrong = "WRONG: 199999, not 200000"
    assert found == {"ours, sum of balances": "as seeded", "theirs, sum of balances": wrong}
