"""The catalog as one transaction sees it: the tables it names, and those it makes.

A transaction reads the catalog keys of the tables it names and no others, absent ones too, so that it conflicts with a
change of these tables alone. Numbers and index ids are given out from two counters and never used again.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from typing import Final

from evolute.database.catalog import (
    BY_CREATION_TIME,
    IndexEntry,
    IndexState,
    TableDefinition,
    definition_from,
    name_from,
    name_to_bytes,
    table_definition,
)
from evolute.database.document import FIRST_USER_TABLE_NUMBER
from evolute.database.overlay import Overlay
from evolute.database.reads import Reads
from evolute.errors import InvalidValue, LimitReached
from evolute.limits import Limits
from evolute.storage.keyspace import (
    NEXT_INDEX_ID,
    NEXT_TABLE_NUMBER,
    decode_number,
    encode_number,
    table_key,
    table_number_key,
)
from evolute.values.schema import IndexDefinition

FIRST_INDEX_ID: Final = 1

_TABLE_NAME: Final = re.compile(r"(?=.*[A-Za-z0-9])[A-Za-z_][A-Za-z0-9_]{0,63}")


class Tables:
    """Definitions by name and names by number, each read once for a transaction.

    It knows the transaction's parts and not the transaction, which is freed at once when nobody needs it any more.
    """

    def __init__(self, reads: Reads, overlay: Overlay, limits: Limits) -> None:
        self._get_raw = reads.raw
        self._put_raw = overlay.put_raw
        self._limits = limits
        self._definitions: dict[str, TableDefinition | None] = {}
        self._names: dict[int, str | None] = {}

    def definition(self, name: str) -> TableDefinition | None:
        """None if there is no such table. Raises InvalidValue for what cannot be a table's name."""
        known = self._definitions.get(name)
        if known is not None or name in self._definitions:
            return known
        check_table_name(name)
        data = self._get_raw(table_key(name))
        definition = definition_from(data) if data is not None else None
        self._definitions[name] = definition
        if definition is not None:
            self._names[definition.number] = name
        return definition

    def name(self, number: int) -> str | None:
        known = self._names.get(number)
        if known is not None or number in self._names:
            return known
        data = self._get_raw(table_number_key(number))
        name = name_from(data) if data is not None else None
        self._names[number] = name
        return name

    def create(self, name: str, indexes: Iterable[IndexDefinition], number: int | None = None) -> TableDefinition:
        """A new table, which must not exist yet. Without a `number` it gets the next one of the users' tables.

        Raises LimitReached.
        """
        assert self.definition(name) is None, f"table {name} exists already"
        if number is None:
            number = self._next(NEXT_TABLE_NUMBER, FIRST_USER_TABLE_NUMBER)
            if number - FIRST_USER_TABLE_NUMBER >= self._limits.tables_max:
                raise LimitReached(
                    f"Number of tables cannot exceed {self._limits.tables_max}. The setting is `tables_max`."
                )
        entries = [self.new_index(IndexDefinition(BY_CREATION_TIME, ()), "enabled")]
        entries += [self.new_index(index, "backfilled" if index.staged else "enabled") for index in indexes]
        definition = table_definition(number, name, entries)
        self._put_raw(table_number_key(number), name_to_bytes(name))
        self.put(definition)
        return definition

    def put(self, definition: TableDefinition) -> None:
        """Replace a table's definition. An index that is new in it and not backfilling must have no entries to get."""
        self._put_raw(table_key(definition.name), definition.to_bytes())
        self._definitions[definition.name] = definition
        self._names[definition.number] = definition.name

    def new_index(self, index: IndexDefinition, state: IndexState) -> IndexEntry:
        """An index with an id of its own, for a definition to be `put`."""
        number = self._next(NEXT_INDEX_ID, FIRST_INDEX_ID)
        return IndexEntry(number, index.name, index.fields, state, index.staged, index.sparse)

    def forget(self) -> None:
        """Catalog writes were rolled back."""
        self._definitions.clear()
        self._names.clear()

    def _next(self, counter: bytes, first: int) -> int:
        data = self._get_raw(counter)
        number = decode_number(data) if data is not None else first
        self._put_raw(counter, encode_number(number + 1))
        return number


@functools.lru_cache(maxsize=1024)
def _is_table_name(name: str) -> bool:
    return _TABLE_NAME.fullmatch(name) is not None


def check_table_name(name: object) -> None:
    """Raises InvalidValue."""
    if not isinstance(name, str) or not _is_table_name(name):
        raise InvalidValue(
            f"Invalid table name {name!r}: a table name begins with a letter or `_`, "
            f"and has up to 64 letters, digits and `_`"
        )
