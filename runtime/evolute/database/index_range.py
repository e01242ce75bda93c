"""Which part of an index a query reads: equal leading fields, then bounds on the next one (semantics D7).

    index by_author_at (author, at)  +  _creationTime, which ends every index

    with_index("by_author_at", author=a, at=Range(gte=10, lt=20))
    with_index("by_author_at", lambda q: q.eq("author", a).gte("at", 10).lt("at", 20))

Both make the same comparisons, which become an interval of the index's keys. The order in which they
are given is free. Bounds are values of any type: without an upper one a range goes on into the types that sort higher,
and without a lower one it begins with the documents that lack the field. These are found by `field=UNSET`; in a `Range`
UNSET is a bound that is not given.
"""

from __future__ import annotations

import keyword
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, TypeAlias

from evolute.database.catalog import IndexEntry
from evolute.errors import InvalidQuery
from evolute.values.key_codec import encode_component
from evolute.values.value import UNDEFINED, UNSET
from evolute.values.wire_codec import encode

Operator: TypeAlias = Literal["eq", "gt", "gte", "lt", "lte"]

_SYMBOLS: Final[Mapping[Operator, str]] = {"eq": "==", "gt": ">", "gte": ">=", "lt": "<", "lte": "<="}


class Comparison(NamedTuple):
    """One condition on one field of the index."""

    operator: Operator
    field: str
    value: object


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """Bounds on one field, for `with_index`. `Range(gte=10, lt=20)` is 10 <= field < 20; None is the value null."""

    gt: object = UNSET
    gte: object = UNSET
    lt: object = UNSET
    lte: object = UNSET

    def comparisons(self, field: str) -> list[Comparison]:
        bounds: list[tuple[Operator, object]] = [
            ("gt", self.gt),
            ("gte", self.gte),
            ("lt", self.lt),
            ("lte", self.lte),
        ]
        return [Comparison(operator, field, value) for operator, value in bounds if value is not UNSET]


class IndexRangeBuilder:
    """The `q` of `with_index(name, lambda q: q.eq("field", value).gt("next", bound))`.

    Each call gives the next builder and uses this one up. Raises InvalidQuery when a used one is used again.
    """

    __slots__ = ("_comparisons", "_used")

    def __init__(self, comparisons: tuple[Comparison, ...] = ()) -> None:
        self._comparisons = comparisons
        self._used = False

    def eq(self, field: str, value: object, /) -> IndexRangeBuilder:
        return self._and("eq", field, value)

    def gt(self, field: str, value: object, /) -> IndexRangeBuilder:
        return self._and("gt", field, value)

    def gte(self, field: str, value: object, /) -> IndexRangeBuilder:
        return self._and("gte", field, value)

    def lt(self, field: str, value: object, /) -> IndexRangeBuilder:
        return self._and("lt", field, value)

    def lte(self, field: str, value: object, /) -> IndexRangeBuilder:
        return self._and("lte", field, value)

    def comparisons(self) -> tuple[Comparison, ...]:
        """Everything that was chained. Uses the builder up."""
        self._use()
        return self._comparisons

    def _and(self, operator: Operator, field: str, value: object) -> IndexRangeBuilder:
        self._use()
        if not isinstance(field, str):
            raise InvalidQuery(f"`{operator}` compares a field, named by a string, with a value; got {field!r}")
        return IndexRangeBuilder((*self._comparisons, Comparison(operator, field, value)))

    def _use(self) -> None:
        if self._used:
            raise InvalidQuery(
                "IndexRangeBuilder has already been used! Chain your method calls like `lambda q: q.eq(...).eq(...)`."
            )
        self._used = True


RangeFunction: TypeAlias = Callable[[IndexRangeBuilder], IndexRangeBuilder]


