"""Canonical wire JSON: the one spelling of a value as bytes. Documents at rest, arguments and results are this.

    null, boolean, string, array     as JSON
    object                           sorted keys; a key is printable ASCII and does not begin with `$`
    whole number within ±2^53        without a point: 3
    any other finite number          as the shortest float: 0.5, 1e+22
    NaN, ±Infinity, -0.0             {"$float": base64 of the 8 bytes, little endian}
    Int64                            {"$integer": base64 of the 8 bytes, little endian}
    bytes                            {"$bytes": base64}
    COMMIT_TS, at rest only          {"$commitTs":null}

Equal values are equal bytes, so that no-op writes, cache keys and unchanged results are decided on bytes. What a client
sends may spell a number either way (`3`, `3.0`); `decode` and `canonical` bring it to this form.
"""

from __future__ import annotations

import binascii
import functools
import struct
from base64 import b64encode
from collections.abc import Callable
from typing import Any, Final, cast

import orjson

from evolute.errors import InvalidValue
from evolute.limits import Limits
from evolute.values.value import COMMIT_TS, WHOLE_MAX, CommitTs, Int64, Value, not_a_value

COMMIT_TS_PLACEHOLDER: Final = b'{"$commitTs":null}'
"""Never occurs inside a string of canonical JSON, where its quotes would be escaped."""

_DEFAULTS: Final = Limits()
_NAME_CHARACTERS_MAX: Final = 1024
_pack_float: Final = struct.Struct("<d").pack
_unpack_float: Final = struct.Struct("<d").unpack

# Field names that were found good, each to its plain `str`. Bounded: names come from clients too.
_names: dict[str, str] = {}
_NAMES_MAX: Final = 4096


class _Fault(Exception):
    """What is wrong inside a value, and on the way up the steps that lead there, innermost first."""

    def __init__(self, text: str, setting: str = "") -> None:
        super().__init__(text)
        self.text = text
        self.setting = f". The setting is `{setting}`." if setting else ""
        self.steps: list[str] = []

    def message(self, where: str) -> str:
        return f"{self.text} at {where}{self.setting}" if where else self.text + self.setting

    def invalid_value(self) -> InvalidValue:
        return InvalidValue(self.message("".join(reversed(self.steps))))


class _NotAValue(_Fault):
    def __init__(self, thing: object) -> None:
        super().__init__("")
        self.thing = thing

    def message(self, where: str) -> str:
        return not_a_value(self.thing, where)


def encode(
    value: object, limits: Limits = _DEFAULTS, *, depth_max: int | None = None, depth_setting: str = "value_depth_max"
) -> bytes:
    """The canonical bytes of a Python value. `depth_max` comes from the `depth_setting`, which messages name.

    Raises InvalidValue, which names the path inside, for what is not a value, too deep or too large.
    """
    depth_max = limits.value_depth_max if depth_max is None else depth_max
    sizes_max = limits.array_items_max, limits.object_fields_max
    return _dumps(_walk(_Encoder, depth_max, *sizes_max, depth_setting).run(value))


def decode(data: bytes | str) -> Value:
    """The value of a client's JSON text. Raises InvalidValue."""
    try:
        tree = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise InvalidValue(f"Not JSON: {error}") from None
    return from_json(tree)


def from_json(tree: object, limits: Limits = _DEFAULTS) -> Value:
    """The value of a JSON tree as `orjson.loads` gives it. Raises InvalidValue naming the path inside the value."""
    return cast(Value, _walk(_Decoder, *_bounds(limits)).run(tree))


def canonical(tree: object, limits: Limits = _DEFAULTS) -> bytes:
    """The canonical bytes of the value of a client's JSON tree. Raises InvalidValue as `from_json` does."""
    return _dumps(_walk(_Canonicalizer, *_bounds(limits)).run(tree))


def decode_canonical(data: bytes) -> Value:
    """The value of bytes that `encode` or `canonical` made; they are trusted, not checked."""
    tree: Any = orjson.loads(data)
    return cast(Value, _unwrapped(tree, _value_of) if b'"$' in data else tree)


def clean(data: bytes) -> bytes:
    """Canonical bytes as the `json` format of the HTTP API: readable by any JSON library, and lossy."""
    return orjson.dumps(_unwrapped(orjson.loads(data), _clean_of)) if b'"$' in data else data


def with_points(data: bytes) -> bytes:
    """The same JSON with every whole number written as `3.0`, for clients that take a bare `3` for another type."""
    return orjson.dumps(_pointed(orjson.loads(data)))


def int64_json(number: int) -> bytes:
    """The canonical bytes of `Int64(number)`. Raises OverflowError outside 64 bits."""
    return b'{"$integer":"%b"}' % b64encode(number.to_bytes(8, "little", signed=True))


# --- One walk over a tree ---------------------------------------------------------------------------------------------


