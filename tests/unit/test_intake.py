"""How much clients may have asked for that is not done, and who is stopped until it is less."""

from __future__ import annotations

from evolute.limits import Limits
from evolute.sync.intake import Intake, Share

LIMITS = Limits(session_calls_bytes_max=10, all_sessions_calls_bytes_max=15)


def shares(count: int) -> tuple[list[Share], list[int]]:
    """So many of one server, and the numbers of those that have been told to go on."""
    intake, told = Intake(LIMITS), list[int]()
    return [intake.share(lambda number=number: told.append(number)) for number in range(count)], told  # type: ignore[misc]


def test_who_holds_too_much_waits() -> None:
    (one,), told = shares(1)
    one.hold(9)
    assert not one.stops()
    one.hold(10)
    assert one.stops()
    one.hold(11)
    assert told == []
    one.hold(9)
    assert told == [0]
    one.hold(3)
    assert told == [0], "once"


def test_when_all_hold_too_much_who_holds_anything_waits() -> None:
    (one, two, idle), told = shares(3)
    one.hold(8)
    two.hold(7)
    assert one.stops()
    assert two.stops()
    assert not idle.stops(), "there is no end that it could wait for"
    one.hold(7)
    assert told == [0, 1]
    two.hold(10)
    assert two.stops()
    assert one.stops()
    two.hold(8)
    assert told == [0, 1], "all together still hold too much"
    two.hold(7)
    assert sorted(told) == [0, 0, 1, 1]


def test_who_goes_while_it_is_stopped_holds_nothing() -> None:
    (gone, stays), told = shares(2)
    gone.hold(12)
    stays.hold(3)
    assert gone.stops()
    assert stays.stops()
    gone.close()
    assert told == [1]
    assert not stays.stops()