class Comparisons:
    """The comparisons of one `with_index`, as they were given; what a keyword names is settled by the index."""

    __slots__ = ("_given", "_keywords")

    def __init__(self, fn: RangeFunction | None, keywords: Mapping[str, object]) -> None:
        """Raises InvalidQuery."""
        self._keywords = dict(keywords)
        self._given: tuple[Comparison, ...] = ()
        if fn is None:
            return
        if keywords:
            raise InvalidQuery("`with_index` takes a function or keywords for the range, not both")
        if not callable(fn):
            raise InvalidQuery(f"The range of `with_index` is a function of a builder, or keywords; got {fn!r}")
        built = fn(IndexRangeBuilder())
        if not isinstance(built, IndexRangeBuilder):
            raise InvalidQuery(f"The function of `with_index` must return the builder that it was given, got {built!r}")
        self._given = built.comparisons()

    def interval(self, table: str, index: IndexEntry) -> tuple[bytes, bytes]:
        """The interval (start, end) of the index's keys; empty, with end <= start, for bounds that contradict.

        Raises InvalidQuery for comparisons that are not one interval of this index, InvalidValue for a bound that is
        no value.
        """
        keywords = self._keywords
        if not self._given and tuple(keywords) == index.key_fields[: len(keywords)]:
            for value in keywords.values():
                if isinstance(value, Range):
                    break
            else:
                return index.range_of(keywords.values())  # equal fields in its order: nothing to sort or to refuse
        return _key_range(f"{table}.{index.name}", index, self._on(index))

    def _on(self, index: IndexEntry) -> list[Comparison]:
        """`from_` means the field `from`, unless the index has a field `from_`."""
        comparisons = list(self._given)
        for name, value in self._keywords.items():
            field = name
            if name.endswith("_") and keyword.iskeyword(name[:-1]) and name not in index.key_fields:
                field = name[:-1]
            if isinstance(value, Range):
                comparisons += value.comparisons(field)
            else:
                comparisons.append(Comparison("eq", field, value))
        return comparisons


class _Conditions(NamedTuple):
    """Comparisons sorted by what they are; bounds are all on `bound_field`."""

    equal: dict[str, object]
    bound_field: str | None
    lower: Comparison | None
    upper: Comparison | None


def _key_range(name: str, index: IndexEntry, comparisons: Sequence[Comparison]) -> tuple[bytes, bytes]:
    equal, bound_field, lower, upper = _sorted_conditions(name, comparisons)
    used = _in_index_order(name, index.key_fields, equal, bound_field)
    prefix, end = index.range_of([equal[field] for field in used if field != bound_field])
    start = prefix
    if lower is not None:
        start = prefix + encode_component(lower.value)
        if lower.operator == "gt":
            start = index.after(start, len(used))
    if upper is not None:
        end = prefix + encode_component(upper.value)
        if upper.operator == "lte":
            end = index.after(end, len(used))
    return start, end


def _sorted_conditions(name: str, comparisons: Sequence[Comparison]) -> _Conditions:
    equal: dict[str, object] = {}
    bound_field: str | None = None
    lower: Comparison | None = None
    upper: Comparison | None = None
    for comparison in comparisons:
        operator, field, value = comparison
        if operator == "eq":
            if field in equal:
                raise _already_defined("equality", comparison)
            if field == bound_field:
                raise _already_defined("inequality", comparison)
            equal[field] = value
            continue
        is_lower = operator in ("gt", "gte")
        if (lower if is_lower else upper) is not None:
            raise _already_defined("lower" if is_lower else "upper", comparison)
        if field in equal:
            raise _already_defined("equality", comparison)
        if bound_field is not None and bound_field != field:
            raise InvalidQuery(
                f"Upper and lower bounds in `range` can only be applied to a single index field. This query against "
                f'index {name} attempted to set a range bound on both "{bound_field}" and "{field}". '
                f"Consider using `filter` instead."
            )
        bound_field = field
        if is_lower:
            lower = comparison
        else:
            upper = comparison
    return _Conditions(equal, bound_field, lower, upper)


def _in_index_order(
    name: str, fields: tuple[str, ...], equal: Mapping[str, object], bound_field: str | None
) -> list[str]:
    """The fields compared, as the index has them. Raises InvalidQuery unless they are its first ones."""
    compared = [*equal, bound_field] if bound_field is not None else list(equal)
    for field in compared:
        if field not in fields:
            raise InvalidQuery(
                f'The index range included a comparison with "{field}", but {name} with fields {_listed(fields)} '
                f"doesn't index this field."
            )
    used = sorted(equal, key=fields.index)
    if bound_field is not None:
        used.append(bound_field)
    for field, expected in zip(used, fields, strict=False):
        if field != expected:
            raise InvalidQuery(
                f"Tried to query index {name} but the query didn't use the index fields in order.\n"
                f"Index fields: {_listed(fields)}\nQuery fields: {_listed(used)}\n"
                f'First incorrect field: "{field}"\n'
                f"An index is read by its first fields: equal ones, then bounds on the next."
            )
    return used


def _already_defined(kind: str, comparison: Comparison) -> InvalidQuery:
    value = "undefined" if comparison.value in (UNDEFINED, UNSET) else encode(comparison.value).decode()
    symbol = _SYMBOLS[comparison.operator]
    return InvalidQuery(
        f'Already defined {kind} bound in index range. Can\'t add "{comparison.field}" {symbol} {value}.'
    )


def _listed(fields: Sequence[str]) -> str:
    return "[" + ", ".join(f'"{field}"' for field in fields) + "]"
