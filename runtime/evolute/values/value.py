"""The value model: what may be an argument, a result or a field of a document.

    null  boolean  number  int64   string  bytes  array  object
    None  bool     int or  Int64   str     bytes  list   dict with str keys
                   float

A number is one type, float64. It is an `int` in Python if it is whole, within ±2^53 and not -0.0, else a `float`: by
value, never by who sent it. `Int64` is a type of its own and always explicit. Values are compared as encoded bytes,
never with `==`, to which True, 1 and Int64(1) are the same.
"""

from __future__ import annotations

import operator
from typing import Any, Final, Generic, Literal, TypeAlias, TypedDict, TypeVar

Value: TypeAlias = bool | int | float | str | bytes | list["Value"] | dict[str, "Value"] | None

WHOLE_MAX: Final = 2**53
"""The largest whole number that is sure to be exact as a float64; a Python int beyond it must be an `Int64`."""

INT64_MIN: Final = -(2**63)
INT64_MAX: Final = 2**63 - 1

D_co = TypeVar("D_co", covariant=True)


class Int64(int):
    """A 64-bit integer. Raises OverflowError outside -2^63 … 2^63-1, also from its own arithmetic, which stays Int64.

    Mixed with a float it computes as an int does.
    """

    __slots__ = ()

    def __new__(cls, value: int = 0) -> Int64:
        number = operator.index(value)
        if not INT64_MIN <= number <= INT64_MAX:
            raise OverflowError(f"{number} does not fit into 64 bits; an Int64 is between -2^63 and 2^63-1")
        return super().__new__(cls, number)

    def __repr__(self) -> str:
        return f"Int64({int(self)})"

    def __str__(self) -> str:
        return int.__repr__(self)

    def __add__(self, other: int) -> Int64:
        return _int64(int.__add__(self, other))

    def __radd__(self, other: int) -> Int64:
        return _int64(int.__radd__(self, other))

    def __sub__(self, other: int) -> Int64:
        return _int64(int.__sub__(self, other))

    def __rsub__(self, other: int) -> Int64:
        return _int64(int.__rsub__(self, other))

    def __mul__(self, other: int) -> Int64:
        return _int64(int.__mul__(self, other))

    def __rmul__(self, other: int) -> Int64:
        return _int64(int.__rmul__(self, other))

    def __floordiv__(self, other: int) -> Int64:
        return _int64(int.__floordiv__(self, other))

    def __rfloordiv__(self, other: int) -> Int64:
        return _int64(int.__rfloordiv__(self, other))

    def __mod__(self, other: int) -> Int64:
        return _int64(int.__mod__(self, other))

    def __rmod__(self, other: int) -> Int64:
        return _int64(int.__rmod__(self, other))

    def __neg__(self) -> Int64:
        return Int64(int.__neg__(self))

    def __pos__(self) -> Int64:
        return self

    def __abs__(self) -> Int64:
        return Int64(int.__abs__(self))

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> dict[str, Any]:
        """Which lets a pydantic model have such a field."""
        return {"type": "is-instance", "cls": cls}


def _int64(result: Any) -> Int64:
    if result is not NotImplemented:
        return Int64(result)
    not_implemented: Int64 = result  # Python then asks the other operand, a float
    return not_implemented


class _Sentinel:
    """One object of its class, which stays itself through copies and pickles."""

    __slots__ = ()
    name: str

    def __repr__(self) -> str:
        return self.name

    def __bool__(self) -> bool:
        return False

    def __reduce__(self) -> str:
        return self.name


class Undefined(_Sentinel):
    """A field that a document does not have. Sorts before everything, is never stored and is not a value."""

    __slots__ = ()
    name = "UNDEFINED"


class Unset(_Sentinel):
    """Given for a field to `patch`: remove this field."""

    __slots__ = ()
    name = "UNSET"


