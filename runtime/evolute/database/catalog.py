"""What a table is: its number, its name, its indexes, and the index entries that a document has.

A definition is one value under the table's name, so a transaction that names a table reads one key; a second key leads
from the number, which is inside every document id, to the name. Every index ends with `_creationTime`, which makes its
order total; it is not among the `fields`. `by_creation_time` has no other field, and every table has it.

    backfilling ──► backfilled ──► enabled          every one of them is kept up to date by all writes

Entries of the documents that were there before a new index are put in by its backfill; queries use enabled indexes
only. A staged index stays backfilled until the schema declares it without that.

A sparse index, which only the runtime's own tables have, holds those documents alone that have every field of it: the
index of what is due costs nothing for what has been done.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, cast

from evolute.errors import LimitReached, StoreCorrupt
from evolute.storage.keyspace import after_prefix, index_prefix
from evolute.values.field_path import value_at
from evolute.values.key_codec import encode_component, encode_key
from evolute.values.value import UNDEFINED, Value
from evolute.values.wire_codec import decode_canonical, encode

BY_CREATION_TIME = "by_creation_time"
CREATION_TIME = "_creationTime"

PARSED_DEFINITIONS_MAX = 10_000


IndexState: TypeAlias = Literal["backfilling", "backfilled", "enabled"]
_STATES = ("backfilling", "backfilled", "enabled")


@dataclass(frozen=True)
class IndexEntry:
    """An index of a table. `id` is never used again, not even after the index is dropped."""

    id: int
    name: str
    fields: tuple[str, ...]
    state: IndexState = "enabled"
    staged: bool = False
    sparse: bool = False
    key_fields: tuple[str, ...] = field(init=False, repr=False, compare=False)
    """The fields of the key: those declared, then `_creationTime`."""
    paths: tuple[tuple[str, ...], ...] = field(init=False, repr=False, compare=False)
    _own_paths: tuple[tuple[str, ...], ...] = field(init=False, repr=False, compare=False)
    """Those of the declared fields."""
    _absent_without: frozenset[str] = field(init=False, repr=False, compare=False)
    """The top-level fields without which a document has no entry."""
    _prefix: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "key_fields", (*self.fields, CREATION_TIME))
        object.__setattr__(self, "paths", tuple(tuple(name.split(".")) for name in self.key_fields))
        object.__setattr__(self, "_own_paths", self.paths[:-1])
        object.__setattr__(self, "_absent_without", frozenset(self.fields if self.sparse else ()))
        object.__setattr__(self, "_prefix", index_prefix(self.id))

    def has(self, document: Mapping[str, Value]) -> bool:
        """Whether such a document has an entry."""
        return self._absent_without <= document.keys()

    def key_of(self, document: Mapping[str, Value], internal_id: bytes) -> bytes:
        """The key of this document's entry. `document` has its system fields, and those of a sparse index."""
        return self._key(document, encode_component(document.get(CREATION_TIME, UNDEFINED)) + internal_id)

    def _key(self, document: Mapping[str, Value], end: bytes) -> bytes:
        """`end` is what the keys of all of the document's entries end with: its creation time and its internal id."""
        parts = [self._prefix]
        for path in self._own_paths:
            value = document.get(path[0], UNDEFINED) if len(path) == 1 else value_at(document, path)
            parts.append(encode_component(value))
        parts.append(end)
        return b"".join(parts)

    def range_of(self, values: Collection[object]) -> tuple[bytes, bytes]:
        """The interval (start, end) of the entries whose first fields have these values."""
        prefix = self._prefix + encode_key(values)
        return prefix, self.after(prefix, len(values))

    def after(self, prefix: bytes, length: int) -> bytes:
        """The end of the keys that begin with `prefix`, which has `length` fields of this index.

        Another field begins with a byte below ff, while ff goes on with the string that `prefix` seems to end with;
        after the last field comes an internal id, which may begin with ff.
        """
        return prefix + b"\xff" if length < len(self.key_fields) else after_prefix(prefix)


