"""Rows are validated and indexes filled while the table is in use, and nothing of it is seen before it is finished."""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from evolute.clock import NS_PER_S
from evolute.database.transaction import Transaction
from evolute.errors import DefinitionError, IndexNotReady, SchemaNotReady
from evolute.execution.examination import RowsRequest
from evolute.system import schema_changes
from evolute.values import v
from evolute.values.schema import Schema, define_schema, define_table
from tests.unit.schema_store import LIMITS, SchemaStore, nothing

ROW = {"n": v.number(), "kind": v.string()}
PLAIN = define_schema(items=define_table(v.object(ROW)))
INDEXED = define_schema(items=define_table(v.object(ROW)).index("by_n", ["n"]))
STAGED = define_schema(items=define_table(v.object(ROW)).index("by_n", ["n"], staged=True))
STRICT = define_schema(items=define_table(v.object({**ROW, "kind": v.literal("new")})))
STRICT_INDEXED = define_schema(items=define_table(v.object({**ROW, "kind": v.literal("new")})).index("by_n", ["n"]))


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 60))


def set_fields(one: str, transaction: Transaction, **fields: Any) -> None:
    transaction.patch(one, fields)


def remove(one: str, transaction: Transaction) -> None:
    transaction.delete(one)


async def changed(store: SchemaStore, schema: Schema, count: int) -> list[str]:
    """The store begins with a schema and so many rows."""
    await store.change_to(schema)
    return await store.fill(count)


async def ordered(store: SchemaStore, index: str = "by_n") -> None:
    """The index has every row, in its order."""
    rows = await store.rows()
    by_n = sorted(rows, key=lambda row: (row["n"], row["_creationTime"]))
    assert await store.rows(index) == by_n


# --- backfill ---------------------------------------------------------------------------------------------------------


