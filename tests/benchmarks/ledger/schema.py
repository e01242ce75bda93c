"""What the benchmarks work on: accounts with balances, and one note that is written over and over."""

from __future__ import annotations

from evolute import Document, define_schema, define_table


class Account(Document):
    number: int
    balance: int


class Note(Document):
    name: str
    body: str


schema = define_schema(
    accounts=define_table(Account).index("by_number", ["number"]),
    notes=define_table(Note).index("by_name", ["name"]),
)
