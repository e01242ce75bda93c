"""Are the runtime's own rows sound? What the rows of its tables promise each other, beside what every store must keep.

    a job          pending, in progress     has its pool and due time, and while pending the mark of its key, alone
                   success, failed          has neither, says when it ended; a failed one is marked with that time
                   canceled                 is one of the two: somebody is still to be told, or it has ended
                   any                      has its arguments, or leads to the one row that holds them
    a cron         has the id of its name, a schedule, a due time, arguments
    a cron's run   has its cron
    the deployment is one row, and no file of it stands there twice
    an admin key   has a name of its own, a kind, and the hash of a secret
    cursors have a key

It reads the stored bytes and no transaction, so that it can say what is wrong where a transaction would stumble. Rows
that are no documents are `database/check.py`'s to report, and passed over here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from evolute.clock import NS_PER_MS
from evolute.database import check as database_check
from evolute.database.catalog import TableDefinition, definition_from
from evolute.database.cursor import CURSOR_KEY_BYTES
from evolute.errors import EvoluteError, InvalidId, StoreCorrupt
from evolute.storage.engine import Reader
from evolute.storage.keyspace import CURSOR_KEY, document_key, document_prefix, prefix_range, table_key
from evolute.system.crons import IN_PROGRESS as CRON_IN_PROGRESS
from evolute.system.crons import PENDING as CRON_PENDING
from evolute.system.crons import cron_id
from evolute.system.jobs import CANCELED, FAILED, IN_PROGRESS, PENDING, SUCCESS, options_of
from evolute.system.tables import (
    ADMIN_KEYS_NUMBER,
    BY_MARK,
    CRON_RUNS_NUMBER,
    CRONS_NUMBER,
    DEPLOYMENTS_NUMBER,
    SCHEDULED,
    SCHEDULED_ARGUMENTS_NUMBER,
    SCHEDULED_NUMBER,
    SOURCES_NUMBER,
    TABLES,
)
from evolute.values.cron_schedule import from_value
from evolute.values.document_id import decode_id
from evolute.values.value import Int64
from evolute.values.wire_codec import decode_canonical

Row = dict[str, Any]
_SHA256 = re.compile("[0-9a-f]{64}")


def faults(reader: Reader, on_rows: Callable[[int], None] = lambda rows: None) -> Iterator[str]:
    """Every broken invariant of the store and of these rows, as sentences. `reader` should be an unbounded one.

    `on_rows` hears now and then how many rows have been looked at.
    """
    yield from database_check.faults(reader, on_rows)
    yield from _Check(reader).run()


class _Check:
    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def run(self) -> Iterator[str]:
        yield from self._tables()
        yield from self._cursor_key()
        yield from self._jobs()
        for row in self._rows(CRONS_NUMBER):
            yield from _cron(row)
        for row in self._rows(CRON_RUNS_NUMBER):
            if not self._has_document(_cron_id_of(row), CRONS_NUMBER):
                yield f"The run {row['_id']} is one of the cron {row.get('name')!r}, which does not exist."
        yield from self._deployment()
        yield from self._admin_keys()

    def _rows(self, table_number: int) -> Iterator[Row]:
        for _, data in self._reader.scan(*prefix_range(document_prefix(table_number))):
            try:
                row = decode_canonical(data)
            except Exception:  # the codec trusts its bytes, so there is no one way in which it stumbles over others
                continue
            if isinstance(row, dict) and isinstance(row.get("_id"), str):
                yield row

    def _has_document(self, document_id: object, table_number: int) -> bool:
        try:
            number, internal_id = decode_id(document_id) if isinstance(document_id, str) else (0, b"")
        except InvalidId:
            return False
        return number == table_number and self._reader.get(document_key(number, internal_id)) is not None

    def _definition(self, name: str) -> TableDefinition | None:
        data = self._reader.get(table_key(name))
        try:
            return definition_from(data) if data is not None else None
        except StoreCorrupt:
            return None

    def _tables(self) -> Iterator[str]:
        """The indexes of these tables are part of the format, so nothing makes them anew."""
        for table in TABLES:
            definition = self._definition(table.name)
            if definition is None:
                continue
            if definition.number != table.number:
                yield f"Table {table.name!r} has the number {definition.number} instead of {table.number}."
            for index in table.indexes:
                found = definition.indexes.get(index.name)
                if found is None or found.fields != index.fields:
                    yield f"Table {table.name!r} lacks the index {index.name} over {', '.join(index.fields)}."

    def _cursor_key(self) -> Iterator[str]:
        """It is made with the tables; without it no page could be read."""
        key = self._reader.get(CURSOR_KEY)
        if key is None and self._definition(SCHEDULED) is not None:
            yield "The key of cursors is missing."
        elif key is not None and len(key) != CURSOR_KEY_BYTES:
            yield f"The key of cursors has {len(key)} bytes instead of {CURSOR_KEY_BYTES}."

    def _admin_keys(self) -> Iterator[str]:
        names: set[object] = set()
        for row in self._rows(ADMIN_KEYS_NUMBER):
            name, where = row.get("name"), f"The admin key {row.get('name')!r}"
            if not isinstance(name, str) or name in names:
                yield f"{where} has no name of its own."
            else:
                names.add(name)
            if type(row.get("readOnly")) is not bool:
                yield f"{where} is neither read-only nor full."
            if not isinstance(row.get("hash"), str) or not _SHA256.fullmatch(row["hash"]):
                yield f"{where} has no hash of a secret."

    # --- Jobs ---------------------------------------------------------------------------------------------------------

    def _jobs(self) -> Iterator[str]:
        with_long_arguments = 0
        for row in self._rows(SCHEDULED_NUMBER):
            where = f"The job {row['_id']} ({row.get('name')!r})"
            try:
                yield from (f"{where} {fault}." for fault in _job(row))
                mark = row.get("_mark")
                if isinstance(mark, str) and self._first_of_key(mark) not in (None, row["_id"]):
                    yield f"{where} has the key {mark!r}, which another pending job has."
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                yield f"{where} cannot be understood: {error!r}."
                continue
            if "_arguments" in row:
                with_long_arguments += 1
                if not self._has_document(row["_arguments"], SCHEDULED_ARGUMENTS_NUMBER):
                    yield f"{where} leads to arguments that are gone: {row['_arguments']!r}."
        kept = sum(1 for _ in self._rows(SCHEDULED_ARGUMENTS_NUMBER))
        if kept != with_long_arguments:
            yield f"There are {kept} rows of long arguments, but {with_long_arguments} jobs that have some."

    def _first_of_key(self, key: str) -> str | None:
        """The id of the first job that has this mark."""
        definition = self._definition(SCHEDULED)
        index = definition.indexes.get(BY_MARK) if definition is not None else None
        if index is None:
            return None
        for _, internal_id in self._reader.scan(*index.range_of([key])):
            data = self._reader.get(document_key(SCHEDULED_NUMBER, internal_id))
            row = decode_canonical(data) if data is not None else None
            document_id = row.get("_id") if isinstance(row, dict) else None
            return document_id if isinstance(document_id, str) else None
        return None

    # --- The deployment -----------------------------------------------------------------------------------------------

    def _deployment(self) -> Iterator[str]:
        count = sum(1 for _ in self._rows(DEPLOYMENTS_NUMBER))
        if count > 1:
            yield f"There are {count} deployments, and one can be active."
        paths: set[str] = set()
        for row in self._rows(SOURCES_NUMBER):
            path = row.get("path")
            if not isinstance(path, str) or not isinstance(row.get("source"), bytes):
                yield f"The row {row['_id']} of the deployed sources is no file."
            elif path in paths:
                yield f"The deployed file {path!r} is there twice."
            else:
                paths.add(path)
        if paths and not count:
            yield f"There are {len(paths)} deployed files, and no deployment that they belong to."


def _job(row: Row) -> Iterator[str]:
    """What is wrong with one row of `jobs.py`; it may have any form."""
    state = row["state"]["kind"]
    if state not in (PENDING, IN_PROGRESS, SUCCESS, FAILED, CANCELED):
        yield f"is in a state that there is not: {state!r}"
        return
    waits = "_due" in row
    if waits != ("_pool" in row):
        yield f"is {state} and has {'a due time but no pool' if waits else 'a pool but no due time'}"
    if waits and not isinstance(row["_due"], Int64):
        yield f"is {state} and has a due time that is none: {row['_due']!r}"
    if state in (PENDING, IN_PROGRESS) and not waits:
        yield f"is {state} and has no due time, so nobody will run it"
    if state in (SUCCESS, FAILED) and waits:
        yield f"is {state} and has a due time"
    has_ended = isinstance(row.get("completedTime"), int | float)
    if has_ended != (state not in (PENDING, IN_PROGRESS)) and not (state == CANCELED and waits):
        yield f"is {state} and {'says when it ended' if has_ended else 'does not say when it ended'}"
    if not waits and "_started" in row:
        yield f"is {state} and is marked as started"
    yield from _job_mark(row, state)
    arguments = row.get("args")
    if (arguments is None) == ("_arguments" not in row):
        yield "has no arguments, or has them twice"
    elif arguments is not None and not (isinstance(arguments, list) and len(arguments) == 1):
        yield "has something else than one object of arguments"


def _job_mark(row: Mapping[str, Any], state: str) -> Iterator[str]:
    expected = {PENDING: options_of(row).get("key"), FAILED: row.get("completedTime")}.get(state)
    if row.get("_mark") != expected:
        yield f"is {state} and has the mark {row.get('_mark')!r} instead of {expected!r}"


# --- Crons ------------------------------------------------------------------------------------------------------------


def _cron_id_of(row: Row) -> str | None:
    name = row.get("name")
    return cron_id(name) if isinstance(name, str) else None


def _cron(row: Row) -> Iterator[str]:
    where = f"The cron {row.get('name')!r}"
    if row["_id"] != _cron_id_of(row):
        yield f"{where} has the id {row['_id']}, which is not that of its name."
    if row.get("state") not in (CRON_PENDING, CRON_IN_PROGRESS):
        yield f"{where} is in a state that there is not: {row.get('state')!r}."
    due = row.get("_due")
    if not isinstance(due, Int64):
        yield f"{where} has no due time, so nobody will run it."
    elif row.get("nextTime") != int(due) / NS_PER_MS:
        yield f"{where} is due at {int(due) / NS_PER_MS}, but shows {row.get('nextTime')!r}."
    try:
        fault = from_value(row["schedule"]).fault
    except (KeyError, TypeError, ValueError, EvoluteError) as error:
        fault = repr(error)
    if fault is not None:
        yield f"{where} has a schedule that is none: {fault}."
    arguments = row.get("args")
    if not isinstance(arguments, list) or len(arguments) != 1:
        yield f"{where} has something else than one object of arguments."
