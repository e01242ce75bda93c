"""What is being done to an index, as the store remembers it: a backfill and how far it has come, or a drop.

    {"dropping":false,"position":"…","rows":120000}      all documents up to `position` have their entry
    {"dropping":true,"position":"","rows":120000}        the definition is gone; entries are being removed

The record stands apart from the catalog, which every transaction reads: progress conflicts with nobody.
"""

from __future__ import annotations

from typing import NamedTuple

from evolute.errors import StoreCorrupt
from evolute.storage.keyspace import INTERNAL_ID_BYTES
from evolute.values.wire_codec import decode_canonical, encode


class IndexWork(NamedTuple):
    """`position` is the internal id of the last document that is done, empty at first; `rows` counts what was done."""

    dropping: bool = False
    position: bytes = b""
    rows: int = 0

    def to_bytes(self) -> bytes:
        return encode({"dropping": self.dropping, "position": self.position.hex(), "rows": self.rows})


def work_from(data: bytes) -> IndexWork:
    """What `to_bytes` wrote. Raises StoreCorrupt."""
    try:
        row = decode_canonical(data)
        match row:
            case {"dropping": bool(dropping), "position": str(position), "rows": int(rows)}:
                internal_id = bytes.fromhex(position)
                if len(internal_id) in (0, INTERNAL_ID_BYTES):
                    return IndexWork(dropping, internal_id, rows)
    except ValueError as error:
        raise StoreCorrupt(f"a record of work on an index is not canonical JSON: {data[:200]!r}") from error
    raise StoreCorrupt(f"a record of work on an index cannot be understood: {data[:200]!r}")
