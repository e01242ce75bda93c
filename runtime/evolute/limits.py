"""Every bound of the runtime, in one place: name, default, unit last.

A limit is set by the environment variable `EVOLUTE_` + its name in capitals (`EVOLUTE_QUERY_USER_MS_MAX=2000`).
Reaching one is an error whose message names it. `Limits` is plain data: the server sends it to its workers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

# None at all is a sensible setting of these: it forbids something, keeps nothing, or does not wait.
MAY_BE_ZERO = frozenset(
    {
        "documents_read_max",
        "bytes_read_max",
        "documents_written_max",
        "bytes_written_max",
        "system_documents_written_max",
        "system_bytes_written_max",
        "query_operators_max",
        "cron_splay_s_max",
        "call_depth_max",
        "indexes_per_table_max",
        "index_fields_max",
        "scheduled_per_mutation_max",
        "scheduled_arguments_bytes_max",
        "scheduled_inline_arguments_bytes_max",
        "schedule_ms_max",
        "job_retention_ms",
        "kill_grace_ms",
        "shutdown_ms_max",
        "action_calls_max",
        "attempts_before_serial",
        "log_retention_ms",
        "log_keys_max",
        "log_run_keys_max",
        "query_cache_bytes_max",
        "query_cache_age_ms_max",
        "pinned_snapshots_max",
        "opening_burst_ms",
        "token_leeway_ms",
        "log_lines_max",
        "token_refresh_leeway_ms",
        "worker_niceness",
    }
)
# With less, the runtime itself could not work. What is in neither table is at least 1.
LEAST = {
    "object_fields_max": 32,
    "arguments_bytes_max": len("{}"),
    "result_bytes_max": len("null"),
    "read_set_intervals_max": 64,
    "worker_memory_bytes_max": 64 * MIB,
    "map_bytes_max": 256 * KIB,
    "readers_max": 2,
    "key_bytes_max": 1 * KIB,
    "subscriptions_max": 2,
    "session_record_retention_ms": 60_000,
    "message_bytes_max": 1 * KIB,
    "transition_chunk_bytes": 4,
}


@dataclass(frozen=True)
class Limits:
    # Values
    value_depth_max: int = 64
    document_depth_max: int = 16
    document_bytes_max: int = 1 * MIB
    object_fields_max: int = 1024
    array_items_max: int = 8192
    arguments_bytes_max: int = 16 * MIB
    result_bytes_max: int = 16 * MIB

    # One transaction
    documents_read_max: int = 32_000
    bytes_read_max: int = 16 * MIB
    read_set_intervals_max: int = 4096
    documents_written_max: int = 16_000
    bytes_written_max: int = 16 * MIB
    system_documents_written_max: int = 40_000
    system_bytes_written_max: int = 128 * MIB
    query_operators_max: int = 256
    call_depth_max: int = 8
    system_rows_per_run_max: int = 1000

    # Tables and indexes
    tables_max: int = 10_000
    indexes_per_table_max: int = 64
    index_fields_max: int = 15

    # Changes of the schema
    backfill_rows_max: int = 20_000
    backfill_bytes_max: int = 16 * MIB
    backfill_busy_rows_per_s: int = 7_000
    schema_progress_ms: int = 3_000

    # Scheduling
    scheduled_per_mutation_max: int = 1000
    scheduled_arguments_bytes_max: int = 16 * MIB
    scheduled_inline_arguments_bytes_max: int = 64 * KIB
    schedule_ms_max: int = 5 * 366 * 24 * 3600 * 1000
    jobs_running_max: int = 64
    job_retention_ms: int = 7 * 24 * 3600 * 1000
    completed_jobs_max: int = 100_000
    job_backoff_ms_max: int = 60_000
    job_worker_deaths_max: int = 3
    job_stuck_ms: int = 60_000

    # Crons
    crons_running_max: int = 8
    cron_arguments_bytes_max: int = 1 * MIB
    cron_splay_s_max: int = 0
    cron_runs_kept_max: int = 5
    cron_text_characters_max: int = 1000
    cron_backoff_ms_min: int = 500
    cron_backoff_ms_max: int = 15_000

    # Time of one call; user time leaves out what is spent inside `ctx`
    query_user_ms_max: int = 1000
    mutation_user_ms_max: int = 1000
    action_ms_max: int = 600_000
    system_ms_max: int = 15_000
    kill_grace_ms: int = 500
    action_block_ms_max: int = 5_000
    worker_start_ms_max: int = 20_000
    shutdown_ms_max: int = 10_000

    # Workers
    worker_memory_bytes_max: int = 1 * GIB
    worker_niceness: int = 5
    requests_per_worker_max: int = 32
    actions_per_worker_max: int = 64
    blocking_workers_max: int = 8
    blocking_workers_idle_max: int = 2
    action_calls_max: int = 1000
    call_queue_length_max: int = 10_000
    action_queue_length_max: int = 10_000
    blocking_queue_length_max: int = 10_000
    frame_bytes_max: int = 64 * MIB

    # Commits
    attempts_before_serial: int = 8
    serial_ms_max: int = 40_000
    commit_queue_length_max: int = 4096
    commit_queue_bytes_max: int = 256 * MIB
    commit_batch_length_max: int = 512
    commit_batch_bytes_max: int = 32 * MIB
    write_bytes_per_s_max: int = 256 * MIB
    pending_view_bytes_max: int = 256 * KIB
    log_retention_ms: int = 30_000
    log_keys_max: int = 2_000_000
    log_run_keys_max: int = 8192

    # Storage
    map_bytes_max: int = 1024 * GIB
    readers_max: int = 1024
    key_bytes_max: int = 1 * MIB
    reader_check_ms: int = 30_000

    # Subscriptions, cache, sessions
    subscriptions_max: int = 1_000_000
    query_cache_bytes_max: int = 100 * MIB
    query_cache_age_ms_max: int = 17_000
    pinned_snapshots_max: int = 16
    pinned_snapshot_ms: int = 15_000
    queries_per_session_max: int = 10_000
    queries_per_run_max: int = 32
    session_queries_bytes_max: int = 64 * MIB
    session_mutations_max: int = 1000
    session_actions_max: int = 1000
    session_calls_bytes_max: int = 16 * MIB
    all_sessions_calls_bytes_max: int = 256 * MIB
    session_outgoing_bytes_max: int = 64 * MIB
    session_records_max: int = 1000
    session_record_retention_ms: int = 14 * 24 * 3600 * 1000
    message_bytes_max: int = 64 * MIB
    messages_begun_bytes_max: int = 256 * MIB
    frame_fragment_bytes: int = 4 * MIB
    transition_chunk_bytes: int = 5_000_000
    heartbeat_ms: int = 15_000
    opening_burst_ms: int = 5
    close_ms_max: int = 5_000
    socket_silence_ms_max: int = 120_000
    http_calls_max: int = 10_000
    http_calls_bytes_max: int = 256 * MIB
    http_body_bytes_max: int = 16 * MIB + 2000
    http_batch_queries_max: int = 1000
    echo_bytes_max: int = 64 * MIB
    query_retry_ms_min: int = 500
    query_retry_ms_max: int = 600_000

    # Tokens of users, the keys of those who issue them, and admin keys
    token_bytes_max: int = 64 * KIB
    token_leeway_ms: int = 5_000
    issuer_document_bytes_max: int = 512 * KIB
    issuer_fetch_ms_max: int = 5_000
    issuer_refetch_ms_min: int = 10_000
    issuer_keys_fresh_ms: int = 10 * 60 * 1000
    issuer_keys_age_ms_max: int = 24 * 3600 * 1000
    admin_keys_max: int = 100

    # Tokens, in our clients
    token_refresh_leeway_ms: int = 10_000
    token_refresh_ms_max: int = 20 * 24 * 3600 * 1000
    fresh_tokens_max: int = 3

    # Logs and errors
    log_lines_max: int = 256
    log_line_bytes_max: int = 32 * KIB
    error_bytes_max: int = 64 * KIB
    function_log_entries_max: int = 10_000
    function_log_bytes_max: int = 32 * MIB
    function_log_page_entries_max: int = 1000
    function_log_wait_ms: int = 50_000

    # The admin API
    admin_page_rows_max: int = 200
    admin_text_characters_max: int = 1000

    # Functions folder
    source_bytes_max: int = 1 * MIB
    deployment_bytes_max: int = 32 * MIB
    modules_max: int = 4096
    reload_settle_ms: int = 50

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            least = 0 if name in MAY_BE_ZERO else LEAST.get(name, 1)
            self._require(
                isinstance(value, int) and value >= least,
                f"{name} must be a whole number from {least} on, got {value!r}",
            )
        self._require(
            self.document_depth_max <= self.value_depth_max, "document_depth_max must be at most value_depth_max"
        )
        self._require(
            self.query_retry_ms_min <= self.query_retry_ms_max, "query_retry_ms_min must be at most query_retry_ms_max"
        )
        self._require(
            self.frame_fragment_bytes < 16 * MIB,
            "frame_fragment_bytes must be less than 16 MiB, because PyPI's client refuses frames of that length",
        )
        self._require(
            self.heartbeat_ms < 30_000,
            "heartbeat_ms must be less than 30000, because PyPI's client gives up on a connection that is silent",
        )
        self._require(
            self.issuer_keys_fresh_ms <= self.issuer_keys_age_ms_max,
            "issuer_keys_fresh_ms must be at most issuer_keys_age_ms_max",
        )
        self._require(
            self.arguments_bytes_max + max(self.result_bytes_max, self.pending_view_bytes_max) <= self.frame_bytes_max,
            "arguments_bytes_max, with result_bytes_max or pending_view_bytes_max, must be at most frame_bytes_max",
        )
        self._require(
            self.session_mutations_max <= self.session_records_max,
            "session_mutations_max must be at most session_records_max: any mutation in flight may be sent again",
        )

    @staticmethod
    def _require(holds: bool, rule: str) -> None:
        if not holds:
            raise ValueError(rule)


def limits_from(environment: Mapping[str, str]) -> Limits:
    """The defaults, with those replaced that `environment` sets. Raises ValueError naming the variable."""
    given: dict[str, int] = {}
    for field in dataclasses.fields(Limits):
        variable = "EVOLUTE_" + field.name.upper()
        text = environment.get(variable)
        if text is None:
            continue
        try:
            given[field.name] = int(text)
        except ValueError:
            raise ValueError(f"{variable} must be a whole number, got {text!r}") from None
    return Limits(**given)
