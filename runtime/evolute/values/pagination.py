"""One page of a query's documents: what is asked for, and what comes back.

    paginationOpts {numItems, cursor, …} ──► PaginationOptions ──► .paginate ──► PaginationResult ──► {page, isDone, …}

Both are Convex's own objects on the wire, under the names that its React hooks send and expect, and plain dataclasses
in Python. A cursor is a string that only the backend that made it can read (`database.cursor`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Generic, Literal, TypeAlias, TypeVar

from evolute.errors import DefinitionError, InvalidPaginationLimit, InvalidQuery
from evolute.limits import Limits
from evolute.values import validators
from evolute.values.containers import ArrayOf, Field, ObjectOf, UnionOf
from evolute.values.display import display
from evolute.values.row_types import Declared, RowType
from evolute.values.validators import AnyValue, Boolean, Null, Number, String, Validator

T = TypeVar("T")
U = TypeVar("U")

PageStatus: TypeAlias = Literal["SplitRecommended", "SplitRequired"]


class _Named(RowType):
    """A dataclass whose fields have other names on the wire; what is None there is left out, if it may be."""

    __slots__ = ("_names", "_nullable")

    def __init__(self, python: Any, names: Mapping[str, str], nullable: frozenset[str] = frozenset()) -> None:
        super().__init__(python)
        self._names = names
        self._nullable = nullable

    def declared(self) -> Declared:
        raise DefinitionError(f"{self.python.__name__} is no row type: it describes a page, not a document")

    def build(self, fields: dict[str, object]) -> object:
        return self.python(**{name: fields[outside] for name, outside in self._names.items() if outside in fields})

    def fields_of(self, value: object) -> dict[str, object] | None:
        if not isinstance(value, self.python):
            return None
        items = ((name, outside, getattr(value, name)) for name, outside in self._names.items())
        return {outside: item for name, outside, item in items if item is not None or name in self._nullable}


@dataclass(frozen=True, kw_only=True)
class PaginationOptions:
    """Which page: the annotation of a query's argument `paginationOpts`, and what `.paginate` takes.

    `cursor` is where the page begins, the `continue_cursor` of the one before it, or None for the first page. It ends
    after `num_items` documents, or with `end_cursor`, if there is one. Neither more than `maximum_rows_read` documents
    are read, those included that a filter leaves out, nor many more than `maximum_bytes_read` bytes; the page is
    shorter then. `id` is the React hooks' own and means nothing here.
    """

    row_type: ClassVar[RowType]

    num_items: int
    cursor: str | None = None
    end_cursor: str | None = None
    maximum_rows_read: int | None = None
    maximum_bytes_read: int | None = None
    id: float | None = None

    def checked(self, limits: Limits) -> PaginationOptions:
        """Itself. Raises InvalidQuery and InvalidPaginationLimit with the texts of semantics D8."""
        asked, most = self.num_items, limits.documents_read_max
        if not _is_number(asked) or not asked >= 0:
            raise InvalidQuery(f"`options.numItems` must be a positive number. Received `{_shown(asked)}`.")
        if asked == 0:
            raise InvalidQuery("Must request at least 1 document while paginating")
        if asked > most:
            raise InvalidQuery(
                f"Requested too many items: {_shown(asked)} (limit: {most}; the setting is `documents_read_max`)"
            )
        if asked != math.floor(asked):
            raise InvalidQuery(f"`options.numItems` must be a whole number. Received `{_shown(asked)}`.")
        for name, maximum in (("Rows", self.maximum_rows_read), ("Bytes", self.maximum_bytes_read)):
            if maximum is not None and not _is_number(maximum):
                raise InvalidQuery(f"`options.maximum{name}Read` must be a number. Received `{display(maximum)}`.")
            if maximum is not None and not maximum > 0:
                raise InvalidPaginationLimit(
                    "maximumRowsRead and maximumBytesRead must be greater than 0. "
                    f"Received `{_shown(maximum)}` as maximum{name}Read."
                )
        for name, cursor in (("cursor", self.cursor), ("endCursor", self.end_cursor)):
            if cursor is not None and not isinstance(cursor, str):
                raise InvalidQuery(f"`options.{name}` must be a string or None. Received `{display(cursor)}`.")
        return self


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _shown(value: object) -> str:
    """A whole number without the point that `display` gives it."""
    return str(value) if type(value) is int else display(value)


def options_of(given: PaginationOptions | Mapping[str, object] | None, named: Mapping[str, Any]) -> PaginationOptions:
    """What `.paginate` was given: options, as they are or as they came over the wire, and further ones by name.

    Raises InvalidQuery; TypeError for a name that is not one of theirs.
    """
    if isinstance(given, PaginationOptions):
        return dataclasses.replace(given, **named) if named else given
    if given is None:
        fields: dict[str, Any] = {}
    elif isinstance(given, Mapping):
        inside = {outside: name for name, outside in _OPTION_NAMES.items()}
        unknown = next((name for name in given if name not in inside), None)
        if unknown is not None:
            raise InvalidQuery(f"`options` of `paginate` have no {display(unknown)}; they have {', '.join(inside)}")
        fields = {inside[name]: item for name, item in given.items()}
    else:
        raise InvalidQuery(f"`paginate` takes PaginationOptions, or num_items=… and cursor=…; got {display(given)}")
    return PaginationOptions(**{"num_items": None, **fields, **named})


@dataclass(frozen=True, kw_only=True)
class PaginationResult(Generic[T]):
    """One page: what `.paginate` gives, and what a query may return as it is.

    `continue_cursor` is where the page ends; given as the next page's `cursor` it goes on from there, without gap or
    overlap. `is_done` is true where nothing can follow. A page can be short, or empty, and not be the last.
    `split_cursor` is in the middle of a page that is to be split in two, as `page_status` may say.
    """

    row_type: ClassVar[RowType]

    page: list[T]
    is_done: bool
    continue_cursor: str
    split_cursor: str | None = None
    page_status: PageStatus | None = None

    def map(self, function: Callable[[T], U], /) -> PaginationResult[U]:
        """The same page with each document turned into something else."""
        return self.with_page([function(item) for item in self.page])

    def with_page(self, page: list[U], /) -> PaginationResult[U]:
        """The same place in the query with other items: fewer, or with more in them."""
        return PaginationResult(
            page=page,
            is_done=self.is_done,
            continue_cursor=self.continue_cursor,
            split_cursor=self.split_cursor,
            page_status=self.page_status,
        )


_OPTION_NAMES: Final = {
    "num_items": "numItems",
    "cursor": "cursor",
    "end_cursor": "endCursor",
    "maximum_rows_read": "maximumRowsRead",
    "maximum_bytes_read": "maximumBytesRead",
    "id": "id",
}
_RESULT_NAMES: Final = {
    "page": "page",
    "is_done": "isDone",
    "continue_cursor": "continueCursor",
    "split_cursor": "splitCursor",
    "page_status": "pageStatus",
}
PaginationOptions.row_type = _Named(PaginationOptions, _OPTION_NAMES, frozenset({"cursor"}))
PaginationResult.row_type = _Named(PaginationResult, _RESULT_NAMES, frozenset({"split_cursor", "page_status"}))

_CURSOR: Final = UnionOf((String(), Null()))
_STATUS: Final = UnionOf((validators.Literal("SplitRecommended"), validators.Literal("SplitRequired"), Null()))

OPTIONS: Final = ObjectOf(
    {
        "numItems": Field(Number()),
        "cursor": Field(_CURSOR),
        "endCursor": Field(_CURSOR, optional=True),
        "id": Field(Number(), optional=True),
        "maximumRowsRead": Field(Number(), optional=True),
        "maximumBytesRead": Field(Number(), optional=True),
    },
    PaginationOptions,
)
"""The validator of PaginationOptions, with all that the React hooks send."""


def result_of(item: Validator) -> ObjectOf:
    """The validator of a PaginationResult of such items."""
    fields = {
        "page": Field(ArrayOf(item)),
        "isDone": Field(Boolean()),
        "continueCursor": Field(String()),
        "splitCursor": Field(_CURSOR, optional=True),
        "pageStatus": Field(_STATUS, optional=True),
    }
    return ObjectOf(fields, PaginationResult)


PAGE_OF_ANYTHING: Final = result_of(AnyValue())
