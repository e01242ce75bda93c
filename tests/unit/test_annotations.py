"""Type hints become validators; what is not understood is named. Postponed annotations are at work in this file."""

from __future__ import annotations

import dataclasses
import datetime
import inspect
import typing
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal, NotRequired, Optional, Required, TypedDict, TypeVar, Union

import pytest

from evolute.errors import DefinitionError, ValidationFailed
from evolute.values import containers as c
from evolute.values import validators as v
from evolute.values.annotations import row_validator, signature_hints, validator_for
from evolute.values.value import Document, Id, Int64
from tests.unit.test_validators import TABLES, USER

T = TypeVar("T")
WHOLE = v.Number(whole=True)
FLOAT = v.Number(as_float=True)


class User(Document):
    name: str


class Post(Document):
    author: Id[User]
    title: str
    note: NotRequired[str | None]
    score: NotRequired[Annotated[float, "stars"]]


class Draft(TypedDict, total=False):
    title: Required[str]
    body: str


class LongDraft(Draft):
    pages: int


@dataclasses.dataclass
class Point:
    x: float
    y: float = 0.0
    tags: list[str] = dataclasses.field(default_factory=list)
    hidden: int = dataclasses.field(default=0, init=False)


class Tree(TypedDict):
    children: list[Tree]


class Underscored(Document):
    _secret: str


class Holder(TypedDict):
    when: datetime.datetime


class Foreign(TypedDict):
    größe: int


class Rows:
    """Row types and their tables."""

    names: ClassVar[dict[type, str]] = {User: "users", Post: "posts", Point: "points"}

    def name_of(self, row: type) -> str | None:
        return self.names.get(row)


ROWS = Rows()
DRAFT_FIELDS = {"title": c.Field(v.String()), "body": c.Field(v.String(), optional=True)}
USER_FIELDS = {
    "_id": c.Field(v.IdOf("users")),
    "_creationTime": c.Field(FLOAT),
    "name": c.Field(v.String()),
}
TABLE_BY_NAME: object = Id["anything"]  # type: ignore[name-defined]


@pytest.mark.parametrize(
    ("hint", "validator"),
    [
        (None, v.Null()),
        (type(None), v.Null()),
        (bool, v.Boolean()),
        (int, WHOLE),
        (float, FLOAT),
        (str, v.String()),
        (bytes, v.Bytes()),
        (Int64, v.Int64Number()),
        (Any, v.AnyValue()),
        (object, v.AnyValue()),
        (inspect.Parameter.empty, v.AnyValue()),
        (list, c.ArrayOf(v.AnyValue())),
        (dict, c.RecordOf(v.String(), v.AnyValue())),
        (typing.List, c.ArrayOf(v.AnyValue())),  # noqa: UP006
        (typing.Dict, c.RecordOf(v.String(), v.AnyValue())),  # noqa: UP006
        (list[int], c.ArrayOf(WHOLE)),
        (dict[str, list[str]], c.RecordOf(v.String(), c.ArrayOf(v.String()))),
        (dict[Id[User], int], c.RecordOf(v.IdOf("users"), WHOLE)),
        (str | None, c.UnionOf((v.String(), v.Null()))),
        (Optional[str], c.UnionOf((v.String(), v.Null()))),  # noqa: UP045
        (Union[int, str, None], c.UnionOf((WHOLE, v.String(), v.Null()))),  # noqa: UP007
        (Literal["a"], v.Literal("a")),
        (Literal["a", 1, True, None], c.UnionOf((v.Literal("a"), v.Literal(1), v.Literal(True), v.Null()))),
        (Literal["a"] | Literal["b"] | None, c.UnionOf((v.Literal("a"), v.Literal("b"), v.Null()))),
        (Annotated[int, "doc"], WHOLE),
        (Id, v.IdOf(None)),
        (Id[Any], v.IdOf(None)),
        (Id[User], v.IdOf("users")),
        (TABLE_BY_NAME, v.IdOf("anything")),
        (Id[User] | None, c.UnionOf((v.IdOf("users"), v.Null()))),
        (User, c.ObjectOf(USER_FIELDS, User)),
        (Draft, c.ObjectOf(DRAFT_FIELDS, Draft)),
        (LongDraft, c.ObjectOf(DRAFT_FIELDS | {"pages": c.Field(WHOLE)}, LongDraft)),
    ],
)
def test_what_is_understood(hint: object, validator: v.Validator) -> None:
    assert validator_for(hint, ROWS) == validator
    assert validator_for(hint, ROWS).describe() == validator.describe()


def test_a_document_without_a_table_has_ids_of_any() -> None:
    class Loose(Document):
        name: str

    found = validator_for(Loose, ROWS)
    assert isinstance(found, c.ObjectOf)
    assert found.fields["_id"] == c.Field(v.IdOf(None))


def test_required_fields_of_a_row() -> None:
    found = validator_for(Post, ROWS)
    assert found.describe() == (
        'v.object({_creationTime: v.float64(), _id: v.id("posts"), author: v.id("users"), '
        "note: v.optional(v.union(v.string(), v.null())), score: v.optional(v.float64()), title: v.string()})"
    )


