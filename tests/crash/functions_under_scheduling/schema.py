"""What the scheduler's crash campaign counts. But for `runs` and `saw`, rows are only ever added."""

from __future__ import annotations

from evolute import Document, define_schema, define_table


class Ticket(Document):
    """A job that was asked for, and how often it has counted itself.

    `kept`: the job of another ticket was kept in its place. `turn` numbers the tickets of one key. `completion` is the
    function to be told of the end. `saw` is the state that the first to cancel it has seen.
    """

    name: str
    what: str
    job: str
    kept: bool
    key: str | None
    turn: int
    replaces: bool
    completion: str | None
    saw: str | None
    runs: int


class Key(Document):
    key: str
    turn: int


class Told(Document):
    """What a completion function was told of a job's end."""

    job: str
    kind: str
    value: str | None
    error: str | None


class Count(Document):
    """A run of a cron's mutation, or of what an action has scheduled."""

    what: str


schema = define_schema(
    tickets=define_table(Ticket).index("by_name", ["name"]).index("by_job", ["job"]),
    keys=define_table(Key).index("by_key", ["key"]),
    told=define_table(Told),
    counts=define_table(Count),
)