def test_an_index_is_filled_chunk_by_chunk_and_then_enabled(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with SchemaStore(tmp_path) as store:
            await changed(store, PLAIN, 50)
            await store.change_to(INDEXED)
            await ordered(store)
            looks = [request for request in store.requests if not request.again]
            assert len(looks) > 6
            assert all(request.rows_max <= 8 for request in looks)
            assert not any(request.validate for request in looks)

    run(scenario)


def test_whatever_is_written_meanwhile_the_index_has_every_row(tmp_path: Path, seed: int) -> None:
    """Rows come, go and change between the moment they are looked at and the commit of their entries."""

    async def scenario() -> None:
        chance = random.Random(seed)
        async with SchemaStore(tmp_path) as store:
            ids = await changed(store, PLAIN, 40)

            async def write_something(request: RowsRequest) -> None:
                for _ in range(chance.randrange(4)):
                    await one_write()

            async def one_write() -> None:
                one = chance.choice(ids)
                match chance.randrange(5):
                    case 0:
                        ids.append(await store.insert(n=chance.randrange(100), kind="new"))
                    case 1 if len(ids) > 5:
                        ids.remove(one)
                        await store.write(lambda tx: tx.delete(one))
                    case 2:
                        await store.write(lambda tx: tx.patch(one, {"kind": f"{chance.random()}"}))  # the same entry
                    case _:
                        await store.write(lambda tx: tx.patch(one, {"n": chance.randrange(100)}))

            store.on_examined = write_something
            await store.change_to(INDEXED)
            store.on_examined = nothing
            await ordered(store)

    run(scenario)


def test_a_row_that_is_written_whenever_it_is_looked_at_is_filled_in_a_serial_turn(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with SchemaStore(tmp_path) as store:
            ids = await changed(store, PLAIN, 20)
            writes: list[asyncio.Task[None]] = []

            async def write_all(request: RowsRequest) -> None:
                for one in ids[:3]:
                    writes.append(asyncio.create_task(store.write(partial(set_fields, one, n=len(writes)))))
                await asyncio.sleep(0.01)

            store.on_examined = write_all
            await store.change_to(INDEXED)
            store.on_examined = nothing
            await asyncio.gather(*writes)
            assert any(request.fill_again for request in store.requests)
            assert store.executor.statistics().serial_runs > 0
            await ordered(store)

    run(scenario)


def test_a_backfill_that_was_interrupted_goes_on_where_it_was(tmp_path: Path) -> None:
    """It does one chunk twice, and no more; indexes that have come to different places meet."""

    async def scenario() -> None:
        two = define_schema(items=define_table(v.object(ROW)).index("by_n", ["n"]).index("by_kind", ["kind", "n"]))
        async with SchemaStore(tmp_path) as store:
            await changed(store, PLAIN, 60)

            async def interrupt(request: RowsRequest) -> None:
                if len(store.requests) == 4:
                    raise asyncio.CancelledError

            store.on_examined = interrupt
            with pytest.raises(asyncio.CancelledError):
                await store.change(INDEXED).make_ready()
            store.on_examined = nothing
            looked_at = max(request.after for request in store.requests)
            assert looked_at
            await store.insert(n=3.5, kind="new")
            store.requests.clear()
            work = (await store.executor.run_system(lambda tx: schema_changes.begin(tx, two.to_wire(), ()))).value
            reached = {fill.entry.name: fill.position for fill in work[0].fills}
            assert reached["by_kind"] == b"" < reached["by_n"] <= looked_at
            await store.change_to(two)
            for request in store.requests:
                names = {name for _, name, _ in request.indexes}
                assert names == ({"by_kind"} if request.after < reached["by_n"] else {"by_kind", "by_n"})
            await ordered(store)
            await ordered(store, "by_kind")

    run(scenario)


def test_old_code_keeps_an_index_until_the_new_code_has_its_own(tmp_path: Path) -> None:
    """One of the same name with other fields takes the place of the old one in the commit of the new code."""

    async def scenario() -> None:
        by_kind = define_schema(items=define_table(v.object(ROW)).index("by_n", ["kind", "n"]))
        async with SchemaStore(tmp_path) as store:
            await changed(store, INDEXED, 30)

            async def still_there(request: RowsRequest) -> None:
                await ordered(store)

            store.on_examined = still_there
            change = store.change(by_kind)
            await change.make_ready()
            await store.insert(n=99, kind="a")
            await ordered(store)
            store.on_examined = nothing
            await store.activate(change, by_kind)
            assert [row["kind"] for row in (await store.rows("by_n"))[:2]] == ["a", "new"]
            await store.upkeep().round()

    run(scenario)


def test_a_table_that_gets_its_first_row_meanwhile_is_made_ready_once_more(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with SchemaStore(tmp_path) as store:
            await store.change_to(PLAIN)
            change = store.change(STRICT_INDEXED)
            await change.make_ready()
            await store.insert(n=1, kind="old")
            with pytest.raises(SchemaNotReady):
                await store.activate(change, STRICT_INDEXED)
            with pytest.raises(DefinitionError, match=r'Document with ID "\w+" in table "items" does not match'):
                await change.make_ready()

    run(scenario)


def test_a_chunk_of_large_rows_is_a_small_one(tmp_path: Path) -> None:
    async def scenario() -> None:
        small = dataclasses.replace(LIMITS, backfill_bytes_max=4000)
        async with SchemaStore(tmp_path, small) as store:
            await store.change_to(PLAIN)
            for n in range(12):
                await store.insert(n=n, kind="x" * 2000)
            await store.change_to(INDEXED)
            looks = [request for request in store.requests if not request.again]
            assert all(request.bytes_max <= 4000 for request in looks)
            assert len(looks) >= 12 // 3
            await ordered(store)

    run(scenario)


# --- validation -------------------------------------------------------------------------------------------------------


def test_sv2_a_row_that_does_not_fit_stops_the_change_and_the_old_schema_serves_on(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with SchemaStore(tmp_path) as store:
            await changed(store, PLAIN, 30)
            bad = await store.insert(n=1, kind="old")
            with pytest.raises(DefinitionError) as error:
                await store.change_to(STRICT_INDEXED)
            assert str(error.value) == (
                f'Document with ID "{bad}" in table "items" does not match the schema: '
                '`"old"` does not match literal validator `v.literal("new")`.Path: .kind'
            )
            await store.insert(n=2, kind="old too")
            with pytest.raises(IndexNotReady):
                await store.rows("by_n")
            for row in await store.rows():
                if row["kind"] != "new":
                    await store.write(partial(remove, row["_id"]))
            await store.change_to(STRICT_INDEXED)
            await ordered(store)

    run(scenario)


@pytest.mark.parametrize("moment", ["during the walk", "after it", "as the commit comes"])
def test_sv3_a_write_that_is_bad_for_the_new_schema_succeeds_and_fails_the_change(tmp_path: Path, moment: str) -> None:
    async def scenario() -> None:
        async with SchemaStore(tmp_path) as store:
            ids = await changed(store, PLAIN, 40)
            first = min(ids)  # the walk has come past it by its second chunk
            written: list[int] = []

            async def write_once(request: RowsRequest) -> None:
                if not written and (len(store.requests) == 3 if moment == "during the walk" else request.again):
                    written.append(len(store.requests))
                    await store.write(lambda tx: tx.patch(first, {"kind": "old"}))

            store.on_examined = write_once
            change = store.change(STRICT)

            async def deploy() -> None:
                await change.make_ready()
                if moment == "as the commit comes":
                    await store.write(lambda tx: tx.patch(first, {"n": 7}))  # to be looked at again
                else:
                    written.append(0)
                    await store.write(lambda tx: tx.patch(first, {"kind": "old"}))
                await store.activate(change, STRICT)

            with pytest.raises(DefinitionError) as error:
                await deploy()
            assert str(error.value) == (
                'New document in table "items" does not match the schema: '
                f'`"old"` does not match literal validator `v.literal("new")`.Path: .kind\nIts ID is "{first}".'
            )
            assert written
            assert "old" in {row["kind"] for row in await store.rows()}
            await store.insert(n=1, kind="old too")  # the old schema is the one that holds

    run(scenario)


def test_rows_that_are_written_all_the_time_do_not_keep_the_new_schema_away(tmp_path: Path) -> None:
    """In the end nobody else writes for the length of one look at what was written last."""

    async def scenario() -> None:
        async with SchemaStore(tmp_path) as store:
            ids = await changed(store, PLAIN, 20)
            finished = asyncio.Event()

            async def keep_writing(one: str) -> None:
                while not finished.is_set():
                    await store.write(lambda tx: tx.patch(one, {"n": tx.now_ns % 997}))

            writing = [asyncio.create_task(keep_writing(one)) for one in ids[:5]]
            await store.change_to(STRICT_INDEXED)
            finished.set()
            await asyncio.gather(*writing)
            await ordered(store)

    run(scenario)


def test_a_log_that_forgets_too_soon_is_named(tmp_path: Path) -> None:
    async def scenario() -> None:
        forgetful = dataclasses.replace(LIMITS, log_retention_ms=0, log_keys_max=0, log_run_keys_max=0)
        async with SchemaStore(tmp_path, forgetful) as store:
            ids = await changed(store, PLAIN, 20)

            async def write(request: RowsRequest) -> None:
                for n in range(3):
                    await store.write(partial(set_fields, ids[0], n=n))

            store.on_examined = write
            with pytest.raises(DefinitionError, match="log_retention_ms=0"):
                await store.change(STRICT).make_ready()
            store.on_examined = nothing
            await store.change_to(STRICT)

    run(scenario)


def test_an_entry_that_would_be_too_long_names_its_row(tmp_path: Path) -> None:
    async def scenario() -> None:
        short = dataclasses.replace(LIMITS, key_bytes_max=1024)
        by_kind = define_schema(items=define_table(v.object(ROW)).index("by_kind", ["kind"]))
        async with SchemaStore(tmp_path, short) as store:
            await changed(store, PLAIN, 3)
            long = await store.insert(n=1, kind="x" * 2000)
            with pytest.raises(DefinitionError, match=f'"{long}" in table "items" cannot be indexed: .*key_bytes_max'):
                await store.change_to(by_kind)

    run(scenario)


# --- staged and dropped -----------------------------------------------------------------------------------------------


def test_a_staged_index_is_filled_by_the_upkeep_and_enabled_without_further_work(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with SchemaStore(tmp_path) as store:
            await changed(store, PLAIN, 30)
            await store.change_to(STAGED)
            assert not store.requests
            await store.upkeep().round()
            with pytest.raises(IndexNotReady, match="currently staged"):
                await store.rows("by_n")
            await store.insert(n=3.5, kind="new")
            store.requests.clear()
            await store.change_to(INDEXED)
            assert not store.requests
            await ordered(store)

    run(scenario)


def test_the_upkeep_rests_while_a_deployment_is_prepared_and_then_goes_on(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with SchemaStore(tmp_path) as store:
            await changed(store, PLAIN, 40)
            await store.change_to(STAGED)
            upkeep, begun = store.upkeep(), asyncio.Event()

            async def note(request: RowsRequest) -> None:
                begun.set()
                await asyncio.sleep(0)

            store.on_examined = note
            running = asyncio.create_task(upkeep.run())
            await begun.wait()
            async with upkeep.paused():
                count = len(store.requests)
                await store.insert(n=1, kind="new")
                await asyncio.sleep(0.01)
                assert len(store.requests) == count
            while (await store.executor.run_system(schema_changes.staged_work)).value:  # noqa: ASYNC110 - of a row
                await asyncio.sleep(0)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await store.change_to(INDEXED)
            await ordered(store)

    run(scenario)


def test_entries_of_a_dropped_index_go_a_few_at_a_time_and_their_pages_are_used_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with SchemaStore(tmp_path, dataclasses.replace(LIMITS, backfill_rows_max=500)) as store:
            await changed(store, PLAIN, 3000)
            pages = []
            for _ in range(4):
                await store.change_to(INDEXED)
                await store.change_to(PLAIN)
                before = store.database.committer.statistics().commits
                await store.upkeep().round()
                assert store.database.committer.statistics().commits - before > 6
                pages.append(store.database.statistics().engine.pages)
            assert pages[3] == pages[1]
            assert len(await store.rows()) == 3000

    run(scenario)


def test_a_drop_that_was_interrupted_goes_on(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with SchemaStore(tmp_path) as store:
            await changed(store, INDEXED, 60)
            await store.change_to(PLAIN)
            commits = store.database.committer.statistics().commits
            dropping = asyncio.create_task(store.upkeep().round())
            while store.database.committer.statistics().commits < commits + 2:  # noqa: ASYNC110 - of a count
                await asyncio.sleep(0)
            dropping.cancel()
            await asyncio.gather(dropping, return_exceptions=True)
            assert store.database.check() == []
            await store.upkeep().round()
            assert (await store.executor.run_system(schema_changes.next_drop)).value is None

    run(scenario)


# --- progress ---------------------------------------------------------------------------------------------------------


def test_long_work_tells_how_far_it_has_come(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with SchemaStore(tmp_path, dataclasses.replace(LIMITS, schema_progress_ms=3000)) as store:
            await changed(store, PLAIN, 60)

            async def take_long(request: RowsRequest) -> None:
                store.clock.set_ns(store.clock.now_ns() + NS_PER_S)

            store.on_examined = take_long
            await store.change_to(STRICT_INDEXED)
            assert 1 < len(store.progress) < len(store.requests) / 2
            shares = [progress.share for progress in store.progress]
            assert shares == sorted(shares)
            last = store.progress[-1]
            assert (last.table, last.indexes, last.validates) == ("items", ("by_n",), True)
            assert 0 < last.rows_per_s <= 8

    run(scenario)