def test_row_validator_leaves_the_system_fields_out() -> None:
    assert row_validator(User, ROWS) == c.ObjectOf({"name": c.Field(v.String())}, User)
    assert list(row_validator(Point, ROWS).fields) == ["tags", "x", "y"]


def test_a_dataclass() -> None:
    class NoTables:
        def name_of(self, row: type) -> str | None:
            return None

    found = validator_for(Point, NoTables())
    assert isinstance(found, c.ObjectOf)
    assert {name: field.optional for name, field in found.fields.items()} == {"x": False, "y": True, "tags": True}
    assert found.parse({"x": 1}, TABLES) == Point(1.0)
    document = validator_for(Point, ROWS)
    assert isinstance(document, c.ObjectOf)
    assert document.fields["_id"] == c.Field(v.IdOf("points"))


def test_a_dataclass_document_is_built_from_its_own_fields() -> None:
    class Users(Rows):
        names: ClassVar[dict[type, str]] = {Point: "users"}

    document = validator_for(Point, Users())
    assert document.parse({"_id": USER, "_creationTime": 1.5, "x": 2}, TABLES) == Point(2.0)


@pytest.mark.parametrize(
    ("hint", "text"),
    [
        (tuple[int, int], "the annotation tuple[int, int] is not understood; use None, bool"),
        (set[str], "the annotation set[str] is not understood"),
        (datetime.datetime, "the annotation datetime is not understood"),
        (Callable[[], int], "is not understood"),
        (T, "the annotation ~T is not understood"),
        (complex, "the annotation complex is not understood"),
        (list[set[int]], "the annotation set[int] is not understood"),
        ("Message", "the annotation Message is not understood"),
        ([], "the annotation [] is not understood"),
        (dict[int, str], "a dict with keys of int is not understood; keys are str or Id"),
        (dict[Literal["a"], str], "is not understood; keys are str or Id"),
        (Literal[b"a"], "b'a' is not None, a str, an int or a bool"),
        (Id[Draft], "Id[Draft] names no table: Draft is not a row type of the schema"),
        (Id[T], "Id[~T] names no table"),  # type: ignore[valid-type]
        (Tree, "field `children` of Tree: Tree refers to itself"),
        (Holder, "field `when` of Holder: the annotation datetime is not understood"),
        (Foreign, "field `größe` of Foreign: a field name is printable ASCII"),
    ],
)
def test_what_is_not_understood(hint: object, text: str) -> None:
    with pytest.raises(DefinitionError) as error:
        validator_for(hint, ROWS)
    assert text in str(error.value)


@pytest.mark.parametrize(
    ("row", "text"),
    [
        (dict, "dict is not understood as a row type; use a TypedDict or a dataclass"),
        (Underscored, "field `_secret` of Underscored: Field '_secret' starts with an underscore"),
    ],
)
def test_bad_row_types(row: type, text: str) -> None:
    with pytest.raises(DefinitionError) as error:
        row_validator(row, ROWS)
    assert text in str(error.value)


def test_signature_hints_resolve_postponed_annotations() -> None:
    def send(ctx: object, author: Id[User], times: int = 1, extra=None) -> list[Post]:  # type: ignore[no-untyped-def]
        return []

    assert signature_hints(send) == {"ctx": object, "author": Id[User], "times": int, "return": list[Post]}


def test_a_local_class_under_postponed_annotations() -> None:
    class Local(TypedDict):
        name: str

    def send(ctx: object, message: Local) -> None: ...

    def receive(ctx: object, message: str) -> list[Local]:
        return []

    with pytest.raises(DefinitionError) as error:
        signature_hints(send)
    text = str(error.value)
    assert text.startswith("test_a_local_class_under_postponed_annotations.<locals>.send, parameter `message`: ")
    assert "'Local' is not defined at module level" in text
    assert "move the class to module level" in text
    with pytest.raises(DefinitionError, match="receive, return annotation: "):
        signature_hints(receive)


def test_a_local_class_inside_a_row_type() -> None:
    class Inner(TypedDict):
        name: str

    class Outer(TypedDict):
        inner: Inner

    with pytest.raises(
        DefinitionError, match=r"inside .*Outer is not understood: 'Inner'.*move the class to module level"
    ):
        validator_for(Outer, ROWS)


def test_an_annotation_that_cannot_be_evaluated() -> None:
    def broken(ctx: object, a: int[str]) -> None: ...  # type: ignore[type-arg]

    with pytest.raises(
        DefinitionError, match=r"broken, parameter `a`: the annotation int\[str\] is not understood: TypeError"
    ):
        signature_hints(broken)


@pytest.mark.parametrize("given", [None, [], Point(1.0)])
def test_what_is_no_object_does_not_match_a_row_type(given: object) -> None:
    for row in (Draft, User):
        with pytest.raises(ValidationFailed, match="Value does not match validator"):
            validator_for(row, ROWS).dump(given, TABLES)
