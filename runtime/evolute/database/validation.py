"""Whether a transaction may happen: asked of each that arrives, against all that is published or pending."""

from __future__ import annotations

from evolute.database.chain import NO_ORIGIN, Link
from evolute.database.commit_batch import Arrival
from evolute.database.conflict import Touch
from evolute.database.read_set import ReadSet
from evolute.database.recent_commits import RecentCommits
from evolute.database.write_log import LogReader
from evolute.errors import Conflict, OutOfRetention, Withdrawn


class Validation:
    """For the event loop's thread. `withdrawals` counts the batches that the disk has refused, `withdrawn` the
    transactions that were founded on them.
    """

    def __init__(self, log: LogReader) -> None:
        self._log = log
        self._recent = RecentCommits(log.published_ts)
        self.withdrawals = self.withdrawn = 0
        self.conflicts = 0

    def error_of(self, arrival: Arrival) -> BaseException | None:
        """Why it may not: Conflict, OutOfRetention or Withdrawn. A run of a chain is in conflict with nothing of it."""
        link = arrival.link
        try:
            self.require_standing(arrival.seen)
            if link is not None:
                link.require_founded()
            touch = self._log.first_touch(arrival.read_set, arrival.begin_ts)
        except (OutOfRetention, Withdrawn) as error:
            return error
        if touch is None:
            return None
        arrival.follows = link is not None
        return self._conflict(touch, arrival.read_set, arrival.begin_ts, link)

    def require_seen(self, read_set: ReadSet, begin_ts: int, link: Link) -> int:
        """Of a run of a chain that writes nothing: when all is durable that it has seen.

        Its chain's writes may be later than what it has not seen of others. Raises Withdrawn, OutOfRetention, and
        Conflict if there is no moment at which all that it read was true.
        """
        founded_ts = link.require_founded()
        conflict = self._conflict(self._log.first_touch(read_set, begin_ts), read_set, begin_ts, link)
        if conflict is not None:
            raise conflict
        return max(begin_ts, founded_ts)

    def _conflict(self, touch: Touch | None, read_set: ReadSet, begin_ts: int, link: Link | None) -> Conflict | None:
        """What `touch`, the log's answer, means to a run of that place in a chain, if it has one."""
        if touch is not None and link is not None:
            touch = self._recent.foreign_touch(read_set, begin_ts, link.origin, touch)
        if touch is None:
            return None
        self.conflicts += 1
        return Conflict(touch.key, touch.commit_ts)

    def note(self, arrival: Arrival) -> None:
        """It has passed, and has its timestamp."""
        origin = NO_ORIGIN if arrival.link is None else arrival.link.origin
        self._recent.append(arrival.commit_ts, origin, arrival.write_set.touched)
        if arrival.link is not None:
            arrival.link.accept(arrival.commit_ts)

    def require_standing(self, seen: int | None) -> None:
        """Raises Withdrawn if a commit may have been withdrawn since a snapshot with this `seen` was made."""
        if seen is not None and seen != self.withdrawals:
            self.withdrawn += 1
            raise Withdrawn