@dataclass(frozen=True)
class TableDefinition:
    """A table as the catalog holds it. `indexes` are those that can be queried, `building` all others.

    An index that is to take the place of another has the same name.
    """

    number: int
    name: str
    indexes: Mapping[str, IndexEntry]
    building: tuple[IndexEntry, ...] = ()
    maintained: tuple[IndexEntry, ...] = field(init=False, repr=False, compare=False)
    """All of them: a document has an entry in each, unless it is sparse."""
    _indexed: frozenset[str] = field(init=False, repr=False, compare=False)
    """The top-level fields that some index looks into."""
    _has_sparse: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "maintained", (*self.indexes.values(), *self.building))
        object.__setattr__(self, "_indexed", frozenset(path[0] for i in self.maintained for path in i.paths))
        object.__setattr__(self, "_has_sparse", any(index.sparse for index in self.maintained))

    def have_same_keys(self, old: Mapping[str, Value], new: Mapping[str, object]) -> bool:
        """Whether it is plain to see, because both hold the same objects, that their index entries are the same."""
        return all(old.get(name, UNDEFINED) is new.get(name, UNDEFINED) for name in self._indexed)

    def entry_keys(
        self, document: Mapping[str, Value], internal_id: bytes, key_bytes_max: int | None = None
    ) -> list[bytes]:
        """The keys of all index entries that this document has, in the order of the indexes.

        Raises LimitReached for one longer than `key_bytes_max`, which is for documents that are not stored yet.
        """
        end = encode_component(document.get(CREATION_TIME, UNDEFINED)) + internal_id
        indexes = self.maintained
        if self._has_sparse:
            indexes = tuple([index for index in indexes if index._absent_without <= document.keys()])
        keys = [index._key(document, end) for index in indexes]
        if key_bytes_max is not None and max(map(len, keys), default=0) > key_bytes_max:
            index, key = max(zip(indexes, keys, strict=True), key=lambda pair: len(pair[1]))
            raise LimitReached(
                f'The document\'s entry in index "{index.name}" of table "{self.name}" has a key of {len(key)} bytes; '
                f"it may have {key_bytes_max} (`key_bytes_max`). Index a shorter field, such as a hash of this one."
            )
        return keys

    def to_bytes(self) -> bytes:
        indexes: list[Value] = [
            {
                "id": index.id,
                "name": index.name,
                "fields": list(index.fields),
                "state": index.state,
                "staged": index.staged,
                "sparse": index.sparse,
            }
            for index in self.maintained
        ]
        return encode({"number": self.number, "name": self.name, "indexes": indexes})


def table_definition(number: int, name: str, indexes: Iterable[IndexEntry]) -> TableDefinition:
    """Asserts that `by_creation_time` is among the indexes."""
    indexes = list(indexes)
    enabled = {index.name: index for index in indexes if index.state == "enabled"}
    assert BY_CREATION_TIME in enabled, f"table {name} has no {BY_CREATION_TIME}"
    return TableDefinition(number, name, enabled, tuple(index for index in indexes if index.state != "enabled"))


@functools.lru_cache(maxsize=PARSED_DEFINITIONS_MAX)
def definition_from(data: bytes) -> TableDefinition:
    """The definition that `to_bytes` made; parsed once for equal bytes. Raises StoreCorrupt."""
    match _decoded(data):
        case {"number": int(number), "name": str(name), "indexes": list(rows)}:
            indexes = list(map(_index_from, rows))
            if any(index.name == BY_CREATION_TIME and index.state == "enabled" for index in indexes):
                return table_definition(number, name, indexes)
    raise StoreCorrupt(f"a catalog entry is not a table definition: {data[:200]!r}")


def _index_from(row: Value) -> IndexEntry:
    match row:
        case {
            "id": int(number),
            "name": str(name),
            "fields": list(fields),
            "state": state,
            "staged": bool(staged),
            "sparse": bool(sparse),
        }:
            names = tuple(item for item in fields if isinstance(item, str))
            if len(names) == len(fields) and state in _STATES:
                return IndexEntry(number, name, names, cast(IndexState, state), staged, sparse)
    raise StoreCorrupt(f"a catalog entry holds something that is not an index: {row!r}")


def name_to_bytes(name: str) -> bytes:
    """The value under a table's number."""
    return encode(name)


@functools.lru_cache(maxsize=PARSED_DEFINITIONS_MAX)
def name_from(data: bytes) -> str:
    """The name that `name_to_bytes` wrote. Raises StoreCorrupt."""
    name = _decoded(data)
    if not isinstance(name, str):
        raise StoreCorrupt(f"a catalog entry is not a table name: {data[:200]!r}")
    return name


def _decoded(data: bytes) -> Value:
    try:
        return decode_canonical(data)
    except ValueError as error:
        raise StoreCorrupt(f"a catalog entry is not canonical JSON: {data[:200]!r}") from error
