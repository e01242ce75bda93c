"""Cursors: where a page of a query ends, as a string that clients keep and cannot read, change or make.

    position     the index key of a row without the index's own prefix, or END
    fingerprint  a hash of the query that the position belongs to
    tag          keyed hash of fingerprint and position
    cursor       base64 of: tag, (fingerprint, position) encrypted with the key and the tag

A position holds the indexed fields of the last row that was looked at, which may be one that a filter keeps from the
client: therefore it is encrypted, and not only signed. One position has one cursor, so equal pages are equal bytes. The
key is a record of the store, made with it: cursors outlive restarts and go with the data.
"""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import blake2b
from typing import Final

from evolute.errors import InvalidCursor

CURSOR_KEY_BYTES: Final = 32
FINGERPRINT_BYTES: Final = 16
END: Final = b""
"""The position behind the last row; those of rows are never empty."""

_TAG_BYTES: Final = 16
_BLOCK_BYTES: Final = 64

UNREADABLE: Final = (
    "InvalidCursor: This is not a cursor that this backend made. Give the continueCursor of a page as it was received, "
    "to the backend that it was received from."
)


class Cursors:
    """Makes and reads cursors with one store's key."""

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        assert len(key) == CURSOR_KEY_BYTES, len(key)
        self._key = key

    def seal(self, position: bytes, fingerprint: bytes) -> str:
        assert len(fingerprint) == FINGERPRINT_BYTES, len(fingerprint)
        content = fingerprint + position
        tag = self._tag(content)
        return urlsafe_b64encode(tag + self._crossed(content, tag)).rstrip(b"=").decode("ascii")

    def open(self, cursor: str, fingerprint: bytes) -> bytes:
        """The position. Raises InvalidCursor for a cursor of another query, or one that was not made here."""
        try:
            data = urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4))
        except ValueError:
            raise InvalidCursor(UNREADABLE) from None
        tag, hidden = data[:_TAG_BYTES], data[_TAG_BYTES:]
        content = self._crossed(hidden, tag)
        found, position = content[:FINGERPRINT_BYTES], content[FINGERPRINT_BYTES:]
        # Made again, it must be the same text: nobody without the key can have chosen a tag that fits.
        if len(found) < FINGERPRINT_BYTES or not hmac.compare_digest(self.seal(position, found), cursor):
            raise InvalidCursor(UNREADABLE)
        if found != fingerprint:
            raise InvalidCursor
        return position

    def _tag(self, content: bytes) -> bytes:
        return blake2b(content, digest_size=_TAG_BYTES, key=self._key, person=b"cursor tag").digest()

    def _crossed(self, content: bytes, tag: bytes) -> bytes:
        """`content` encrypted, or what is encrypted decrypted: the exclusive or with a stream that the tag begins."""
        blocks = range(-(-len(content) // _BLOCK_BYTES))
        stream = b"".join(
            blake2b(number.to_bytes(8, "big"), key=self._key, salt=tag, person=b"cursor stream").digest()
            for number in blocks
        )[: len(content)]
        crossed = int.from_bytes(content, "big") ^ int.from_bytes(stream, "big")
        return crossed.to_bytes(len(content), "big")
