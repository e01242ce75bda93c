"""What a transaction wants to write: the puts, and every key that counts as touched by them.

The two differ. A document that changes only its body leaves its index entries physically as they are, but they count as
touched: a query that read the document *through* an index holds one interval of that index and no point per document,
and must still be woken. So:

    puts       what storage has to change; None deletes
    touched    what the write log has to say changed: the puts' keys, and every index key of the documents' old and
               new versions
    stamped    those puts whose value holds COMMIT_TS_PLACEHOLDER, to be replaced by the timestamp of the commit, with
               the number of those to replace, from the first on
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

WriteSetWire: TypeAlias = tuple[dict[bytes, bytes | None], list[bytes], dict[bytes, int]]


@dataclass(frozen=True, slots=True)
class WriteSet:
    """Frozen, and false if there is nothing to commit. Keys of `stamped` <= keys of `puts` <= `touched`."""

    puts: Mapping[bytes, bytes | None] = field(default_factory=dict)
    touched: frozenset[bytes] = frozenset()
    stamped: Mapping[bytes, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert self.touched.issuperset(self.puts), "a put key that does not count as touched would go unnoticed"
        for key in self.stamped:
            assert self.puts.get(key) is not None, "a stamped key must have a value"

    def __bool__(self) -> bool:
        return bool(self.touched)

    @property
    def size(self) -> int:
        """Bytes of the keys and values to put."""
        return sum(map(len, self.puts)) + sum(map(len, filter(None, self.puts.values())))

    def to_wire(self) -> WriteSetWire:
        """Plain data that `marshal` takes."""
        return dict(self.puts), [key for key in self.touched if key not in self.puts], dict(self.stamped)

    @classmethod
    def from_wire(cls, wire: tuple[dict[bytes, bytes | None], Iterable[bytes], dict[bytes, int]]) -> WriteSet:
        """The write set that `to_wire` was called on."""
        puts, only_touched, stamped = wire
        return cls(puts, frozenset([*puts, *only_touched]), stamped)
