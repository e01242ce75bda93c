"""The tables of the chat."""

from typing import NotRequired

from evolute import Document, Id, define_schema, define_table


class Channel(Document):
    name: str


class Message(Document):
    """`user` is the same for all that one person writes, whatever he is called; `key` is the sender's name for it, and
    `vanishes_at` the time in milliseconds."""

    channel: Id[Channel]
    user: str
    author: str
    key: str
    body: str
    vanishes_at: NotRequired[float]


class Visitor(Document):
    """Somebody who has a channel open. `seen` is the time of the latest heartbeat, in milliseconds."""

    channel: Id[Channel]
    user: str
    name: str
    seen: float


schema = define_schema(
    channels=define_table(Channel).index("by_name", ["name"]),
    messages=define_table(Message).index("by_channel", ["channel"]),
    visitors=define_table(Visitor).index("by_channel", ["channel", "user"]),
)
