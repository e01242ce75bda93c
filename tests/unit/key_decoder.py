"""Index keys read back: written from the table of `values/key_codec.py`, to be the judge of what that writes."""

from __future__ import annotations

import struct

from evolute.values.value import UNDEFINED, WHOLE_MAX, Int64

_PLAIN = {0x01: UNDEFINED, 0x03: None, 0x0E: False, 0x0F: True}


def decode_key(data: bytes) -> list[object]:
    """The fields of a key. Bytes that are no key end in whatever error they lead to."""
    fields: list[object] = []
    position = 0
    while position < len(data):
        field, position = _component(data, position)
        fields.append(field)
    return fields


def _component(data: bytes, position: int) -> tuple[object, int]:
    """The component at `position`, and where the next one begins."""
    tag = data[position]
    position += 1
    match tag:
        case 0x10:
            content, position = _until_terminator(data, position)
            return content.decode(), position
        case 0x11:
            return _until_terminator(data, position)
        case 0x0D:
            return _number(data[position : position + 8]), position + 8
        case 0x12:
            return _array(data, position)
        case 0x15:
            return _object(data, position)
        case _ if 0x04 <= tag <= 0x0C:
            return _int64(tag, data, position)
    return _PLAIN[tag], position


def _number(data: bytes) -> int | float:
    positive = data[0] >= 0x80
    bits = int.from_bytes(data, "big") ^ (1 << 63 if positive else (1 << 64) - 1)
    number: float = struct.unpack(">d", bits.to_bytes(8, "big"))[0]
    whole = number.is_integer() and -WHOLE_MAX <= number <= WHOLE_MAX
    return int(number) if whole and str(number) != "-0.0" else number


def _until_terminator(data: bytes, position: int) -> tuple[bytes, int]:
    end = data.index(b"\0", position)
    while data[end + 1 : end + 2] == b"\xff":
        end = data.index(b"\0", end + 2)
    return data[position:end].replace(b"\0\xff", b"\0"), end + 1


def _int64(tag: int, data: bytes, position: int) -> tuple[Int64, int]:
    if tag == 0x08:
        return Int64(0), position
    length = 1 << (abs(tag - 0x08) - 1)
    number = int.from_bytes(data[position : position + length], "big")
    return Int64(number - (1 << 8 * length) if tag < 0x08 else number), position + length


def _array(data: bytes, position: int) -> tuple[list[object], int]:
    items: list[object] = []
    while data[position] != 0:
        item, position = _component(data, position)
        items.append(item)
    return items, position + 1


def _object(data: bytes, position: int) -> tuple[dict[str, object], int]:
    fields: dict[str, object] = {}
    while data[position] != 0:
        name, position = _component(data, position)
        assert isinstance(name, str), name
        fields[name], position = _component(data, position)
    return fields, position + 1
