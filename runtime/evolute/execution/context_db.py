"""`ctx.db`: a transaction as a function may use it.

The transaction below knows no forbidden tables; here the runtime's own are kept apart. They are read with
`ctx.db.system`, which shows their public fields, and are written by nobody (semantics D5).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Final, NoReturn, cast

from evolute.database.document import decoded_id, is_user_table
from evolute.database.transaction import Transaction
from evolute.errors import InvalidId, InvalidQuery, SystemTableError
from evolute.execution.context_query import ContextQuery, Row
from evolute.execution.journal import Pages
from evolute.execution.scope import Scope
from evolute.system import crons, jobs
from evolute.system.tables import CRON_RUNS, CRONS, SCHEDULED
from evolute.values.display import display
from evolute.values.schema import Schema
from evolute.values.value import type_name

USE_SYSTEM = "System tables can only be accessed with db.system."
NOT_SYSTEM = "User tables cannot be accessed with db.system."
READ_ONLY = "System tables (prefixed with `_`) are read-only."
PUBLIC_TABLES = (SCHEDULED, CRONS, CRON_RUNS)
WRITES = ("insert", "patch", "replace", "delete")
NOT_GIVEN: Final = object()
"""In place of the last argument, where the table is not named: `get(id)` beside `get(table, id)`."""


class ContextReader:
    """`ctx.db` of a query; see `registry.contexts.Reader`."""

    __slots__ = ("_pages", "_schema", "_scope", "_transaction")

    def __init__(self, transaction: Transaction, scope: Scope, schema: Schema, pages: Pages) -> None:
        self._transaction = transaction
        self._scope = scope
        self._schema = schema
        self._pages = pages

    @property
    def system(self) -> ContextSystemReader:
        return ContextSystemReader(self._transaction, self._scope, self._pages)

    def query(self, table: str | type, /) -> ContextQuery:
        self._scope.check()
        return ContextQuery(self._transaction.query(self._readable_name(table)), self._scope, self._pages)

    def get(self, id: object, more: object = NOT_GIVEN, /) -> Row | None:
        with self._scope:
            if more is not NOT_GIVEN:
                id = self._of_table(id, more, "get", USE_SYSTEM)
            return self._transaction.get(self._user_id(id, "get", USE_SYSTEM))

    def normalize_id(self, table: str | type, text: str, /) -> str | None:
        with self._scope:
            name = self._name(table)
            if name.startswith("_"):
                raise SystemTableError("System tables can only be accessed from db.system.normalizeId().")
            return self._transaction.normalize_id(name, _checked_text(text))

    def __getattr__(self, name: str) -> NoReturn:
        hint = ": only a mutation writes" if name in WRITES else ""
        raise AttributeError(
            f"`ctx.db` of a {'mutation' if isinstance(self, ContextWriter) else 'query'} has no {name!r}{hint}"
        )

    def _name(self, table: object) -> str:
        if isinstance(table, str):
            return table
        name = self._schema.name_of(table) if isinstance(table, type) else None
        if name is None:
            shown = table.__name__ if isinstance(table, type) else repr(table)
            raise InvalidQuery(
                f"{shown} names no table. A table is named by its string, "
                "or by the row type that the schema gives it: define_schema(name=define_table(Row))."
            )
        return name

    def _readable_name(self, table: object) -> str:
        name = self._name(table)
        if name.startswith("_"):
            raise SystemTableError(USE_SYSTEM)
        return name

    def _user_id(self, id: object, method: str, refusal: str) -> str:
        if not is_user_table(decoded_id(id, method)[0]):
            raise SystemTableError(refusal)
        return cast(str, id)

    def _of_table(self, table: object, id: object, method: str, refusal: str) -> object:
        """The id, which must be one of this table."""
        name = self._name(table)
        if name.startswith("_"):
            raise SystemTableError(refusal)
        _check_table(self._transaction, name, id, method)
        return id


class ContextWriter(ContextReader):
    """`ctx.db` of a mutation; see `registry.contexts.Writer`."""

    __slots__ = ()

    def insert(self, table: str | type, fields: Mapping[str, object], /) -> str:
        with self._scope:
            name = self._name(table)
            if name.startswith("_"):
                raise SystemTableError(READ_ONLY)
            return self._transaction.insert(name, fields)

    def patch(self, id: object, fields: object, more: object = NOT_GIVEN, /) -> None:
        with self._scope:
            if more is not NOT_GIVEN:
                id, fields = self._of_table(id, fields, "patch", READ_ONLY), more
            self._transaction.patch(self._user_id(id, "patch", READ_ONLY), cast("Mapping[str, object]", fields))

    def replace(self, id: object, fields: object, more: object = NOT_GIVEN, /) -> None:
        with self._scope:
            if more is not NOT_GIVEN:
                id, fields = self._of_table(id, fields, "replace", READ_ONLY), more
            self._transaction.replace(self._user_id(id, "replace", READ_ONLY), cast("Mapping[str, object]", fields))

    def delete(self, id: object, more: object = NOT_GIVEN, /) -> None:
        with self._scope:
            if more is not NOT_GIVEN:
                id = self._of_table(id, more, "delete", READ_ONLY)
            self._transaction.delete(self._user_id(id, "delete", READ_ONLY))


class ContextSystemReader:
    """`ctx.db.system`; see `registry.contexts.SystemReader`."""

    __slots__ = ("_pages", "_scope", "_transaction")

    def __init__(self, transaction: Transaction, scope: Scope, pages: Pages) -> None:
        self._transaction = transaction
        self._scope = scope
        self._pages = pages

    def get(self, id: object, more: object = NOT_GIVEN, /) -> Row | None:
        with self._scope:
            if more is not NOT_GIVEN:
                _check_table(self._transaction, _public_system_table(id), more, "system.get")
                id = more
            number = decoded_id(id, "system.get")[0]
            if is_user_table(number):
                raise SystemTableError(NOT_SYSTEM)
            table = self._transaction.table_name(number)
            if table not in PUBLIC_TABLES:
                return None
            row = self._transaction.get(cast(str, id))
            return None if row is None else _shown(self._transaction, table, row)

    def query(self, table: str, /) -> ContextQuery:
        self._scope.check()
        name = _public_system_table(table)
        shown = partial(_shown, self._transaction, name)
        return ContextQuery(self._transaction.query(name), self._scope, self._pages, shown)

    def normalize_id(self, table: str, text: str, /) -> str | None:
        with self._scope:
            if not str(table).startswith("_"):
                raise SystemTableError("User tables can only be accessed from db.normalizeId().")
            return self._transaction.normalize_id(_public_system_table(table), _checked_text(text))


def _check_table(transaction: Transaction, table: str, id: object, method: str) -> None:
    """Raises InvalidId for the id of another table. One of a table that does not exist is left to what comes next."""
    number = decoded_id(id, method)[0]
    if transaction.table_number(table) == number:
        return
    found = transaction.table_name(number)
    if found is not None:
        raise InvalidId(
            f'Invalid argument `id` for `db.{method}`: expected to be an Id<"{table}">, got Id<"{found}"> instead.'
        )


def _checked_text(text: object) -> str:
    if not isinstance(text, str):
        raise InvalidId(
            f"Invalid argument `id` for `db.normalize_id`, expected string but got '{type_name(text)}': {display(text)}"
        )
    return text


def _shown(transaction: Transaction, table: str, row: Row) -> Row:
    return jobs.public_row(transaction, row) if table == SCHEDULED else crons.public_row(row)


def _public_system_table(table: object) -> str:
    if isinstance(table, str) and table in PUBLIC_TABLES:
        return table
    if isinstance(table, str) and table.startswith("_"):
        readable = ", ".join(map(repr, PUBLIC_TABLES))
        raise SystemTableError(f"There is no system table {table!r}; functions can read {readable}.")
    raise SystemTableError(NOT_SYSTEM)
