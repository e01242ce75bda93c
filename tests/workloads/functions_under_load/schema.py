"""The tables of the workloads. Every one is read through an index, so that views are merged into ranges."""

from __future__ import annotations

from evolute import Document, define_schema, define_table


class Account(Document):
    name: int
    money: int


class Node(Document):
    number: int
    next: int


class Left(Document):
    name: int
    value: int


class Right(Document):
    """The image of a row of the left table."""

    name: int
    value: int


class Items(Document):
    """A list in one row."""

    name: int
    values: list[int]


class Item(Document):
    """An element of a list that is as many rows as it has elements."""

    name: int
    place: int
    value: int


schema = define_schema(
    accounts=define_table(Account).index("by_name", ["name"]),
    nodes=define_table(Node).index("by_number", ["number"]),
    left=define_table(Left).index("by_name", ["name"]),
    right=define_table(Right).index("by_name", ["name"]),
    lists=define_table(Items).index("by_name", ["name"]),
    items=define_table(Item).index("by_place", ["name", "place"]),
)
