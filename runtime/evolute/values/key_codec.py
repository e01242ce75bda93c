"""Index keys: values as bytes that sort as the values do.

    undefined   01
    null        03
    int64       04 05 06 07   negative, in 8, 4, 2, 1 bytes: two's complement, big endian
                08            zero
                09 0a 0b 0c   positive, in 1, 2, 4, 8 bytes
    number      0d            8 bytes, big endian; negative: all bits flipped, else: the sign bit flipped
    false true  0e 0f
    string      10            UTF-8, 00 as 00 ff; then 00
    bytes       11            the bytes, 00 as 00 ff; then 00
    array       12            its items; then 00
    object      15            per field, by name: the name as a string, the value; then 00

Every component tells where it ends and starts with a byte between 01 and 15, so the keys that begin with some fields
lie in [prefix, prefix + ff). Beyond that lie longer strings: 10 00 is "" and 10 00 ff 00 is a string of one NUL. Hence
an index key ends with `_creationTime`, a number, before the internal id follows, which may begin with ff.

Numbers sort as IEEE 754 orders bits: -NaN, -Infinity, …, -0.0, 0, …, Infinity, NaN. Changing a row of this table is a
new version of the store's format.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final

from evolute.errors import InvalidValue
from evolute.values.value import UNDEFINED, WHOLE_MAX, Int64, Undefined, Unset, not_a_value

_INT64_ZERO: Final = 0x08
_NUMBER: Final = 0x0D

_SIGN: Final = 1 << 63
_ALL: Final = (1 << 64) - 1

_pack_float: Final = struct.Struct(">d").pack
_unpack_bits: Final = struct.Struct(">Q").unpack
_pack_number: Final = struct.Struct(">BQ").pack
_pack_positive: Final = struct.Struct(">Bd").pack


def encode_component(value: object) -> bytes:
    """The bytes of one field of an index key; UNDEFINED, or UNSET, for a field that the document does not have.

    Raises InvalidValue for what is not a value.
    """
    kind = type(value)
    if kind is str:
        return _string(value)  # type: ignore[arg-type]
    if kind is int:
        if not -WHOLE_MAX <= value <= WHOLE_MAX:  # type: ignore[operator]
            raise InvalidValue(not_a_value(value))
        return _number(value)  # type: ignore[arg-type]
    if kind is float:
        return _number(value)  # type: ignore[arg-type]
    if value is UNDEFINED:
        return b"\x01"
    if kind is Int64:
        return _int64(int(value))  # type: ignore[call-overload]
    if value is None:
        return b"\x03"
    if kind is bool:
        return b"\x0f" if value else b"\x0e"
    return _rare(value)


def encode_key(values: Iterable[object]) -> bytes:
    """The bytes of a tuple of fields. Tuples sort as their keys; a shorter one sorts before what it is a prefix of."""
    return b"".join(map(encode_component, values))


def _number(value: float) -> bytes:
    if value > 0:
        return _pack_positive(_NUMBER, -value)  # the same bits with the sign's bit set
    bits: int = _unpack_bits(_pack_float(value))[0]
    return _pack_number(_NUMBER, bits ^ (_ALL if bits & _SIGN else _SIGN))


def _string(value: str) -> bytes:
    try:
        data = value.encode()
    except UnicodeEncodeError as error:
        surrogate = value[error.start]
        raise InvalidValue(f"A string holds the lone surrogate {surrogate!r}, which is no Unicode character") from None
    if b"\0" in data:
        data = data.replace(b"\0", b"\0\xff")
    return b"\x10" + data + b"\0"


def _rare(value: object) -> bytes:
    if isinstance(value, (Undefined, Unset)):
        return b"\x01"
    if isinstance(value, Int64):
        return _int64(int(value))
    if isinstance(value, bytes):
        return b"\x11%b\0" % value.replace(b"\0", b"\0\xff")
    try:
        if isinstance(value, list):
            return b"\x12%b\0" % b"".join(map(_item, value))
        if isinstance(value, dict):
            fields = sorted(value.items())
            return b"\x15%b\0" % b"".join(_string(name) + _item(item) for name, item in fields)
    except RecursionError:
        raise InvalidValue("Value is too nested for an index key") from None
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, int):
        return encode_component(int(value))
    if isinstance(value, float):
        return _number(value)
    raise InvalidValue(not_a_value(value))


def _item(value: object) -> bytes:
    if isinstance(value, (Undefined, Unset)):
        raise InvalidValue(not_a_value(value))
    return encode_component(value)


def _int64(value: int) -> bytes:
    if value == 0:
        return b"\x08"
    magnitude = value if value > 0 else -value - 1
    step = 0 if magnitude <= 0xFF else 1 if magnitude <= 0xFFFF else 2 if magnitude <= 0xFFFFFFFF else 3
    length = 1 << step
    tag = _INT64_ZERO + 1 + step if value > 0 else _INT64_ZERO - 1 - step
    return bytes((tag,)) + (value & ((1 << 8 * length) - 1)).to_bytes(length, "big")
