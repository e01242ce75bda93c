"""Every limit at its edge: as much as it allows passes, one more is refused by an error that names the setting.

`edge` says which setting a test of this file is about; `ELSEWHERE` names the tests of those settings that belong to
another part. A setting that is in neither fails `test_every_setting_has_its_test`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from evolute import (
    ActionCtx,
    Crons,
    MutationCtx,
    QueryCtx,
    action,
    define_schema,
    define_table,
    interval,
    mutation,
    q,
    query,
    v,
)
from evolute.database.transaction import Transaction
from evolute.errors import BadRequest, DefinitionError, LimitReached
from evolute.execution.action_context import ActionCalls
from evolute.execution.request import Call
from evolute.limits import Limits
from evolute.protocol.codec import decode_arguments
from evolute.registry.registry import Registry
from evolute.testing import FunctionFailed, LocalBackend
from evolute.values.document_id import decode_id
from evolute.values.schema import under
from evolute.values.value import size_of
from evolute.values.wire_codec import encode
from tests.open_store import LIMITS, OpenStore
from tests.test_tidy import tree
from tests.unit.test_crons import refuse

F = TypeVar("F", bound=Callable[..., None])
TESTS = Path(__file__).parents[1]

HERE: dict[str, str] = {}

ELSEWHERE = {
    # Scheduling
    "jobs_running_max": "unit/test_scheduler.py::test_more_jobs_than_may_run_at_once_run_once_each",
    "job_retention_ms": "unit/test_housekeeping.py::test_a_full_batch_of_jobs_says_that_more_may_wait",
    "completed_jobs_max": "unit/test_scheduler_runs.py::test_no_more_completed_rows_are_kept_than_completed_jobs_max",
    "job_worker_deaths_max": "end_to_end/test_runaway_functions.py::test_poison_jobs_end_failed_and_do_not_come_back",
    "job_stuck_ms": "unit/test_job_admin.py::test_one_that_runs_longer_than_it_may",
    "system_rows_per_run_max": "unit/test_housekeeping.py::test_a_full_batch_of_jobs_says_that_more_may_wait",
    "crons_running_max": "unit/test_crons.py::test_at_most_so_many_run_at_once_and_the_others_follow",
    "cron_splay_s_max": "unit/test_crons.py::test_crons_of_one_time_may_be_spread",
    # Changes of the schema
    "backfill_rows_max": "unit/test_pace.py::test_while_nobody_writes_chunks_grow_to_the_largest",
    "backfill_bytes_max": "unit/test_schema_change.py::test_a_chunk_of_large_rows_is_a_small_one",
    "backfill_busy_rows_per_s": "unit/test_pace.py::test_while_somebody_writes_the_rate_is_kept",
    "schema_progress_ms": "unit/test_schema_change.py::test_long_work_tells_how_far_it_has_come",
    # Tokens, in our clients
    "token_refresh_leeway_ms": "unit/test_client_auth.py::test_how_long_is_waited_at_most_and_at_least",
    "token_refresh_ms_max": "unit/test_client_auth.py::test_how_long_is_waited_at_most_and_at_least",
    "fresh_tokens_max": "unit/test_client_auth.py::test_fresh_tokens_max",
    # Time of one call
    "query_user_ms_max": "unit/test_time_limits.py::test_due_time_is_raised_when_the_function_comes_out_of_ctx",
    "mutation_user_ms_max": "end_to_end/test_worker.py::test_every_mutation_past_its_time_fails_and_writes_nothing",
    "action_ms_max": "end_to_end/test_worker.py::test_an_action_past_its_time_is_cancelled_where_it_waits",
    "system_ms_max": "unit/test_time_limits.py::test_due_time_is_raised_when_the_function_comes_out_of_ctx",
    "kill_grace_ms": "end_to_end/test_runaway_functions.py::"
    "test_c_code_that_never_returns_costs_its_worker_and_no_other_transaction",
    "action_block_ms_max": "end_to_end/test_worker.py::test_a_blocking_action_is_interrupted_and_its_neighbours_go_on",
    "worker_start_ms_max": "end_to_end/test_pool.py::test_a_worker_that_loads_for_too_long_fails_the_preparation",
    "shutdown_ms_max": "end_to_end/test_backend.py::"
    "test_a_job_that_does_not_end_delays_the_end_by_no_more_than_the_limit",
    # Workers
    "worker_memory_bytes_max": "end_to_end/test_worker.py::test_memory_is_limited_and_the_error_names_the_setting",
    "worker_niceness": "end_to_end/test_worker.py::test_a_worker_gives_way_to_the_server",
    "requests_per_worker_max": "end_to_end/test_pool.py::test_a_full_queue_is_an_error_with_the_name_of_its_limit",
    "actions_per_worker_max": "end_to_end/test_pool.py::test_a_full_queue_is_an_error_with_the_name_of_its_limit",
    "blocking_workers_max": "end_to_end/test_blocking_actions.py::test_a_few_idle_processes_are_kept",
    "blocking_workers_idle_max": "end_to_end/test_blocking_actions.py::test_a_few_idle_processes_are_kept",
    "call_queue_length_max": "end_to_end/test_pool.py::test_a_full_queue_is_an_error_with_the_name_of_its_limit",
    "action_queue_length_max": "end_to_end/test_pool.py::test_a_full_queue_is_an_error_with_the_name_of_its_limit",
    "blocking_queue_length_max": "end_to_end/test_blocking_actions.py::test_what_waits_is_bounded",
    "frame_bytes_max": "unit/test_channel.py::test_a_frame_above_the_bound_is_refused_at_both_ends",
    # Commits
    "attempts_before_serial": "unit/test_executor.py::test_no_mutation_fails_of_contention",
    "serial_ms_max": "end_to_end/test_backend.py::"
    "test_a_serial_turn_that_gets_no_worker_does_not_keep_out_the_deployment_that_brings_some",
    "commit_queue_length_max": "unit/test_committer.py::test_the_queue_is_bounded",
    "commit_queue_bytes_max": "unit/test_committer.py::test_the_queue_is_bounded",
    "commit_batch_length_max": "unit/test_committer.py::test_a_batch_is_bounded",
    "commit_batch_bytes_max": "unit/test_committer.py::test_a_batch_is_bounded",
    "pending_view_bytes_max": "unit/test_pending_view.py::test_more_than_a_view_may_hold_is_not_shown",
    "write_bytes_per_s_max": "unit/test_committer.py::test_a_second_takes_so_many_bytes",
    "log_retention_ms": "unit/test_write_log.py::test_it_forgets_what_is_older_than_the_retention",
    "log_keys_max": "unit/test_write_log.py::test_it_forgets_the_oldest_when_there_are_too_many_keys",
    "log_run_keys_max": "unit/test_write_log.py::test_old_runs_are_large_and_few",
    # Storage
    "map_bytes_max": "contracts/test_lmdb_faults.py::"
    "test_a_full_map_loses_nothing_and_writes_work_again_when_there_is_room",
    "readers_max": "contracts/test_engine.py::test_readers_max_is_a_limit_and_a_closed_reader_gives_its_place_back",
    "reader_check_ms": "unit/test_database.py::test_readers_are_checked_again_and_again",
    # Subscriptions, cache, sessions
    "subscriptions_max": "unit/test_subscriptions.py::test_the_number_of_subscriptions_is_bounded",
    "query_cache_bytes_max": "unit/test_query_cache.py::"
    "test_results_that_nobody_holds_give_way_when_there_are_too_many",
    "query_cache_age_ms_max": "unit/test_query_cache.py::test_a_result_ages_and_errors_are_not_served_again",
    "queries_per_session_max": "scripts/test_sessions.py::test_script",
    "session_mutations_max": "scripts/test_sessions.py::test_script",
    "session_actions_max": "scripts/test_sessions.py::test_script",
    "session_outgoing_bytes_max": "unit/test_connection.py::test_a_reader_that_takes_nothing_is_cut_off",
    "queries_per_run_max": "unit/test_query_cache.py::test_who_asks_for_many_leaves_workers_to_others",
    "session_queries_bytes_max": "scripts/test_sessions.py::test_script",
    "session_calls_bytes_max": "unit/test_intake.py::test_who_holds_too_much_waits",
    "all_sessions_calls_bytes_max": "unit/test_intake.py::test_when_all_hold_too_much_who_holds_anything_waits",
    "messages_begun_bytes_max": "end_to_end/test_overload.py::test_what_waits_takes_a_bounded_amount_of_memory",
    "http_calls_max": "end_to_end/test_overload.py::test_of_a_flood_a_bounded_part_waits_and_the_rest_has_no_effect",
    "http_calls_bytes_max": "end_to_end/test_overload.py::"
    "test_of_a_flood_a_bounded_part_waits_and_the_rest_has_no_effect",
    "session_records_max": "unit/test_housekeeping.py::"
    "test_a_session_keeps_its_newest_records_and_loses_all_when_it_is_no_longer_used",
    "session_record_retention_ms": "unit/test_housekeeping.py::"
    "test_a_session_keeps_its_newest_records_and_loses_all_when_it_is_no_longer_used",
    "message_bytes_max": "unit/test_websocket.py::test_violations_close_one_connection",
    "frame_fragment_bytes": "unit/test_websocket.py::test_a_long_message_leaves_as_several_frames",
    "pinned_snapshots_max": "end_to_end/test_past_queries.py::test_so_many_moments_are_kept_and_no_more",
    "pinned_snapshot_ms": "end_to_end/test_past_queries.py::test_a_moment_is_kept_for_a_while",
    "heartbeat_ms": "unit/test_connection.py::test_silence_is_broken_by_a_ping_also_while_a_query_runs",
    "opening_burst_ms": "unit/test_connection.py::test_a_token_and_the_queries_behind_it_make_one_transition",
    "close_ms_max": "unit/test_connection.py::test_a_reader_that_takes_nothing_is_cut_off",
    "socket_silence_ms_max": "unit/test_websocket.py::test_a_peer_that_says_nothing_is_cut_off",
    "http_body_bytes_max": "unit/test_http_api.py::test_a_bad_body_is_refused_by_name",
    "http_batch_queries_max": "unit/test_http_api.py::test_several_queries_as_of_one_time",
    "echo_bytes_max": "unit/test_http_api.py::test_pages_and_odd_addresses",
    "function_log_page_entries_max": "unit/test_function_logs.py::test_every_call_is_told_once",
    "function_log_wait_ms": "unit/test_function_logs.py::test_who_asks_too_early_waits",
    "transition_chunk_bytes": "unit/test_websocket.py::test_a_long_transition_goes_in_parts_to_those_who_know_them",
    "query_retry_ms_max": "scripts/test_sessions.py::test_script",
    "query_retry_ms_min": "unit/test_connection.py::test_a_query_whose_run_broke_off_is_tried_again",
    # Tokens of users
    "token_bytes_max": "unit/test_token_verifier.py::test_what_is_no_token",
    "token_leeway_ms": "unit/test_token_verifier.py::test_leeway",
    "issuer_document_bytes_max": "unit/test_token_verifier.py::test_documents_that_are_of_no_use",
    "issuer_fetch_ms_max": "unit/test_token_verifier.py::test_an_issuer_that_never_answers",
    "issuer_refetch_ms_min": "unit/test_token_verifier.py::"
    "test_an_unknown_key_has_the_keys_fetched_again_but_not_all_the_time",
    "issuer_keys_fresh_ms": "unit/test_token_verifier.py::test_keys_that_are_not_fresh_are_fetched_beside",
    "issuer_keys_age_ms_max": "unit/test_token_verifier.py::test_an_issuer_that_is_down_costs_only_those_who_need_it",
    "admin_keys_max": "unit/test_key_ring.py::test_keys_are_few",
    # Logs and errors
    "log_lines_max": "unit/test_function_log.py::test_too_many_lines_end_with_one_that_says_so",
    "log_line_bytes_max": "unit/test_function_log.py::test_a_long_line_is_cut_at_its_bytes",
    "error_bytes_max": "unit/test_runner.py::test_sizes_of_arguments_results_and_errors_are_limited",
    "function_log_entries_max": "unit/test_function_log.py::test_the_call_log_keeps_the_latest_and_tells_its_listeners",
    "function_log_bytes_max": "unit/test_function_log.py::test_the_call_log_is_bounded_in_bytes",
    # The admin API
    "admin_page_rows_max": "unit/test_job_admin.py::test_pages_are_bounded",
    "admin_text_characters_max": "unit/test_job_admin.py::test_arguments_are_shown_unless_they_are_too_long",
    # Functions folder
    "source_bytes_max": "unit/test_loader.py::test_what_cannot_be_read_is_named",
    "deployment_bytes_max": "unit/test_loader.py::test_what_cannot_be_read_is_named",
    "modules_max": "unit/test_loader.py::test_what_cannot_be_read_is_named",
    "reload_settle_ms": "unit/test_watcher.py::test_saves_that_come_together_are_reported_once",
}


def edge(*names: str) -> Callable[[F], F]:
    def mark(test: F) -> F:
        for name in names:
            assert name not in HERE, f"{name} has a test here already"
            HERE[name] = test.__name__
        return test

    return mark


def test_every_setting_has_its_test() -> None:
    names = [field.name for field in dataclasses.fields(Limits)]
    assert [name for name in names if name not in HERE and name not in ELSEWHERE] == []
    assert sorted({*HERE, *ELSEWHERE} - set(names)) == []
    assert sorted(HERE.keys() & ELSEWHERE.keys()) == []


@pytest.mark.parametrize("name", sorted(ELSEWHERE))
def test_the_tests_elsewhere_exist_and_know_the_setting(name: str) -> None:
    file, _, test = ELSEWHERE[name].partition("::")
    path = TESTS / file
    assert test in [getattr(node, "name", None) for node in tree(path).body], f"{file} has no {test}"
    texts = [path, *path.parent.glob("*_under_test.py"), *path.parent.glob(f"{path.stem.removeprefix('test_')}/*.txt")]
    assert any(re.search(rf"\b{name}\b", text.read_text()) for text in texts), f"{file} does not know {name}"


def refused(name: str, function: Callable[[], object]) -> None:
    """It raises an error that names the setting."""
    with pytest.raises((BadRequest, DefinitionError, FunctionFailed), match=rf"\b{name}\b"):
        function()


def nested(depth: int) -> Any:
    return [] if depth == 1 else [nested(depth - 1)]


# --- Values -----------------------------------------------------------------------------------------------------------


@edge("value_depth_max")
def test_depth_of_a_value() -> None:
    limits = Limits(value_depth_max=20)
    assert encode(nested(20), limits)
    refused("value_depth_max", lambda: encode(nested(21), limits))
    assert decode_arguments("m:f", {"a": nested(19)}, limits)[1] is None
    fault = decode_arguments("m:f", {"a": nested(20)}, limits)[1]
    assert fault is not None
    assert "Value is too nested (nested 21 levels deep > maximum nesting 20)" in fault
    assert "value_depth_max" in fault


@edge("array_items_max", "object_fields_max")
def test_items_of_an_array_and_fields_of_an_object() -> None:
    limits = Limits(array_items_max=3, object_fields_max=32)
    cases: list[tuple[int, str, Callable[[int], Any]]] = [
        (3, "array_items_max", lambda count: [0] * count),
        (32, "object_fields_max", lambda count: {f"f{n}": n for n in range(count)}),
    ]
    for most, name, value in cases:
        assert encode(value(most), limits)
        refused(name, lambda value=value, most=most: encode(value(most + 1), limits))  # type: ignore[misc]
        assert decode_arguments("m:f", {"a": value(most)}, limits)[1] is None
        fault = decode_arguments("m:f", {"a": value(most + 1)}, limits)[1]
        assert fault is not None
        assert name in fault


@edge("document_depth_max")
def test_depth_of_a_document(store: OpenStore) -> None:
    tx = store.begin(limits=dataclasses.replace(LIMITS, document_depth_max=4))
    tx.insert("rows", {"a": nested(3)})
    refused("document_depth_max", lambda: tx.insert("rows", {"a": nested(4)}))


@edge("document_bytes_max")
def test_size_of_a_document(store: OpenStore) -> None:
    document_id = store.run(lambda tx: tx.insert("rows", {"a": "x" * 1000}))
    size = size_of(store.begin().get(document_id))
    tx = store.begin(limits=dataclasses.replace(LIMITS, document_bytes_max=size))
    row = tx.insert("rows", {"a": "x" * 1000})
    for write in (
        lambda: tx.insert("rows", {"a": "x" * 1001}),
        lambda: tx.patch(row, {"a": "x" * 1001}),
        lambda: tx.replace(row, {"a": "x" * 1000, "b": None}),
    ):
        refused("document_bytes_max", write)


@query
def echo(ctx: QueryCtx, text: str, times: int = 1) -> str:
    return text * times


@edge("arguments_bytes_max", "result_bytes_max")
def test_size_of_arguments_and_results() -> None:
    with LocalBackend(echo, limits=Limits(arguments_bytes_max=100, result_bytes_max=150)) as backend:
        room = 100 - len('{"text":""}')
        assert backend.query(echo, text="x" * room)
        refused("arguments_bytes_max", lambda: backend.query(echo, text="x" * (room + 1)))
        assert backend.query(echo, text="xxxx", times=37) == "x" * (150 - len('""'))
        refused("result_bytes_max", lambda: backend.query(echo, text="xxxxx", times=30))


# --- One transaction --------------------------------------------------------------------------------------------------


def insert(tx: Transaction, count: int) -> list[str]:
    return [tx.insert("rows", {"n": n}) for n in range(count)]


@edge("documents_read_max")
def test_documents_read(store: OpenStore) -> None:
    ids = store.run(lambda tx: insert(tx, 5))
    limits = dataclasses.replace(LIMITS, documents_read_max=3)
    for read in (
        lambda tx, n: tx.query("rows").take(n),
        lambda tx, n: [tx.get(one) for one in ids[:n]],
        lambda tx, n: list(itertools.islice(tx.query("rows"), n)),
        lambda tx, n: tx.query("rows").filter(q.gte(q.field("n"), n - 1)).first(),
    ):
        read(store.begin(limits=limits), 3)
        tx = store.begin(limits=limits)
        refused("documents_read_max", lambda read=read, tx=tx: read(tx, 4))  # type: ignore[misc]
        assert isinstance(tx.poisoned, LimitReached)


@edge("bytes_read_max")
def test_bytes_read(store: OpenStore) -> None:
    row = store.run(lambda tx: tx.insert("rows", {"text": "x" * 1000}))
    size = len(encode(store.begin().get(row)))
    for limits, passes in ((size, True), (size - 1, False)):
        reads: list[Callable[[Transaction], Any]] = [lambda tx: tx.get(row), lambda tx: tx.query("rows").collect()]
        for read in reads:
            tx = store.begin(limits=dataclasses.replace(LIMITS, bytes_read_max=limits))
            if passes:
                assert read(tx)
            else:
                refused("bytes_read_max", lambda read=read, tx=tx: read(tx))  # type: ignore[misc]


@edge("read_set_intervals_max")
def test_intervals_read(store: OpenStore) -> None:
    ids = store.run(lambda tx: insert(tx, 65))
    tx = store.begin(limits=dataclasses.replace(LIMITS, read_set_intervals_max=64))
    for one in ids[:64]:
        tx.get(one)
    assert len(tx.read_set) == 64
    assert tx.get(ids[0]), "what was read already is no further interval"
    refused("read_set_intervals_max", lambda: tx.get(ids[64]))


@edge("documents_written_max")
def test_documents_written(store: OpenStore) -> None:
    tx = store.begin(limits=dataclasses.replace(LIMITS, documents_written_max=3))
    (row,) = insert(tx, 1)
    tx.patch(row, {"n": 5})
    tx.patch(row, {"n": 5})  # no write
    tx.delete(row)
    refused("documents_written_max", lambda: insert(tx, 1))


@edge("bytes_written_max")
def test_bytes_written(store: OpenStore) -> None:
    row = store.run(lambda tx: tx.insert("rows", {"text": "x" * 1000}))
    size = len(encode(store.begin().get(row)))
    for limit, passes in ((size, True), (size - 1, False)):
        tx = store.begin(limits=dataclasses.replace(LIMITS, bytes_written_max=limit))
        if passes:
            tx.patch(row, {"text": "y" * 1000})
        else:
            refused("bytes_written_max", lambda tx=tx: tx.patch(row, {"text": "y" * 1000}))  # type: ignore[misc]


@mutation
def schedule(ctx: MutationCtx, jobs: int, text: str = "") -> None:
    for _ in range(jobs):
        ctx.scheduler.run_after(60_000, schedule, jobs=0, text=text)


@edge("system_documents_written_max")
def test_rows_of_the_runtimes_own_written() -> None:
    with LocalBackend(schedule, limits=Limits(system_documents_written_max=3)) as backend:
        backend.mutation(schedule, jobs=3)
        refused("system_documents_written_max", lambda: backend.mutation(schedule, jobs=4))


@edge("system_bytes_written_max")
def test_bytes_of_the_runtimes_own_written() -> None:
    with LocalBackend(schedule, limits=Limits(system_bytes_written_max=4000)) as backend:
        backend.mutation(schedule, jobs=1, text="x" * 3000)
        refused("system_bytes_written_max", lambda: backend.mutation(schedule, jobs=1, text="x" * 4000))


@edge("query_operators_max")
def test_operators_of_a_query(store: OpenStore) -> None:
    building = store.begin(limits=dataclasses.replace(LIMITS, query_operators_max=2)).query("rows")
    building = building.order("desc").filter(lambda row: True).filter(q.literal(True))
    refused("query_operators_max", lambda: building.filter(lambda row: True))


@mutation
def deeper(ctx: MutationCtx, levels: int) -> int:
    return ctx.run_mutation(deeper, levels=levels - 1) + 1 if levels else 0


@edge("call_depth_max")
def test_nested_calls() -> None:
    with LocalBackend(deeper, limits=Limits(call_depth_max=3)) as backend:
        assert backend.mutation(deeper, levels=3) == 3
        refused("call_depth_max", lambda: backend.mutation(deeper, levels=4))


# --- Tables and indexes -----------------------------------------------------------------------------------------------


@edge("tables_max")
def test_tables(store: OpenStore) -> None:
    limits = dataclasses.replace(LIMITS, tables_max=2)
    tx = store.begin(limits=limits)
    tx.insert("one", {})
    tx.insert("two", {})
    refused("tables_max", lambda: tx.insert("three", {}))
    with under(limits):
        define_schema(one=define_table(), two=define_table())
        refused("tables_max", lambda: define_schema(one=define_table(), two=define_table(), three=define_table()))


@edge("indexes_per_table_max", "index_fields_max")
def test_DB3_indexes_and_their_fields() -> None:
    assert (Limits.indexes_per_table_max, Limits.index_fields_max) == (64, 15)
    names = [f"f{n}" for n in range(65)]
    table = define_table({name: v.any() for name in names})
    define_schema(t=table.index("wide", names[:15]))
    refused("index_fields_max", lambda: define_schema(t=table.index("wide", names[:16])))
    for name in names[:64]:
        table = table.index(f"by_{name}", [name])
    define_schema(t=table)
    refused("indexes_per_table_max", lambda: define_schema(t=table.index("one_more", [names[64]])))


@edge("key_bytes_max")
def test_the_key_of_an_index_entry(store: OpenStore) -> None:
    schema = define_schema(t=define_table().index("by_s", ["s"]))
    tx = store.begin(limits=dataclasses.replace(LIMITS, key_bytes_max=1024), schema=schema)
    row = tx.insert("t", {"s": ""})
    found, definition = tx.get(row), tx.table("t")
    assert found is not None
    assert definition is not None
    room = 1024 - len(definition.indexes["by_s"].key_of(found, decode_id(row)[1]))
    tx.insert("t", {"s": "x" * room})
    refused("key_bytes_max", lambda: tx.insert("t", {"s": "x" * (room + 1)}))


# --- Scheduling -------------------------------------------------------------------------------------------------------


@edge("scheduled_per_mutation_max")
def test_jobs_of_one_mutation() -> None:
    with LocalBackend(schedule, limits=Limits(scheduled_per_mutation_max=2)) as backend:
        backend.mutation(schedule, jobs=2)
        refused("scheduled_per_mutation_max", lambda: backend.mutation(schedule, jobs=3))


@edge("scheduled_arguments_bytes_max", "scheduled_inline_arguments_bytes_max")
def test_arguments_of_the_jobs_of_one_mutation() -> None:
    arguments = {"jobs": 0, "text": "x" * 100}
    size, inline = size_of(arguments), len(encode(arguments))
    limits = Limits(scheduled_arguments_bytes_max=2 * size, scheduled_inline_arguments_bytes_max=inline)
    with LocalBackend(schedule, rows, limits=limits) as backend:
        backend.mutation(schedule, jobs=2, text="x" * 100)
        assert backend.query(rows, table="_scheduled_arguments") == 0
        refused("scheduled_arguments_bytes_max", lambda: backend.mutation(schedule, jobs=2, text="x" * 101))
        backend.mutation(schedule, jobs=1, text="x" * 101)
        assert backend.query(rows, table="_scheduled_arguments") == 1, "longer than they may be inside their job's row"


@query
def rows(ctx: QueryCtx, table: str) -> int:
    transaction: Any = ctx.db
    return len(transaction._transaction.query(table).collect())


@mutation
def schedule_at(ctx: MutationCtx, ms: float) -> None:
    ctx.scheduler.run_at(ctx.now_ms + ms, schedule, jobs=0)


@edge("schedule_ms_max")
def test_how_far_away_a_job_may_be() -> None:
    with LocalBackend(schedule, schedule_at, limits=Limits(schedule_ms_max=5000)) as backend:
        backend.mutation(schedule_at, ms=5000)
        backend.mutation(schedule_at, ms=-5000)
        for ms in (5001, -5001):
            refused("schedule_ms_max", lambda ms=ms: backend.mutation(schedule_at, ms=ms))  # type: ignore[misc]


# --- Crons ------------------------------------------------------------------------------------------------------------


@mutation
def fail(ctx: MutationCtx, text: str) -> None:
    print(text)
    raise ValueError(text)


@query
def runs(ctx: QueryCtx) -> list[Any]:
    return ctx.db.system.query("_cron_runs").collect()


def crons(text: str) -> Crons:
    made = Crons()
    made.add("fail", interval(seconds=1), fail, text=text)
    return made


@edge("cron_arguments_bytes_max")
def test_arguments_of_a_cron() -> None:
    limits = Limits(cron_arguments_bytes_max=len(encode({"text": "x" * 100})))
    with LocalBackend(fail, runs, crons=crons("x" * 100), limits=limits):
        pass
    with pytest.raises(Exception, match="cron_arguments_bytes_max"):
        LocalBackend(fail, runs, crons=crons("x" * 101), limits=limits)


@edge("cron_runs_kept_max", "cron_text_characters_max")
def test_runs_of_a_cron_that_are_kept_and_their_texts() -> None:
    limits = Limits(cron_runs_kept_max=2, cron_text_characters_max=20)
    with LocalBackend(fail, runs, crons=crons("x" * 100), limits=limits) as backend:
        for seen in (2, 2):
            backend.advance(seconds=1)
            kept = backend.query(runs)
            assert len(kept) == seen
            assert {len(run["status"]["error"]) for run in kept} == {20}
            assert {sum(map(len, run["logLines"])) for run in kept} == {20}


@edge("cron_backoff_ms_min", "cron_backoff_ms_max", "job_backoff_ms_max")
def test_how_long_what_could_not_be_run_rests(caplog: pytest.LogCaptureFixture) -> None:
    limits = Limits(cron_backoff_ms_min=1000, cron_backoff_ms_max=2000, job_backoff_ms_max=300)
    with LocalBackend(fail, schedule, crons=crons("x"), limits=limits) as backend:
        backend.mutation(schedule, jobs=1)
        refuse(backend, True)
        for _ in range(80):
            backend.advance(seconds=1)
        refuse(backend, False)
    rests = [re.search(r"^(cron|job) .* in (\d+) ms", record.getMessage()) for record in caplog.records]
    of_kind = {kind: [int(rest[2]) for rest in rests if rest and rest[1] == kind][:5] for kind in ("cron", "job")}
    assert of_kind == {"cron": [1000, 2000, 2000, 2000, 2000], "job": [200, 300, 300, 300, 300]}


# --- Actions ----------------------------------------------------------------------------------------------------------


@edge("action_calls_max")
def test_calls_of_one_action_side_by_side(store: OpenStore) -> None:
    async def side_by_side(count: int) -> list[bytes]:
        answered = asyncio.Event()

        async def server(operation: str, payload: object) -> tuple[bool, bytes]:
            await answered.wait()
            return True, b"null"

        call = Call("m:act", b"{}", kind="action")
        registry = Registry("local", "m", {}, define_schema())
        calls = ActionCalls(registry, Limits(action_calls_max=3), store.begin(), call, server)
        asked = [asyncio.ensure_future(calls.ask("query", None)) for _ in range(count)]
        asyncio.get_running_loop().call_soon(answered.set)
        return await asyncio.gather(*asked)

    assert asyncio.run(side_by_side(3)) == [b"null"] * 3
    refused("action_calls_max", lambda: asyncio.run(side_by_side(4)))


# --- Near a limit -----------------------------------------------------------------------------------------------------

near: Callable[[Any], Any]


@mutation
def do(ctx: MutationCtx) -> Any:
    return near(ctx)


def lines_of(limits: Limits, function: Callable[[MutationCtx], Any], *, rows: int = 10) -> list[str]:
    """What the log of a mutation that does this says."""
    global near
    with LocalBackend(do, schedule, limits=limits) as backend:
        near = lambda ctx: [ctx.db.insert("rows", {"n": n, "text": "x" * 100}) for n in range(rows)] and None  # noqa: E731
        if rows:
            backend.mutation(do)
        near = function
        backend.mutation(do)
        return list(backend.log.entries()[-1].log_lines)


HELP = (
    "Consider using smaller limits in your queries, paginating your queries, or using indexed queries with a selective "
    "index range expressions."
)


@pytest.mark.parametrize(
    ("setting", "limit", "below", "at", "text"),
    [
        (
            "documents_read_max",
            10,
            lambda ctx: ctx.db.query("rows").take(7) and None,
            lambda ctx: ctx.db.query("rows").take(8) and None,
            f"Many documents read in a single function execution (actual: 8, limit: 10). {HELP}",
        ),
        (
            "documents_written_max",
            10,
            lambda ctx: [ctx.db.insert("rows", {}) for _ in range(7)] and None,
            lambda ctx: [ctx.db.insert("rows", {}) for _ in range(8)] and None,
            "Many documents written in a single function execution (actual: 8, limit: 10).",
        ),
        (
            "scheduled_per_mutation_max",
            5,
            lambda ctx: ctx.run_mutation(schedule, jobs=3),
            lambda ctx: ctx.run_mutation(schedule, jobs=4),
            "Many functions scheduled by this mutation (actual: 4, limit: 5).",
        ),
        (
            "scheduled_arguments_bytes_max",
            1000,
            lambda ctx: ctx.run_mutation(schedule, jobs=1, text="x" * (799 - size_of({"jobs": 0, "text": ""}))),
            lambda ctx: ctx.run_mutation(schedule, jobs=1, text="x" * (800 - size_of({"jobs": 0, "text": ""}))),
            "Large total size of the arguments of scheduled functions from this mutation (actual: 800 bytes, limit: "
            "1000 bytes).",
        ),
        (
            "system_documents_written_max",
            10,
            lambda ctx: ctx.run_mutation(schedule, jobs=7),
            lambda ctx: ctx.run_mutation(schedule, jobs=8),
            "Many system table writes in a single function execution (actual: 8, limit: 10).",
        ),
        (
            "result_bytes_max",
            1000,
            lambda ctx: "x" * 797,
            lambda ctx: "x" * 798,
            "Large size of the return value of this function (actual: 800 bytes, limit: 1000 bytes).",
        ),
    ],
)
def test_four_fifths_of_a_limit_are_a_line_in_the_log(
    setting: str, limit: int, below: Callable[[Any], Any], at: Callable[[Any], Any], text: str
) -> None:
    limits = dataclasses.replace(Limits(), **{setting: limit})
    assert lines_of(limits, below) == []
    assert lines_of(limits, at) == [f"[WARN] {text} The setting is `{setting}`."]


def test_bytes_near_their_limits_are_told_too() -> None:
    def read_and_write(ctx: MutationCtx) -> None:
        ctx.db.query("rows").collect()
        ctx.db.insert("rows", {"text": "x" * 1900})

    told = lines_of(Limits(bytes_read_max=2300, bytes_written_max=2300), read_and_write)
    assert [re.sub(r"\d+ bytes,", "… bytes,", line) for line in told] == [
        f"[WARN] Many bytes read in a single function execution (actual: … bytes, limit: 2300 bytes). {HELP} "
        "The setting is `bytes_read_max`.",
        "[WARN] Many bytes written in a single function execution (actual: … bytes, limit: 2300 bytes). "
        "The setting is `bytes_written_max`.",
    ]
    (told_of_reads,) = lines_of(
        Limits(read_set_intervals_max=64),
        lambda ctx: [ctx.db.get(row["_id"]) for row in ctx.db.query("rows").take(50)] and None,
        rows=50,
    )
    assert told_of_reads.startswith("[WARN] Many reads in a single function execution (actual: 5")


def test_what_failed_of_a_limit_is_not_warned_of_it() -> None:
    global near
    with LocalBackend(do, limits=Limits(documents_written_max=5)) as backend:
        near = lambda ctx: [ctx.db.insert("rows", {}) for _ in range(6)]  # noqa: E731
        refused("documents_written_max", lambda: backend.mutation(do))
        assert backend.log.entries()[-1].log_lines == ()


def test_actions_and_arguments_are_warned_of() -> None:
    size = len('{"text":""}')
    with LocalBackend(echo, shout, limits=Limits(arguments_bytes_max=100)) as backend:
        for function, call in ((echo, backend.query), (shout, backend.action)):
            call(function, text="x" * (79 - size))
            call(function, text="x" * (80 - size))
            assert [entry.log_lines for entry in backend.log.entries()[-2:]] == [
                (),
                (
                    "[WARN] Large size of the arguments of this function (actual: 80 bytes, limit: 100 bytes). "
                    "The setting is `arguments_bytes_max`.",
                ),
            ]


@action
async def shout(ctx: ActionCtx, text: str) -> str:
    return text.upper()
