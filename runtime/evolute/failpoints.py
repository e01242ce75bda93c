"""Named points at which a test may kill the process, as a power cut would.

`arm("after_commit:3")` lets the third `hit("after_commit")` end the process with SIGKILL: no handler runs, nothing is
flushed. Unarmed, a hit is one comparison. The points are listed here, so that the crash tests can visit all of them.
"""

from __future__ import annotations

import os
import signal

AFTER_VALIDATION = "after_validation"
AFTER_PUTS = "after_puts"
AFTER_COMMIT = "after_commit"
AFTER_PUBLICATION = "after_publication"

AFTER_LOOK = "after_look"  # due jobs have been read, and none has begun
AFTER_IN_PROGRESS = "after_in_progress"
AFTER_ACTION_EFFECT = "after_action_effect"
AFTER_PUT_OFF = "after_put_off"  # an attempt has failed, and the next is on record
AFTER_DEATH = "after_death"  # a job has cost a worker, and that is on record
AFTER_COMPLETION_FAILED = "after_completion_failed"  # its job has yet to end without it
AFTER_JOB_END = "after_job_end"
AFTER_CRON_END = "after_cron_end"  # a run is on record, and the next one's time

AFTER_INDEXES_BEGUN = "after_indexes_begun"  # new indexes are kept up to date, and nothing is filled
AFTER_FILL = "after_fill"
AFTER_BACKFILLED = "after_backfilled"  # all entries of a table's new indexes are there
BEFORE_ACTIVATION = "before_activation"
AFTER_ACTIVATION = "after_activation"  # a deployment is published
AFTER_DROP = "after_drop"  # some entries of a dropped index are gone
AFTER_DROPPED = "after_dropped"  # all of them are

AFTER_DRAFT_BEGUN = "after_draft_begun"  # of a compaction: its file is there, and empty
AFTER_DRAFT = "after_draft"  # it is whole, and on the disk
AFTER_RENAME = "after_rename"  # it has taken the place of the old one

COMMITTER = (AFTER_VALIDATION, AFTER_PUTS, AFTER_COMMIT, AFTER_PUBLICATION)
SCHEDULER = (
    AFTER_LOOK,
    AFTER_IN_PROGRESS,
    AFTER_ACTION_EFFECT,
    AFTER_PUT_OFF,
    AFTER_DEATH,
    AFTER_COMPLETION_FAILED,
    AFTER_JOB_END,
    AFTER_CRON_END,
)
SCHEMA = (
    AFTER_INDEXES_BEGUN,
    AFTER_FILL,
    AFTER_BACKFILLED,
    BEFORE_ACTIVATION,
    AFTER_ACTIVATION,
    AFTER_DROP,
    AFTER_DROPPED,
)
COMPACTION = (AFTER_DRAFT_BEGUN, AFTER_DRAFT, AFTER_RENAME)
ALL = COMMITTER + SCHEDULER + SCHEMA + COMPACTION

_armed: str | None = None
_hits_left = 0


def arm(spec: str | None) -> None:
    """`name` or `name:hits`; None disarms. Raises ValueError for a name that no code hits."""
    global _armed, _hits_left
    if spec is None:
        _armed = None
        return
    name, _, hits = spec.partition(":")
    if name not in ALL:
        raise ValueError(f"unknown failpoint {name!r}; there are {', '.join(ALL)}")
    _armed, _hits_left = name, int(hits or 1)


def hit(name: str) -> None:
    global _hits_left
    if name != _armed:
        return
    _hits_left -= 1
    if _hits_left <= 0:
        os.kill(os.getpid(), signal.SIGKILL)
