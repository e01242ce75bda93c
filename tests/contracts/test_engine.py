"""What every engine must do, run on LmdbEngine and on the model; then both at once, on random batches and scans.

A mirror that only ever saw short keys would miss what is hard about LMDB: keys above 479 bytes are stored under a hash.
So the random keys are built to crowd that border: many share their first 479 bytes, some end exactly there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evolute.errors import FateUnknown, LimitReached, Overloaded
from evolute.limits import Limits
from evolute.storage.engine import Engine, Reader
from evolute.storage.lmdb_engine import SHORT_KEY_BYTES_MAX, LmdbEngine
from tests.contracts.model_engine import ModelEngine

LIMITS = Limits(map_bytes_max=64 * 1024 * 1024)

P = b"p" * SHORT_KEY_BYTES_MAX


@pytest.fixture(params=["lmdb", "model"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    opened: Engine = LmdbEngine(tmp_path / "store", LIMITS, sync=False) if request.param == "lmdb" else ModelEngine()
    yield opened
    opened.close()


def rows(engine: Engine, start: bytes = b"", end: bytes | None = None, *, reverse: bool = False) -> list[bytes]:
    """The keys of a scan; the values are checked on the way."""
    reader = engine.reader()
    try:
        found = list(reader.scan(start, end, reverse=reverse))
        assert all(reader.get(key) == value for key, value in found)
        return [key for key, _ in found]
    finally:
        reader.close()


def test_a_batch_is_read_back(engine: Engine) -> None:
    engine.write({b"b": b"2", b"a": b"1", b"c": b""})
    engine.write({b"b": None, b"never there": None, b"c": b"3"})
    reader = engine.reader()
    assert [reader.get(key) for key in (b"a", b"b", b"c", b"d")] == [b"1", None, b"3", None]
    assert list(reader.scan(b"", None)) == [(b"a", b"1"), (b"c", b"3")]
    reader.close()


def test_a_reader_sees_its_moment_and_nothing_after_it(engine: Engine) -> None:
    engine.write({b"a": b"1", b"b": b"1"})
    before = engine.reader()
    scan = before.scan(b"", None)
    assert next(scan) == (b"a", b"1")
    engine.write({b"a": b"2", b"b": None, b"c": b"2"})
    after = engine.reader()
    assert before.get(b"a") == b"1"
    assert list(scan) == [(b"b", b"1")]
    assert list(after.scan(b"", None)) == [(b"a", b"2"), (b"c", b"2")]
    before.close()
    after.close()


def test_a_batch_whose_hook_raises_is_not_written(engine: Engine) -> None:
    engine.write({b"a": b"1"})

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.write({b"a": b"2", b"b": b"2"}, on_puts=stop)
    assert rows(engine) == [b"a"]
    engine.write({b"b": b"3"}, on_puts=lambda: None)
    assert rows(engine) == [b"a", b"b"]


def test_scan_bounds_are_half_open_and_reverse_is_the_mirror_image(engine: Engine) -> None:
    keys = [b"a", b"b", b"b\x00", b"b\xff", b"c", b"\xff", b"\xff\xff"]
    engine.write(dict.fromkeys(keys, b"v"))
    assert rows(engine) == keys
    assert rows(engine, b"b", b"c") == [b"b", b"b\x00", b"b\xff"]
    assert rows(engine, b"b", b"b") == []
    assert rows(engine, b"c", b"b") == []
    assert rows(engine, b"bb", b"bc") == []
    assert rows(engine, b"\xff") == [b"\xff", b"\xff\xff"]
    for start, end in [(b"", None), (b"b", b"c"), (b"b\x00", b"\xff"), (b"x", None), (b"\xff\xff\xff", None)]:
        assert rows(engine, start, end, reverse=True) == rows(engine, start, end)[::-1]


def test_long_keys_come_in_the_order_of_the_whole_key(engine: Engine) -> None:
    group = [P + tail for tail in (b"\x00", b"\x00\x00", b"a", b"a" * 32, b"ab", b"b" * 1000, b"\xff", b"\xff" * 40)]
    keys = [P[:-1], P[:-1] + b"o", P, *group, P[:-1] + b"q", b"q"]
    engine.write({key: b"%d" % number for number, key in enumerate(keys)})
    assert rows(engine) == keys
    assert rows(engine, reverse=True) == keys[::-1]
    for low in range(len(keys)):
        for high in range(low, len(keys)):
            assert rows(engine, keys[low], keys[high]) == keys[low:high]
            assert rows(engine, keys[low] + b"\x00", keys[high], reverse=True) == [
                key for key in keys[::-1] if keys[low] + b"\x00" <= key < keys[high]
            ]


def test_long_keys_are_told_apart_and_deleted_one_by_one(engine: Engine) -> None:
    keys = [P + bytes([number]) * 33 for number in range(20)]
    engine.write({key: key[-1:] for key in keys})
    engine.write({**dict.fromkeys(keys[::2]), keys[1]: b"", P + b"absent": None})
    reader = engine.reader()
    assert [reader.get(key) for key in keys[:4]] == [None, b"", None, b"\x03"]
    assert reader.get(P) is None
    assert [key for key, _ in reader.scan(P, None)] == keys[1::2]
    assert list(islice(reader.scan(P, None, reverse=True), 1)) == [(keys[19], b"\x13")]
    reader.close()


def test_keys_at_the_end_of_the_order(engine: Engine) -> None:
    ones = b"\xff" * SHORT_KEY_BYTES_MAX
    keys = [b"\xff", ones, ones + b"\x00", ones + b"\xff" * 32, ones + b"\xff" * 33]
    engine.write(dict.fromkeys(keys, b"v"))
    assert rows(engine, ones, ones + b"\xff" * 33) == keys[1:4]
    assert rows(engine, ones + b"\x00", ones + b"\xff" * 33, reverse=True) == keys[2:4][::-1]
    assert rows(engine, b"\xff", None, reverse=True) == keys[::-1]


def test_large_keys_and_values(engine: Engine) -> None:
    key, value = b"k" * LIMITS.key_bytes_max, b"v" * 3_000_000
    engine.write({key: value, b"k": value})
    reader = engine.reader()
    assert reader.get(key) == value
    assert list(reader.scan(b"k", None)) == [(b"k", value), (key, value)]
    reader.close()


def test_a_closed_reader_cannot_be_used(engine: Engine) -> None:
    engine.write({b"a": b"1", b"b": b"1"})
    reader = engine.reader()
    scan = reader.scan(b"", None)
    next(scan)
    reader.close()
    reader.close()
    with pytest.raises(AssertionError):
        reader.get(b"a")
    with pytest.raises(AssertionError):
        next(scan)


def test_a_closed_engine_says_that_it_cannot_tell(engine: Engine) -> None:
    engine.close()
    engine.close()
    with pytest.raises(FateUnknown):
        engine.write({b"a": b"1"})


# --- LMDB alone ------------------------------------------------------------------------------------------------------


def test_everything_is_there_after_reopening_and_a_reader_cannot_write(tmp_path: Path) -> None:
    keys = [b"a", P, P + b"a", P + b"b"]
    engine = LmdbEngine(tmp_path / "store", LIMITS)
    engine.write({key: key for key in keys})
    statistics = engine.statistics()
    assert (statistics.entries, statistics.readers) == (4, 0)
    engine.close()
    again = LmdbEngine(tmp_path / "store", LIMITS, read_only=True)
    assert rows(again) == keys
    with pytest.raises(Exception, match="refused"):
        again.write({b"a": b""})
    again.close()


def test_a_group_larger_than_a_transaction_may_read_is_a_limit(tmp_path: Path) -> None:
    limits = dataclasses.replace(LIMITS, documents_read_max=100, bytes_read_max=100_000)
    engine = LmdbEngine(tmp_path / "store", limits, sync=False)
    many = {P + b"%03d" % number: b"" for number in range(101)}
    wide = {b"w" * 60_000 + b"%d" % number: b"" for number in range(2)}
    engine.write(many | wide | {b"a": b"", b"x": b""})
    reader = engine.reader()
    for start, setting in [(P, "documents_read_max = 100"), (b"w", "bytes_read_max = 100000")]:
        with pytest.raises(LimitReached, match=setting):
            next(reader.scan(start, None))
        with pytest.raises(LimitReached, match=setting):
            list(reader.scan(start, start + b"x", reverse=True))
    assert next(reader.scan(b"", None)) == (b"a", b"")
    assert next(reader.scan(b"", None, reverse=True)) == (b"x", b"")
    reader.close()

    engine.write({b"%d" % group + P + b"%03d" % number: b"" for group in range(5) for number in range(100)})
    reader = engine.reader()
    assert len(list(reader.scan(b"0", b"9"))) == 500, "the limit is one group's"
    reader.close()
    walk = engine.reader(unbounded=True)
    assert len(list(walk.scan(b"", None))) == 605
    walk.close()
    engine.close()


def test_readers_max_is_a_limit_and_a_closed_reader_gives_its_place_back(tmp_path: Path) -> None:
    engine = LmdbEngine(tmp_path / "store", dataclasses.replace(LIMITS, readers_max=3), sync=False)
    readers: list[Reader] = [engine.reader() for _ in range(3)]
    assert engine.statistics().readers == 3
    with pytest.raises(Overloaded, match="readers_max = 3"):
        engine.reader()
    readers.pop().close()
    readers.append(engine.reader())
    for reader in readers:
        reader.close()
    engine.close()


# --- Both at once ----------------------------------------------------------------------------------------------------

_BORDER = SHORT_KEY_BYTES_MAX
_STEMS = [b"", b"a", b"p" * (_BORDER - 1), P, b"p" * (_BORDER - 1) + b"q", b"\xff" * _BORDER, b"p" * (_BORDER + 32)]
KEYS = st.builds(
    lambda stem, tail: stem + tail,
    st.sampled_from(_STEMS),
    st.one_of(
        st.binary(max_size=3),
        st.sampled_from([b"\x00", b"p", b"q", b"\xff"]).flatmap(lambda byte: st.sampled_from([byte * 32, byte * 33])),
    ),
).filter(len)
BATCHES = st.lists(
    st.dictionaries(KEYS, st.one_of(st.none(), st.binary(max_size=4)), max_size=12), min_size=1, max_size=5
)
SCANS = st.lists(
    st.tuples(KEYS | st.just(b""), KEYS | st.none(), st.booleans(), st.sampled_from([1, 2, 1000])),
    min_size=1,
    max_size=12,
)


@pytest.fixture(scope="module")
def shared_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LmdbEngine]:
    engine = LmdbEngine(tmp_path_factory.mktemp("mirror") / "store", LIMITS, sync=False)
    yield engine
    engine.close()


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=BATCHES, scans=SCANS, keys=st.lists(KEYS, max_size=8))
def test_mirror(
    shared_store: LmdbEngine,
    batches: list[dict[bytes, bytes | None]],
    scans: list[tuple[bytes, bytes | None, bool, int]],
    keys: list[bytes],
) -> None:
    shared_store.write(dict.fromkeys(rows(shared_store)))
    model = ModelEngine()
    held: list[tuple[Reader, Reader]] = []
    for batch in batches:
        shared_store.write(batch)
        model.write(batch)
        held.append((shared_store.reader(), model.reader()))
    written = [key for batch in batches for key in batch]
    for ours, theirs in held:
        assert list(ours.scan(b"", None)) == list(theirs.scan(b"", None))
        for start, end, reverse, count in scans:
            expected = list(islice(theirs.scan(start, end, reverse=reverse), count))
            assert list(islice(ours.scan(start, end, reverse=reverse), count)) == expected
        for key in keys + written:
            assert ours.get(key) == theirs.get(key)
        ours.close()
        theirs.close()
    assert shared_store.statistics().entries == model.statistics().entries
