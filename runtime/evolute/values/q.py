"""Filters as expressions, for those who port, and where a filter is put together from parts: `from evolute import q`.

    ctx.db.query("messages").filter(q.and_(q.eq(q.field("author.name"), "ada"), q.gt(q.field("likes"), 3)))

An expression is worked out for each row. Comparisons follow the order of all values, whatever their types are, as an
index does: 3 is never equal to Int64(3), and a field that a row does not have, UNSET, is less than everything.
Arithmetic is for two numbers or for two Int64, and logic for booleans; anything else raises InvalidQuery when a row is
met for which it cannot be done (semantics D9).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final, Generic, TypeAlias, TypeVar

from evolute.errors import InvalidQuery
from evolute.values.display import display
from evolute.values.field_path import value_at
from evolute.values.key_codec import encode_component
from evolute.values.value import INT64_MAX, INT64_MIN, UNDEFINED, CommitTs, Int64, Undefined, Unset, Value, not_a_value

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

Row: TypeAlias = Mapping[str, Value]


class Expression(Generic[T_co]):
    """What a filter works out for a row. Made by the functions of this module; it cannot be changed."""

    __slots__ = ("_text", "evaluate", "key")

    def __init__(self, text: str, evaluate: Callable[[Row], object], key: Callable[[Row], bytes] | None = None) -> None:
        self._text = text
        self.evaluate = evaluate
        """The value for a row; UNDEFINED for a field that it does not have. Raises InvalidQuery."""
        self.key = key if key is not None else lambda row: encode_component(evaluate(row))
        """The bytes that sort as that value does."""

    def passes(self, row: Row) -> bool:
        """Whether the row is one of those that are looked for. Raises InvalidQuery if that is no boolean."""
        return _boolean(self.evaluate(row))

    def __repr__(self) -> str:
        return self._text

    def __bool__(self) -> bool:
        raise InvalidQuery(
            f"{self} is an expression, which is neither true nor false before a row is seen: give it to `.filter(…)` "
            "as it is, and join several by q.and_, q.or_ and q.not_"
        )


Operand: TypeAlias = object
"""An expression, or a value, which stands for `literal(value)`."""

Condition: TypeAlias = Expression[bool] | bool
Numeric: TypeAlias = Expression[float] | float


def field(path: str) -> Expression[Any]:
    """The field of this name; a dotted path leads into objects. UNSET where there is none."""
    steps = _steps(path)
    return Expression(f"q.field({display(path)})", lambda row: value_at(row, steps))


def literal(value: T) -> Expression[T]:
    """This value, the same for every row; UNSET is what a field has that is not there. Raises InvalidValue."""
    if isinstance(value, Expression):
        raise InvalidQuery(f"{value} is an expression already")
    known: object = UNDEFINED if isinstance(value, Unset) else value
    key = encode_component(known)
    return Expression(_shown(known), lambda row: known, lambda row: key)


def eq(left: Operand, right: Operand) -> Expression[bool]:
    """left == right"""
    return _compared("eq", left, right, bytes.__eq__)


def neq(left: Operand, right: Operand) -> Expression[bool]:
    """left != right"""
    return _compared("neq", left, right, bytes.__ne__)


def lt(left: Operand, right: Operand) -> Expression[bool]:
    """left < right"""
    return _compared("lt", left, right, bytes.__lt__)


def lte(left: Operand, right: Operand) -> Expression[bool]:
    """left <= right"""
    return _compared("lte", left, right, bytes.__le__)


def gt(left: Operand, right: Operand) -> Expression[bool]:
    """left > right"""
    return _compared("gt", left, right, bytes.__gt__)


def gte(left: Operand, right: Operand) -> Expression[bool]:
    """left >= right"""
    return _compared("gte", left, right, bytes.__ge__)


def add(left: Numeric, right: Numeric) -> Expression[float]:
    """left + right"""
    return _computed("add", "add", left, right, lambda a, b: a + b, lambda a, b: a + b)


def sub(left: Numeric, right: Numeric) -> Expression[float]:
    """left - right"""
    return _computed("sub", "subtract", left, right, lambda a, b: a - b, lambda a, b: a - b)


def mul(left: Numeric, right: Numeric) -> Expression[float]:
    """left * right"""
    return _computed("mul", "multiply", left, right, lambda a, b: a * b, lambda a, b: a * b)


def div(left: Numeric, right: Numeric) -> Expression[float]:
    """left / right; of two Int64 the whole part. A number divided by zero is infinite, or NaN."""
    return _computed("div", "divide", left, right, _whole_quotient, _quotient)


def mod(left: Numeric, right: Numeric) -> Expression[float]:
    """The remainder of left / right, with the sign of left."""
    return _computed("mod", "mod", left, right, lambda a, b: a - b * _whole_quotient(a, b), _remainder)


def neg(value: Numeric) -> Expression[float]:
    """-value"""
    inner = _expression(value)

    def evaluate(row: Row) -> Value:
        found = inner.evaluate(row)
        if isinstance(found, Int64):
            if found == INT64_MIN:
                raise InvalidQuery(f"Cannot negate {found}: the result is out of range for Int64")
            return -found
        if not _is_number(found):
            raise InvalidQuery(f"Cannot negate {display(found)} (type {type_of(found)})")
        return -_float(found)

    return Expression(f"q.neg({inner})", evaluate)


def and_(*conditions: Condition) -> Expression[bool]:
    """Whether all are true. After the first that is not, the others are not looked at."""
    inner = [_expression(condition) for condition in conditions]
    return Expression(
        f"q.and_({', '.join(map(repr, inner))})", lambda row: all(_boolean(one.evaluate(row)) for one in inner)
    )


def or_(*conditions: Condition) -> Expression[bool]:
    """Whether any is true. After the first that is, the others are not looked at."""
    inner = [_expression(condition) for condition in conditions]
    return Expression(
        f"q.or_({', '.join(map(repr, inner))})", lambda row: any(_boolean(one.evaluate(row)) for one in inner)
    )


def not_(condition: Condition) -> Expression[bool]:
    """Whether it is false."""
    inner = _expression(condition)
    return Expression(f"q.not_({inner})", lambda row: not _boolean(inner.evaluate(row)))


# --- How it is worked out ---------------------------------------------------------------------------------------------


def _steps(path: object) -> tuple[str, ...]:
    if not isinstance(path, str) or not all(path.split(".")):
        raise InvalidQuery(f'q.field takes the name of a field, or names joined by points: "author.name"; got {path!r}')
    return tuple(path.split("."))


def _expression(operand: object) -> Expression[Any]:
    return operand if isinstance(operand, Expression) else literal(operand)


def _compared(name: str, left: object, right: object, holds: Callable[[bytes, bytes], bool]) -> Expression[bool]:
    one, other = _expression(left), _expression(right)
    key, other_key = one.key, other.key
    return Expression(f"q.{name}({one}, {other})", lambda row: holds(key(row), other_key(row)))


def _computed(
    name: str,
    verb: str,
    left: object,
    right: object,
    of_int64: Callable[[int, int], int],
    of_floats: Callable[[float, float], float],
) -> Expression[Any]:
    one, other = _expression(left), _expression(right)

    def evaluate(row: Row) -> Value:
        a, b = one.evaluate(row), other.evaluate(row)
        if isinstance(a, Int64) and isinstance(b, Int64):
            try:
                result = of_int64(int(a), int(b))
            except ZeroDivisionError:
                raise InvalidQuery(f"Cannot {verb} {a} by zero") from None
            if not INT64_MIN <= result <= INT64_MAX:
                raise InvalidQuery(f"Cannot {verb} {a} and {b}: the result is out of range for Int64")
            return Int64(result)
        if not (_is_number(a) and _is_number(b)):
            raise InvalidQuery(f"Cannot {verb} {display(a)} (type {type_of(a)}) and {display(b)} (type {type_of(b)})")
        return of_floats(_float(a), _float(b))

    return Expression(f"q.{name}({one}, {other})", evaluate)


def _whole_quotient(a: int, b: int) -> int:
    """Rounded towards zero."""
    return a // b if (a < 0) == (b < 0) else -(-a // b)


def _quotient(a: float, b: float) -> float:
    """As IEEE 754 has it, where Python raises."""
    if b:
        return a / b
    return math.copysign(math.inf, a) * math.copysign(1.0, b) if a and a == a else math.nan


def _remainder(a: float, b: float) -> float:
    return math.fmod(a, b) if b and math.isfinite(a) and b == b else math.nan


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, (bool, Int64))


def _float(value: object) -> float:
    assert isinstance(value, (int, float))
    return float(value)


def _boolean(value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise InvalidQuery(f"Cannot use value {display(value)} (type {type_of(value)}) as a Boolean")


_TYPES: Final = (
    (type(None), "Null"),
    (bool, "Boolean"),
    (Int64, "Int64"),
    ((int, float), "Float64"),
    (str, "String"),
    (bytes, "Bytes"),
    (list, "Array"),
    (dict, "Object"),
    (CommitTs, "Int64"),
    (Undefined, "undefined"),
)


def type_of(value: object) -> str:
    """The type of a value as Convex's messages name it."""
    name = next((name for kind, name in _TYPES if isinstance(value, kind)), None)
    assert name is not None, not_a_value(value)
    return name


def _shown(value: object) -> str:
    return "UNSET" if isinstance(value, Undefined) else display(value)