class _Walk:
    """Rebuilds a tree of lists and dicts, checking it. Subclasses say what becomes of a leaf and of a `$` wrapper."""

    def __init__(self, depth_max: int, items_max: int, fields_max: int, depth_setting: str) -> None:
        self._depth_max = depth_max
        self._items_max = items_max
        self._fields_max = fields_max
        self._depth_setting = depth_setting

    def run(self, tree: object) -> object:
        try:
            return self._object(tree, 1) if type(tree) is dict else self._node(tree, 0)
        except _Fault as fault:
            raise fault.invalid_value() from None

    def _node(self, node: object, depth: int) -> object:
        kind = type(node)
        if kind is str or node is None or kind is bool:
            return node
        if kind is dict:
            return self._object(node, depth + 1)  # type: ignore[arg-type]
        if kind is list:
            return self._array(node, depth + 1)  # type: ignore[arg-type]
        return self._leaf(node, depth)

    def _object(self, node: dict[Any, Any], depth: int) -> object:
        if depth > self._depth_max:
            raise self._too_deep(depth)
        if len(node) > self._fields_max:
            most = self._fields_max
            raise _Fault(f"Object has too many fields ({len(node)} > maximum number {most})", "object_fields_max")
        result: dict[str, object] = {}
        name: str | None = None
        try:
            for key, item in node.items():
                name = _names.get(key)
                if name is None:
                    name = _checked_name(key)
                kind = type(item)
                if kind is str or item is None or kind is bool or (kind is int and -WHOLE_MAX <= item <= WHOLE_MAX):
                    result[name] = item
                elif kind is float and -WHOLE_MAX < item < WHOLE_MAX and not item.is_integer():
                    result[name] = item  # neither special nor whole
                else:
                    result[name] = self._node(item, depth)
        except _Fault as fault:
            if name is not None:  # else the fault is the name itself
                fault.steps.append(f".{name}")
            raise
        return result

    def _array(self, node: list[object], depth: int) -> list[object]:
        if depth > self._depth_max:
            raise self._too_deep(depth)
        if len(node) > self._items_max:
            most = self._items_max
            raise _Fault(f"Array length is too long ({len(node)} > maximum length {most})", "array_items_max")
        result: list[object] = []
        try:
            for item in node:
                result.append(self._node(item, depth))
        except _Fault as fault:
            fault.steps.append(f"[{len(result)}]")
            raise
        return result

    def _too_deep(self, depth: int) -> _Fault:
        noun, most, setting = self._depth_setting.split("_")[0].capitalize(), self._depth_max, self._depth_setting
        return _Fault(f"{noun} is too nested (nested {depth} levels deep > maximum nesting {most})", setting)

    def _leaf(self, node: object, depth: int) -> object:
        raise _NotAValue(node)


class _Encoder(_Walk):
    """A Python value to a tree that orjson writes as canonical JSON."""

    def _leaf(self, node: object, depth: int) -> object:
        if isinstance(node, float):
            return _json_number(float(node))
        if isinstance(node, Int64):
            return {"$integer": b64encode(node.to_bytes(8, "little", signed=True)).decode()}
        if isinstance(node, int):
            if not -WHOLE_MAX <= node <= WHOLE_MAX:
                raise _NotAValue(node)
            return int(node)
        if isinstance(node, bytes):
            return {"$bytes": b64encode(node).decode()}
        if isinstance(node, str):
            return str.__str__(node)
        if isinstance(node, dict):
            return self._object(node, depth + 1)
        if isinstance(node, list):
            return self._array(node, depth + 1)
        if isinstance(node, CommitTs):
            return {"$commitTs": None}
        raise _NotAValue(node)


class _Decoder(_Walk):
    """A client's JSON tree to the Python value."""

    def _leaf(self, node: object, depth: int) -> object:
        # An integer beyond ±2^53 is a float64 like every bare JSON number.
        if isinstance(node, int) and -WHOLE_MAX <= node <= WHOLE_MAX:
            return node
        if isinstance(node, (int, float)):
            return _plain_number(float(node))
        raise _NotAValue(node)

    def _object(self, node: dict[Any, Any], depth: int) -> object:
        if len(node) == 1:
            ((name, content),) = node.items()
            if isinstance(name, str) and name.startswith("$"):
                return self._wrapped(name, content)
        return super()._object(node, depth)

    def _wrapped(self, name: str, content: object) -> object:
        return _checked_value_of(name, content)


class _Canonicalizer(_Decoder):
    """A client's JSON tree to the canonical one: `_Decoder` and `_Encoder` in one walk."""

    def _leaf(self, node: object, depth: int) -> object:
        if isinstance(node, float):
            return _json_number(node)
        return super()._leaf(node, depth)

    def _wrapped(self, name: str, content: object) -> object:
        _checked_value_of(name, content)
        return {name: content}


@functools.lru_cache(maxsize=64)
def _walk(kind: type[_Walk], depth_max: int, items_max: int, fields_max: int, depth_setting: str) -> _Walk:
    return kind(depth_max, items_max, fields_max, depth_setting)


def _bounds(limits: Limits) -> tuple[int, int, int, str]:
    return limits.value_depth_max, limits.array_items_max, limits.object_fields_max, "value_depth_max"


