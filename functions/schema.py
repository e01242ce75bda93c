"""The tables of a chat room."""

from typing import Any

from evolute import Document, Id, define_schema, define_table


class Channel(Document):
    name: str


class Message(Document):
    channel: Id[Channel]
    author: str
    body: str


class Visitor(Document):
    """Somebody who has a channel open. `seen` is the time of the latest heartbeat, in milliseconds."""

    channel: Id[Channel]
    name: str
    seen: float


class Reminder(Document):
    channel: Id[Channel]
    body: str
    job: Id[Any]


class Digest(Document):
    channel: Id[Channel]
    messages: int
    text: str


schema = define_schema(
    channels=define_table(Channel).index("by_name", ["name"]),
    messages=define_table(Message).index("by_channel", ["channel"]),
    visitors=define_table(Visitor).index("by_channel", ["channel", "name"]),
    reminders=define_table(Reminder).index("by_channel", ["channel"]),
    digests=define_table(Digest).index("by_channel", ["channel"]),
)
