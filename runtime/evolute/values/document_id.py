"""Document ids: which table, which document, and a check against mistyping, in 31 to 37 characters.

    table number   1–5 bytes   7 bits a byte, low bits first; the high bit says that more follow
    internal id    16 bytes    14 random ones, then the day of creation since 1970, big endian
    footer         2 bytes     Fletcher-16 (sums modulo 256) of the above, little endian, XOR the version, which is 0

in base 32, first bit first, with the lower-case alphabet of Crockford and no padding. The random part leads, so ids say
nothing of the order of creation. One id has exactly one spelling.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final
from zlib import adler32

from evolute.errors import InvalidId

INTERNAL_ID_BYTES: Final = 16
RANDOM_BYTES: Final = 14
TABLE_NUMBER_MAX: Final = 2**32 - 1

_FOOTER_BYTES: Final = 2
_TABLE_NUMBER_BYTES_MAX: Final = 5
_BODY_MAX: Final = _TABLE_NUMBER_BYTES_MAX + INTERNAL_ID_BYTES
_LENGTH_MIN, _LENGTH_MAX = 31, 37
_VERSION: Final = 0
_DECODED_MAX: Final = 4096
_TABLES_MAX: Final = 1024

_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS: Final = [first + second for first in _ALPHABET for second in _ALPHABET]
# To the digits that `int(text, 32)` reads; every other byte to one that it refuses.
_DIGITS: Final = bytes(
    b"0123456789abcdefghijklmnopqrstuv"[_ALPHABET.index(chr(byte))] if chr(byte) in _ALPHABET else 0
    for byte in range(256)
)


def encode_id(table_number: int, internal_id: bytes) -> str:
    """The id of a document. The table number is 1 … 2^32-1 and the internal id has 16 bytes."""
    assert 1 <= table_number <= TABLE_NUMBER_MAX, table_number
    assert len(internal_id) == INTERNAL_ID_BYTES, internal_id
    body = _encode_table_number(table_number) + internal_id
    return _encode_base32(body + (_fletcher16(body) ^ _VERSION).to_bytes(_FOOTER_BYTES, "little"))


@lru_cache(maxsize=_DECODED_MAX)  # a call names the same few ids over and over, in its arguments, reads and writes
def decode_id(text: str) -> tuple[int, bytes]:
    """The table number and the internal id. Raises InvalidId saying why `text` is not an id."""
    if not _LENGTH_MIN <= len(text) <= _LENGTH_MAX:
        raise InvalidId(f"Unable to decode ID: Invalid ID length {len(text)}")
    length, spare_bits = divmod(len(text) * 5, 8)
    try:
        number = int(text.encode().translate(_DIGITS), 32)
    except ValueError:
        raise InvalidId("Unable to decode ID: ID wasn't valid base32") from None
    if spare_bits >= 5 or number & ((1 << spare_bits) - 1):
        raise InvalidId("Unable to decode ID: ID wasn't valid base32")
    data = (number >> spare_bits).to_bytes(length, "big")
    table_number = _decode_table_number(data[: -INTERNAL_ID_BYTES - _FOOTER_BYTES])
    if table_number is None:
        raise InvalidId(f"Unable to decode ID: Invalid ID length {len(text)}")
    body, footer = data[:-_FOOTER_BYTES], data[-_FOOTER_BYTES:]
    version = int.from_bytes(footer, "little") ^ _fletcher16(body)
    if version != _VERSION:
        raise InvalidId(f"Unable to decode ID: Invalid ID version {version} (expected {_VERSION})")
    return table_number, body[-INTERNAL_ID_BYTES:]


def new_internal_id(random: bytes, day: int) -> bytes:
    """An internal id from 14 random bytes and the number of days since 1970."""
    assert len(random) == RANDOM_BYTES, random
    return random + (day & 0xFFFF).to_bytes(2, "big")


@lru_cache(maxsize=_TABLES_MAX)
def _encode_table_number(number: int) -> bytes:
    data = bytearray()
    while number > 0x7F:
        data.append(number & 0x7F | 0x80)
        number >>= 7
    data.append(number)
    return bytes(data)


@lru_cache(maxsize=_TABLES_MAX)
def _decode_table_number(data: bytes) -> int | None:
    """The number that has these bytes; None if it ends sooner or goes on. Raises InvalidId for what is none."""
    number = 0
    for position, byte in enumerate(data):
        number |= (byte & 0x7F) << 7 * position
    goes_on = data[-1] >= 0x80
    if any(byte < 0x80 for byte in data[:-1]) or (goes_on and len(data) < _TABLE_NUMBER_BYTES_MAX):
        return None
    if goes_on or not 1 <= number <= TABLE_NUMBER_MAX or _encode_table_number(number) != data:  # which is the shortest
        raise InvalidId("Unable to decode ID: Invalid table number")
    return number


def _fletcher16(data: bytes) -> int:
    """The same two sums as Adler-32, which begins one of them with 1; of so few bytes neither reaches its modulus."""
    assert len(data) <= _BODY_MAX, data
    sums = adler32(data)
    return ((sums >> 16) - len(data) & 0xFF) << 8 | (sums - 1) & 0xFF


def _encode_base32(data: bytes) -> str:
    length = -(-len(data) * 8 // 5)
    number = int.from_bytes(data, "big") << (length * 5 - len(data) * 8)
    text = "".join([_PAIRS[number >> shift & 0x3FF] for shift in range((length - 1) // 2 * 10, -1, -10)])
    # Pairs are read from the end, so an odd length has one zero too many in front.
    return text[1:] if length % 2 else text