# --- Leaves -----------------------------------------------------------------------------------------------------------


def _is_special(number: float) -> bool:
    """NaN, ±Infinity and -0.0, which have no JSON number of their own."""
    return number - number != 0.0 or (number == 0.0 and _pack_float(number) != bytes(8))


def _plain_number(number: float) -> int | float:
    if -WHOLE_MAX <= number <= WHOLE_MAX and number.is_integer() and not _is_special(number):
        return int(number)
    return number


def _json_number(number: float) -> object:
    if _is_special(number):
        return {"$float": b64encode(_pack_float(number)).decode()}
    return _plain_number(number)


def _value_of(name: str, content: str | None) -> object:
    """The value of a wrapper whose content is known to be good."""
    if content is None:
        return COMMIT_TS
    data = binascii.a2b_base64(content)
    if name == "$bytes":
        return data
    if name == "$integer":
        return Int64(int.from_bytes(data, "little", signed=True))
    return cast(float, _unpack_float(data)[0])


def _checked_value_of(name: str, content: object) -> object:
    """The value of a client's wrapper. Raises _Fault."""
    if name not in ("$integer", "$float", "$bytes"):
        raise _Fault(_reserved_name(name))
    if not isinstance(content, str):
        raise _Fault(f"The content of `{name}` is not a string of base64")
    try:
        data = binascii.a2b_base64(content, strict_mode=True)
    except (binascii.Error, ValueError):
        raise _Fault(f"The content of `{name}` is not base64") from None
    if b64encode(data).decode() != content:  # spare bits that are not zero: a second spelling
        raise _Fault(f"The content of `{name}` is not base64")
    if name != "$bytes" and len(data) != 8:
        raise _Fault(f"The content of `{name}` has {len(data)} bytes instead of 8")
    value = _value_of(name, content)
    if isinstance(value, float) and not _is_special(value):
        raise _Fault(f"`$float` is for NaN, infinities and -0.0; write {value!r} as a plain number")
    return value


def _clean_of(name: str, content: str | None) -> object:
    value = _value_of(name, content)
    if isinstance(value, Int64):
        return str(value)
    if not isinstance(value, float):
        return content
    if value == 0.0:
        return value
    return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"


def _unwrapped(tree: Any, leaf: Callable[[str, str | None], object]) -> Any:
    """A canonical tree with each `$` wrapper replaced by `leaf(name, content)`, where it stands: nobody else has it."""
    if type(tree) is dict:
        if len(tree) == 1:
            ((name, content),) = tree.items()
            if name.startswith("$"):
                return leaf(name, content)
        for name, item in tree.items():
            if type(item) is dict or type(item) is list:
                tree[name] = _unwrapped(item, leaf)  # the names stay, so the walk goes on
    elif type(tree) is list:
        tree[:] = [_unwrapped(item, leaf) for item in tree]
    return tree


def _pointed(tree: object) -> object:
    if type(tree) is int:
        return float(tree)
    if type(tree) is dict:
        return {name: _pointed(item) for name, item in tree.items()}
    if type(tree) is list:
        return [_pointed(item) for item in tree]
    return tree


# --- Field names, and orjson at the edge ------------------------------------------------------------------------------


def _checked_name(name: object) -> str:
    """`name` as a plain str if it can be a field name. Raises _Fault."""
    if not isinstance(name, str):
        raise _Fault(f"Field name {name!r} is of type {type(name).__name__}; field names are strings")
    name = str.__str__(name)
    if name.startswith("$"):
        raise _Fault(_reserved_name(name))
    if len(name) > _NAME_CHARACTERS_MAX:
        raise _Fault(f"Field name is too long ({len(name)} > maximum length {_NAME_CHARACTERS_MAX})")
    if not (name.isascii() and name.isprintable()):
        raise _Fault(f"Field name {name!r} has other characters than printable ASCII")
    return _names.setdefault(name, name) if len(_names) < _NAMES_MAX and len(name) <= 64 else name


def _reserved_name(name: str) -> str:
    return f"Field name {name[:100]!r} starts with '$', which is reserved"


def _dumps(tree: object) -> bytes:
    try:
        return orjson.dumps(tree, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError:
        # The walk leaves strings to orjson, which refuses what UTF-8 cannot say.
        fault = _surrogate_fault(tree)
        if fault is None:
            raise
        raise fault.invalid_value() from None


def _surrogate_fault(tree: object) -> _Fault | None:
    if isinstance(tree, str):
        try:
            tree.encode()
        except UnicodeEncodeError as error:
            surrogate = tree[error.start]
            return _Fault(f"A string holds the lone surrogate {surrogate!r}, which is no Unicode character")
        return None
    pairs = enumerate(tree) if isinstance(tree, list) else tree.items() if isinstance(tree, dict) else ()
    for step, item in pairs:
        if fault := _surrogate_fault(item):
            fault.steps.append(f"[{step}]" if isinstance(step, int) else f".{step}")
            return fault
    return None
