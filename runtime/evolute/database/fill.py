"""A fill: entries of an index that is being built or dropped, which nobody can have read.

    worker    snapshot at 100 ─ documents ─► entries            live writes   ─ 104: document d ─► d's entry
    server                                    commit of the fill: puts them all but d's, which is `left`

Such entries are not in the write log: no read set can hold a key of an index that no query may use. In return the fill
is asked a question of its own when it is committed: which of its documents did a commit after its snapshot touch? That
commit, published or pending, has taken care of the entry of the document that it wrote; the fill's is of the past and
is left out. Whether the entry is there is then up to a later fill of the document, since a pending commit may yet fail.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from evolute.storage.keyspace import document_key


@dataclass(slots=True)
class Fill:
    """`entries` of the documents of a table with start <= key < end, as they were at `begin_ts`; or entries to remove.

    The committer takes out what is of the past, and names in `left` the documents whose entries these were. A fill
    that began before the oldest commit that the log remembers is emptied: `refused`.
    """

    begin_ts: int
    table_number: int
    start: bytes
    end: bytes
    entries: Mapping[bytes, bytes | None]
    left: list[bytes] = field(default_factory=list)
    refused: bool = False

    @property
    def size(self) -> int:
        return sum(map(len, self.entries)) + 16 * len(self.entries)

    def leave_out(self, touched: Iterable[bytes]) -> None:
        """The documents with these keys were written since."""
        gone = set(touched)
        if not gone:
            return
        number = self.table_number
        left = {one for one in self.entries.values() if one is not None and document_key(number, one) in gone}
        self.entries = {key: one for key, one in self.entries.items() if one not in left}
        self.left = sorted(left)

    def refuse(self) -> None:
        self.entries, self.refused = {}, True


def removal(keys: Iterable[bytes]) -> Fill:
    """Entries of an index that is no longer in the catalog: no commit can be about them any more."""
    return Fill(0, 0, b"", b"", dict.fromkeys(keys))
