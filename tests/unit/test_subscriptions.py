"""A subscription is broken once, by the first commit after its token that touches it. See scripts/subscriptions too."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolute.database.read_set import ReadSet
from evolute.database.subscriptions import Subscription, Subscriptions, Token
from evolute.database.write_log import LogWriter, new_write_log
from evolute.errors import Overloaded
from evolute.limits import Limits

KEYS = st.sampled_from([bytes([letter]) for letter in b"abcdefgh"])


def reading(*keys: bytes) -> ReadSet:
    read_set = ReadSet()
    for key in keys:
        read_set.add_point(key)
    return read_set


def opened(limits: Limits | None = None) -> tuple[Subscriptions, LogWriter]:
    reader, writer = new_write_log(0, limits or Limits())
    return Subscriptions(reader, limits or Limits()), writer


def commit(subscriptions: Subscriptions, writer: LogWriter, *commits: tuple[int, frozenset[bytes]]) -> None:
    """One batch, published as the committer does."""
    writer.begin_batch()
    for commit_ts, keys in commits:
        writer.append(commit_ts, keys)
    writer.publish(commits[-1][0])
    for commit_ts, keys in commits:
        subscriptions.publish(commit_ts, keys)


@given(st.lists(st.frozensets(KEYS, max_size=3), max_size=12), st.data())
def test_broken_by_the_first_touch_after_the_token(commits: list[frozenset[bytes]], data: st.DataObject) -> None:
    """Given tokens of any age, subscribed at any moment, I expect what a walk over all commits would say."""
    subscriptions, writer = opened()
    watched: list[tuple[Token, int, Subscription, list[int]]] = []
    for published_ts in range(len(commits) + 1):
        if published_ts > 0:
            commit(subscriptions, writer, (published_ts, commits[published_ts - 1]))
        read_set = reading(*data.draw(st.sets(KEYS, max_size=2)))
        read_set.add_range(data.draw(KEYS), data.draw(KEYS))
        token = Token(read_set, data.draw(st.integers(0, published_ts)))
        told: list[int] = []
        watched.append((token, published_ts, subscriptions.subscribe(token, told.append), told))

    for token, subscribed_at, subscription, told in watched:
        touches = [
            commit_ts
            for commit_ts, keys in enumerate(commits, 1)
            if commit_ts > token.ts and any(token.read_set.contains(key) for key in keys)
        ]
        if not touches:
            assert subscription.broken_at is None
            assert told == []
        elif touches[0] <= subscribed_at:
            assert subscription.broken_at == token.ts + 1
            assert told == []
        else:
            assert subscription.broken_at == touches[0]
            assert told == [touches[0]]
    live = sum(subscription.broken_at is None for _, _, subscription, _ in watched)
    assert subscriptions.statistics().live == live


def test_a_commit_that_the_token_has_seen_never_breaks_it() -> None:
    """Given a batch of commits 5 and 6, and a listener of 5 that reads at 6 and subscribes in that very turn: 6 is
    part of what it has read."""
    subscriptions, writer = opened()
    again: list[Subscription] = []

    def on_broken(commit_ts: int) -> None:
        again.append(subscriptions.subscribe(Token(reading(b"a", b"b"), 6), lambda ts: None))

    subscriptions.subscribe(Token(reading(b"a"), 0), on_broken)
    commit(subscriptions, writer, (5, frozenset({b"a"})), (6, frozenset({b"b"})))
    assert [subscription.broken_at for subscription in again] == [None]
    commit(subscriptions, writer, (7, frozenset({b"b"})))
    assert [subscription.broken_at for subscription in again] == [7]


def test_a_token_older_than_the_log_is_broken_at_once() -> None:
    subscriptions, writer = opened(Limits(log_keys_max=1, log_run_keys_max=1))
    for commit_ts in (1, 2, 3):
        commit(subscriptions, writer, (commit_ts, frozenset({b"x"})))
    assert subscriptions.subscribe(Token(reading(b"a"), 1), lambda ts: None).broken_at == 2
    assert subscriptions.subscribe(Token(reading(b"a"), 2), lambda ts: None).broken_at is None


def test_listeners_are_told_in_the_order_in_which_they_came_and_may_close_others() -> None:
    subscriptions, writer = opened()
    told: list[str] = []
    made: dict[str, Subscription] = {}

    def listen(name: str, closes: str | None = None) -> None:
        def on_broken(commit_ts: int) -> None:
            told.append(name)
            if closes is not None:
                made[closes].close()

        made[name] = subscriptions.subscribe(Token(reading(b"a"), 0), on_broken)

    listen("first")
    listen("second", closes="third")
    listen("third")
    listen("fourth", closes="fourth")
    commit(subscriptions, writer, (1, frozenset({b"a"})))
    assert told == ["first", "second", "fourth"]
    assert made["third"].broken_at == 1
    assert subscriptions.statistics().live == 0


def test_closing_ends_it() -> None:
    subscriptions, writer = opened()
    told: list[int] = []
    subscription = subscriptions.subscribe(Token(reading(b"a"), 0), told.append)
    subscription.close()
    subscription.close()
    commit(subscriptions, writer, (1, frozenset({b"a"})))
    assert told == []
    assert subscription.broken_at is None
    assert subscriptions.statistics().intervals == 0


def test_the_number_of_subscriptions_is_bounded() -> None:
    subscriptions, _ = opened(Limits(subscriptions_max=2))
    first = subscriptions.subscribe(Token(reading(b"a"), 0), lambda ts: None)
    subscriptions.subscribe(Token(reading(b"a"), 0), lambda ts: None)
    with pytest.raises(Overloaded, match="subscriptions_max"):
        subscriptions.subscribe(Token(reading(b"a"), 0), lambda ts: None)
    first.close()
    subscriptions.subscribe(Token(reading(b"a"), 0), lambda ts: None)
