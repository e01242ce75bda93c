"""The first version; the campaign saves others, each of which has an index of its own and lacks that of the last."""

from __future__ import annotations

from evolute import Document, define_schema, define_table


class Row(Document):
    owner: str
    number: int
    n: int


schema = define_schema(
    rows=define_table(Row).index("by_owner", ["owner", "number"]).index("by_n_0", ["n", "owner"]),
)
