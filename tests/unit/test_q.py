"""Filter expressions: what each works out, in the order of all values, and every text of what cannot be done (D9)."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolute import UNSET, Document, Int64, InvalidQuery, InvalidValue, MutationCtx, QueryCtx, mutation, q, query
from evolute.testing import FunctionFailed, LocalBackend
from evolute.values.key_codec import encode_component
from evolute.values.q import Expression
from evolute.values.value import COMMIT_TS, INT64_MAX, INT64_MIN, UNDEFINED
from tests.unit.value_strategies import values

ROW: dict[str, Any] = {
    "a": 3,
    "f": 0.5,
    "i": Int64(7),
    "zero": Int64(0),
    "yes": True,
    "no": False,
    "s": "text",
    "o": {"p": {"q": 1}, "list": [1]},
    "none": None,
    "b": b"",
}


def worked_out(expression: Expression[Any]) -> object:
    return expression.evaluate(ROW)


def refusal(expression: Expression[Any]) -> str:
    with pytest.raises(InvalidQuery) as error:
        expression.evaluate(ROW)
    return str(error.value)


COMPARISONS: list[tuple[Callable[[Any, Any], Expression[bool]], Callable[[bytes, bytes], bool]]] = [
    (q.eq, operator.eq),
    (q.neq, operator.ne),
    (q.lt, operator.lt),
    (q.lte, operator.le),
    (q.gt, operator.gt),
    (q.gte, operator.ge),
]


@given(left=values, right=values)
def test_comparisons_are_those_of_an_index_whatever_the_types(left: Any, right: Any) -> None:
    row = {"left": left, "right": right}
    for compare, holds in COMPARISONS:
        expected = holds(encode_component(left), encode_component(right))
        assert compare(q.field("left"), q.field("right")).evaluate(row) is expected
        assert compare(q.field("left"), right).passes(row) is expected
        assert compare(left, q.field("right")).passes(row) is expected


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        (q.eq(q.field("a"), 3.0), True),
        (q.eq(q.field("a"), Int64(3)), False),
        (q.eq(q.field("yes"), 1), False),
        (q.lt(Int64(10**18), -math.inf), True),
        (q.lt(-0.0, 0.0), True),
        (q.eq(math.nan, math.nan), True),
        (q.eq(q.field("o.p.q"), 1), True),
        (q.eq(q.field("o.p"), {"q": 1}), True),
        (q.eq(q.field("o.list.0"), UNSET), True),
        (q.eq(q.field("nowhere"), UNSET), True),
        (q.eq(q.field("a.b"), UNSET), True),
        (q.eq(q.field("none"), UNSET), False),
        (q.lt(q.field("nowhere"), None), True),
        (q.and_(), True),
        (q.or_(), False),
        (q.and_(q.field("yes"), True), True),
        (q.and_(q.field("yes"), q.field("no")), False),
        (q.or_(q.field("no"), q.field("yes")), True),
        (q.not_(q.field("no")), True),
        (q.and_(False, q.eq(q.neg("x"), 1)), False),  # type: ignore[arg-type]
        (q.or_(True, q.field("a")), True),
    ],
)
def test_logic(expression: Expression[bool], expected: bool) -> None:
    assert expression.passes(ROW) is expected


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        (q.add(q.field("a"), 0.5), 3.5),
        (q.add(q.field("i"), Int64(1)), Int64(8)),
        (q.sub(q.field("i"), Int64(8)), Int64(-1)),
        (q.sub(q.field("f"), 1), -0.5),
        (q.mul(q.field("f"), q.field("a")), 1.5),
        (q.mul(Int64(2), Int64(3)), Int64(6)),
        (q.div(1, 4), 0.25),
        (q.div(Int64(7), Int64(2)), Int64(3)),
        (q.div(Int64(-7), Int64(2)), Int64(-3)),
        (q.div(Int64(7), Int64(-2)), Int64(-3)),
        (q.div(Int64(-7), Int64(-2)), Int64(3)),
        (q.div(1, 0), math.inf),
        (q.div(-1, 0.0), -math.inf),
        (q.div(1, -0.0), -math.inf),
        (q.mod(7, 2), 1.0),
        (q.mod(-7, 2), -1.0),
        (q.mod(7.5, math.inf), 7.5),
        (q.mod(Int64(-7), Int64(2)), Int64(-1)),
        (q.mod(Int64(7), Int64(-2)), Int64(1)),
        (q.mod(Int64(INT64_MIN), Int64(-1)), Int64(0)),
        (q.neg(q.field("a")), -3.0),
        (q.neg(Int64(3)), Int64(-3)),
    ],
)
def test_arithmetic(expression: Expression[Any], expected: object) -> None:
    found = worked_out(expression)
    assert encode_component(found) == encode_component(expected)
    assert isinstance(found, Int64) == isinstance(expected, Int64)


@pytest.mark.parametrize(
    "expression",
    [q.div(0, 0), q.div(math.nan, 0), q.mod(1, 0), q.mod(math.inf, 2), q.mod(2, math.nan), q.sub(math.inf, math.inf)],
)
def test_what_is_no_number(expression: Expression[Any]) -> None:
    found = worked_out(expression)
    assert isinstance(found, float)
    assert math.isnan(found)


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        (q.add(q.field("a"), q.field("i")), "Cannot add 3.0 (type Float64) and 7 (type Int64)"),
        (q.sub(q.field("s"), 1), 'Cannot subtract "text" (type String) and 1.0 (type Float64)'),
        (q.mul(q.field("nowhere"), 1), "Cannot multiply undefined (type undefined) and 1.0 (type Float64)"),
        (q.div(q.field("none"), q.field("yes")), "Cannot divide null (type Null) and true (type Boolean)"),
        (q.mod(q.field("o.list"), q.field("o.p")), "Cannot mod [1.0] (type Array) and {q: 1.0} (type Object)"),
        (q.add(q.field("b"), 1), 'Cannot add b"" (type Bytes) and 1.0 (type Float64)'),
        (q.add(Int64(INT64_MAX), Int64(1)), f"Cannot add {INT64_MAX} and 1: the result is out of range for Int64"),
        (q.sub(Int64(INT64_MIN), Int64(1)), f"Cannot subtract {INT64_MIN} and 1: the result is out of range for Int64"),
        (q.mul(Int64(2**62), Int64(2)), f"Cannot multiply {2**62} and 2: the result is out of range for Int64"),
        (q.div(Int64(INT64_MIN), Int64(-1)), f"Cannot divide {INT64_MIN} and -1: the result is out of range for Int64"),
        (q.div(q.field("i"), q.field("zero")), "Cannot divide 7 by zero"),
        (q.mod(q.field("i"), q.field("zero")), "Cannot mod 7 by zero"),
        (q.neg(Int64(INT64_MIN)), f"Cannot negate {INT64_MIN}: the result is out of range for Int64"),
        (q.neg(q.field("s")), 'Cannot negate "text" (type String)'),
        (q.neg(q.field("yes")), "Cannot negate true (type Boolean)"),
        (q.not_(q.field("a")), "Cannot use value 3.0 (type Float64) as a Boolean"),
        (q.and_(True, q.field("nowhere")), "Cannot use value undefined (type undefined) as a Boolean"),
        (q.or_(q.field("none"), True), "Cannot use value null (type Null) as a Boolean"),
    ],
)
def test_what_cannot_be_worked_out(expression: Expression[Any], text: str) -> None:
    assert refusal(expression) == text


def test_a_filter_that_is_no_boolean() -> None:
    with pytest.raises(InvalidQuery, match=r"^Cannot use value 3\.0 \(type Float64\) as a Boolean$"):
        q.field("a").passes(ROW)


def test_a_timestamp_that_is_not_known_yet_is_no_number_to_filter_by() -> None:
    with pytest.raises(InvalidQuery, match=r"\(type Int64\) as a Boolean"):
        q.field("at").passes({"at": COMMIT_TS})  # type: ignore[dict-item]


wrong: Any = q  # what a type checker would not let pass


@pytest.mark.parametrize(
    ("write", "error", "text"),
    [
        (lambda: wrong.field(3), InvalidQuery, "q.field takes the name of a field, or names joined by points"),
        (lambda: wrong.field("a..b"), InvalidQuery, "q.field takes the name of a field, or names joined by points"),
        (lambda: wrong.field(""), InvalidQuery, "q.field takes the name of a field, or names joined by points"),
        (lambda: wrong.eq(q.field("a"), {1}), InvalidValue, "set is not a value; use a sorted list"),
        (lambda: wrong.eq(q.field("a"), 2**60), InvalidValue, "The int 1152921504606846976 is beyond ±2^53"),
        (lambda: wrong.literal([UNSET]), InvalidValue, "Unset is not a value"),
        (lambda: wrong.literal(q.field("a")), InvalidQuery, 'q.field("a") is an expression already'),
        (lambda: wrong.eq(q.field("a"), 1) and True, InvalidQuery, 'q.eq(q.field("a"), 1.0) is an expression, which'),
    ],
)
def test_a_mistake_is_told_where_it_is_written(write: Callable[[], object], error: type[Exception], text: str) -> None:
    with pytest.raises(error) as told:
        write()
    assert str(told.value).startswith(text)


def test_an_expression_shows_what_it_is() -> None:
    assert repr(q.or_(q.gt(q.field("a.b"), q.add(1, Int64(2))), q.not_(q.eq(UNSET, UNDEFINED)))) == (
        'q.or_(q.gt(q.field("a.b"), q.add(1.0, 2)), q.not_(q.eq(UNSET, UNSET)))'
    )


# --- In a query -------------------------------------------------------------------------------------------------------


class Thing(Document, total=False):
    n: Any


run: Callable[[Any], Any]


@mutation
def do(ctx: MutationCtx) -> Any:
    return run(ctx)


@query
def look(ctx: QueryCtx) -> Any:
    return run(ctx)


@pytest.fixture
def backend() -> Iterator[LocalBackend]:
    global run
    with LocalBackend(do, look) as backend:
        run = lambda ctx: [ctx.db.insert("things", {"n": n}) for n in range(10)]  # noqa: E731
        backend.mutation(do)
        yield backend


def asked(backend: LocalBackend, function: Callable[[Any], Any]) -> Any:
    global run
    run = function
    return backend.mutation(do)


def test_expressions_and_functions_filter_side_by_side(backend: LocalBackend) -> None:
    def found(ctx: QueryCtx) -> list[int]:
        things = ctx.db.query("things").filter(q.gte(q.field("n"), 3)).filter(lambda row: row["n"] % 2 == 0)
        return [row["n"] for row in things.filter(q.lt(q.field("n"), 8)).order("desc").take(2)]

    assert asked(backend, found) == [6, 4]


def test_the_runtimes_own_rows_are_filtered_as_they_are_shown(backend: LocalBackend) -> None:
    def found(ctx: MutationCtx) -> int:
        ctx.scheduler.run_after(5, do)
        jobs = ctx.db.system.query("_scheduled_functions")
        return len(jobs.filter(q.eq(q.field("state.kind"), "pending")).collect())

    assert asked(backend, found) == 1


def test_an_error_of_an_expression_can_be_caught(backend: LocalBackend) -> None:
    def caught(ctx: MutationCtx) -> str:
        ctx.db.insert("things", {"n": "text"})
        with pytest.raises(InvalidQuery, match="Cannot add"):
            ctx.db.query("things").filter(q.eq(q.add(q.field("n"), 1), 2)).collect()
        return "fine"

    assert asked(backend, caught) == "fine"


def test_a_function_that_gives_an_expression_is_told(backend: LocalBackend) -> None:
    with pytest.raises(FunctionFailed, match=r"give it to `\.filter\(…\)` as it is"):
        asked(backend, lambda ctx: ctx.db.query("things").filter(lambda row: q.eq(q.field("n"), 1)).collect())
    with pytest.raises(FunctionFailed, match="Expression is not a value"):
        asked(backend, lambda ctx: [q.field("n")])


@given(bound=st.integers(0, 10), conditions=st.integers(1, 4))
def test_an_expression_refuses_the_same_rows_as_its_function(bound: int, conditions: int) -> None:
    rows: list[dict[str, Any]] = [{"n": n} for n in range(10)]
    expression = q.and_(*(q.neq(q.mod(q.field("n"), divisor + 2), 0) for divisor in range(conditions)))
    kept = [row for row in rows if q.and_(q.lt(q.field("n"), bound), expression).passes(row)]
    assert kept == [
        row for row in rows if row["n"] < bound and all(row["n"] % (divisor + 2) for divisor in range(conditions))
    ]
