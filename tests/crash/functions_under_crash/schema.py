"""What the crash campaign counts, in tables whose rows are only ever added to."""

from __future__ import annotations

from evolute import Document, define_schema, define_table


class Total(Document):
    """How often a client has been counted; each entry counted it once."""

    client: str
    total: int


class Entry(Document):
    client: str
    number: int


class Ticket(Document):
    """A job that was scheduled, and how often it has counted itself."""

    name: str
    job: str
    kind: str
    runs: int


schema = define_schema(
    totals=define_table(Total).index("by_client", ["client"]),
    entries=define_table(Entry),
    tickets=define_table(Ticket).index("by_name", ["name"]),
)