class CommitTs(_Sentinel):
    """Stands in a stored field for the timestamp of the commit that will write it, an Int64 in nanoseconds.

    Until then it reads as itself. It can be in no index, and be given to nobody.
    """

    __slots__ = ()
    name = "COMMIT_TS"


UNDEFINED: Final = Undefined()
UNSET: Final = Unset()
COMMIT_TS: Final = CommitTs()


class Id(str, Generic[D_co]):
    """An id of a document: `Id[Row]` or `Id["table"]` as an annotation. Ids that functions receive are plain `str`."""

    __slots__ = ()

    def __class_getitem__(cls, row: Any) -> Any:
        # A bare string would be taken for a forward reference to a class.
        return super().__class_getitem__(Literal[row] if isinstance(row, str) else row)  # type: ignore[misc]

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> dict[str, str]:
        """Which lets a pydantic model have such a field."""
        return {"type": "str"}


class Document(TypedDict):
    """The two fields that every stored document has; row types that extend it tell them to type checkers."""

    _id: Id[Any]
    _creationTime: float


SYSTEM_FIELDS: Final = frozenset({"_id", "_creationTime"})

_INSTEAD: Final = {
    "tuple": "use a list",
    "set": "use a sorted list",
    "frozenset": "use a sorted list",
    "Expression": "it is made for .filter(…)",
    "datetime": "use .timestamp() * 1000 or .isoformat()",
    "date": "use .isoformat()",
    "time": "use .isoformat()",
    "timedelta": "use .total_seconds()",
    "Decimal": "use a float or str",
    "Fraction": "use a float or str",
    "UUID": "use str(…)",
    "bytearray": "use bytes(…)",
    "memoryview": "use bytes(…)",
    "complex": "use a list of two floats",
    "generator": "use list(…)",
    "coroutine": "it was not awaited",
    "Undefined": "leave the field out",
    "Unset": "it has a meaning only as a field given to patch",
    "CommitTs": "it has a meaning only in a field that is stored and that no index covers, until the commit is made",
    "Query": "end it with .collect(), .take(n), .first() or .unique()",
    "ContextQuery": "end it with .collect(), .take(n), .first() or .unique()",
    "PaginationOptions": 'annotate the parameter with it, or send {"numItems": 10, "cursor": None}',
    "PaginationResult": "return it by itself, or annotate the field with PaginationResult",
}


def type_name(value: object) -> str:
    """The type of `value` as a message names it."""
    return "None" if value is None else type(value).__name__


def _instead_of(value: object) -> str:
    instead = next((_INSTEAD[base.__name__] for base in type(value).__mro__ if base.__name__ in _INSTEAD), None)
    return instead or "values are None, bool, int, float, Int64, str, bytes, list and dict"


def not_a_value(value: object, where: str = "") -> str:
    """The message for something that is not a value; `where` is a path inside a value, or empty."""
    place = f" at {where}" if where else ""
    if isinstance(value, int):
        if not INT64_MIN <= value <= INT64_MAX:
            return f"An int{place} does not fit into 64 bits; use a float or a str"
        return f"The int {value}{place} is beyond ±2^53, where numbers are not exact; use Int64({value})"
    return f"{type_name(value)} is not a value{place}; {_instead_of(value)}"


def size_of(value: object) -> int:
    """The size of a value in bytes, as the limits count it (semantics D3).

    Raises TypeError for what is not a value.
    """
    if isinstance(value, str):
        return len(value) + 2 if value.isascii() else len(value.encode()) + 2
    if value is None or isinstance(value, bool):
        return 1
    if isinstance(value, (int, float, CommitTs)):
        return 9
    if isinstance(value, dict):
        size = 2
        for name, item in value.items():
            kind = type(item)
            size += len(name) + 1 + (9 if kind is int or kind is float else size_of(item))
        return size
    if isinstance(value, list):
        return 2 + sum(map(size_of, value))
    if isinstance(value, bytes):
        return len(value) + 2
    raise TypeError(not_a_value(value))
