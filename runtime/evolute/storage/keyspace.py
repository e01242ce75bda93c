"""Every key of the store and the bytes it is made of: the one table of the format.

    01 name                       a fact about the store: LAST_TS, DEPLOYMENT, the two counters, CURSOR_KEY
    02 name                       the catalog: a table's definition by its name     canonical JSON
    03 number:4                   the catalog: a table's name by its number         canonical JSON
    04 number:4 internal id:16    a document                                        canonical JSON, with system fields
    05 index:4 fields id:16       an index entry; `fields` is `key_codec`'s         the internal id:16
    06 session:16 request:8       how a session's mutation ended                   `session_record`'s canonical JSON
    07 index:4                    what is being done to an index: see `index_work`  canonical JSON

Numbers in keys are big endian, so that bytewise order is their order. An internal id has a fixed length and stands
last, so an entry can be taken apart without decoding its fields. A session stands there as the hash of its id, which
has any length. `FORMAT_VERSION` names this table, LMDB's file format, the way `lmdb_engine` stores long keys, and the
indexes of the runtime's own tables (`system.tables`); a change to any of them is a new version.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal

FORMAT_VERSION = 5

INTERNAL_ID_BYTES = 16
SESSION_HASH_BYTES = 16
NUMBER_MAX = 2**32 - 1

_META = b"\x01"
_TABLE = b"\x02"
_TABLE_NUMBER = b"\x03"
_DOCUMENT = b"\x04"
_INDEX = b"\x05"
_SESSION = b"\x06"
_INDEX_WORK = b"\x07"

_SESSION_PREFIX_BYTES = 1 + SESSION_HASH_BYTES
_SESSIONS_KEPT = 1024

LAST_TS = _META + b"last_ts"
DEPLOYMENT = _META + b"deployment"
NEXT_TABLE_NUMBER = _META + b"next_table_number"
NEXT_INDEX_ID = _META + b"next_index_id"
CURSOR_KEY = _META + b"cursor_key"

META_KEYS = frozenset({LAST_TS, DEPLOYMENT, NEXT_TABLE_NUMBER, NEXT_INDEX_ID, CURSOR_KEY})

CATALOG_RANGE = (_TABLE, _TABLE_NUMBER)
TABLE_NUMBER_RANGE = (_TABLE_NUMBER, _DOCUMENT)
DOCUMENTS_RANGE = (_DOCUMENT, _INDEX)
INDEXES_RANGE = (_INDEX, _SESSION)
SESSION_RECORDS_RANGE = (_SESSION, _INDEX_WORK)
INDEX_WORK_RANGE = (_INDEX_WORK, b"\x08")

Family = Literal["meta", "table", "table number", "document", "index", "session record", "index work", "unknown"]


@dataclass(frozen=True)
class ParsedKey:
    """A key taken apart. `number` is a table's, an index's or a request's; what the family does not have is empty."""

    family: Family
    name: str = ""
    number: int = 0
    encoded: bytes = b""
    internal_id: bytes = b""
    session_hash: bytes = b""

    def __str__(self) -> str:
        match self.family:
            case "meta":
                return f"the record {self.name!r}"
            case "table":
                return f"the definition of table {self.name!r}"
            case "table number":
                return f"the name of table {self.number}"
            case "document":
                return f"the document {self.internal_id.hex()} of table {self.number}"
            case "index":
                return f"the entry of {self.internal_id.hex()} in index {self.number}"
            case "session record":
                return f"the record of request {self.number} of session {self.session_hash.hex()}"
            case "index work":
                return f"what is being done to index {self.number}"
            case _:
                return f"the unknown key {self.encoded[:64].hex()}"


def encode_number(number: int) -> bytes:
    """The value of LAST_TS and of the counters."""
    return number.to_bytes(8, "big")


def decode_number(data: bytes) -> int:
    assert len(data) == 8, f"a number has 8 bytes, not {len(data)}"
    return int.from_bytes(data, "big")


def table_key(name: str) -> bytes:
    return _TABLE + name.encode()


def table_number_key(number: int) -> bytes:
    return _TABLE_NUMBER + number.to_bytes(4, "big")


def document_key(table_number: int, internal_id: bytes) -> bytes:
    assert len(internal_id) == INTERNAL_ID_BYTES
    return _DOCUMENT + table_number.to_bytes(4, "big") + internal_id


def document_prefix(table_number: int) -> bytes:
    """What the key of every document of a table begins with; the internal id follows."""
    return _DOCUMENT + table_number.to_bytes(4, "big")


def index_prefix(index_id: int, encoded: bytes = b"") -> bytes:
    """What every entry whose first fields are `encoded` begins with."""
    return _INDEX + index_id.to_bytes(4, "big") + encoded


def index_work_key(index_id: int) -> bytes:
    return _INDEX_WORK + index_id.to_bytes(4, "big")


@functools.lru_cache(maxsize=_SESSIONS_KEPT)
def session_prefix(session: str) -> bytes:
    """What the key of every record of a session begins with; the request follows."""
    return _SESSION + blake2b(session.encode(), digest_size=SESSION_HASH_BYTES, person=b"session").digest()


def session_record_key(session: str, request: int) -> bytes:
    return session_prefix(session) + request.to_bytes(8, "big")


def session_prefix_of(record_key: bytes) -> bytes:
    """The `session_prefix` of a record's session."""
    return record_key[:_SESSION_PREFIX_BYTES]


def request_of(record_key: bytes) -> int:
    return int.from_bytes(record_key[_SESSION_PREFIX_BYTES:], "big")


def after_prefix(prefix: bytes) -> bytes:
    """The first key that is greater than every key beginning with `prefix`.

    Not `prefix + b"\\xff"`: an internal id may follow the last field, and it may begin with ff.
    """
    stem = prefix.rstrip(b"\xff")
    assert stem, "every key begins with its family, which is never ff"
    return stem[:-1] + bytes((stem[-1] + 1,))


def prefix_range(prefix: bytes) -> tuple[bytes, bytes]:
    """Every key that begins with `prefix`: (start, end), half open."""
    return prefix, after_prefix(prefix)


def parse(key: bytes) -> ParsedKey:
    """Take any key apart; one that is not of this table is of the family "unknown"."""
    family, rest = key[:1], key[1:]
    if family == _META and key in META_KEYS:
        return ParsedKey("meta", name=rest.decode())
    if family == _TABLE and rest:
        try:
            return ParsedKey("table", name=rest.decode())
        except UnicodeDecodeError:
            return ParsedKey("unknown", encoded=key)
    if family == _TABLE_NUMBER and len(rest) == 4:
        return ParsedKey("table number", number=int.from_bytes(rest, "big"))
    if family == _DOCUMENT and len(rest) == 4 + INTERNAL_ID_BYTES:
        return ParsedKey("document", number=int.from_bytes(rest[:4], "big"), internal_id=rest[4:])
    if family == _INDEX and len(rest) >= 4 + INTERNAL_ID_BYTES:
        number, encoded, internal_id = rest[:4], rest[4:-INTERNAL_ID_BYTES], rest[-INTERNAL_ID_BYTES:]
        return ParsedKey("index", number=int.from_bytes(number, "big"), encoded=encoded, internal_id=internal_id)
    if family == _INDEX_WORK and len(rest) == 4:
        return ParsedKey("index work", number=int.from_bytes(rest, "big"))
    if family == _SESSION and len(rest) == SESSION_HASH_BYTES + 8:
        return ParsedKey("session record", number=request_of(key), session_hash=rest[:SESSION_HASH_BYTES])
    return ParsedKey("unknown", encoded=key)
