"""The chat room under `functions/`, as its own author would test it."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from evolute import ConvexError, PaginationOptions
from evolute.testing import LocalBackend
from functions import channels, digest, messages, presence, reminders


def test_a_channel_has_a_name_of_its_own() -> None:
    with LocalBackend("functions") as backend:
        backend.mutation(channels.create, name="b")
        backend.mutation(channels.create, name="a")
        with pytest.raises(ConvexError) as caught:
            backend.mutation(channels.create, name="a")

        assert caught.value.data == {"code": "NameTaken", "name": "a"}
        assert [channel["name"] for channel in backend.query(channels.list_all)] == ["a", "b"]


def test_a_message_may_vanish() -> None:
    with LocalBackend("functions") as backend:
        channel = backend.mutation(channels.create, name="a")
        backend.mutation(messages.send, channel=channel, body="Stays here")
        backend.mutation(messages.send, channel=channel, body="goes", vanish_after_ms=1000)

        assert [m["body"] for m in backend.query(messages.list_recent, channel=channel)] == ["goes", "Stays here"]
        assert [m["body"] for m in backend.query(messages.search, channel=channel, text="HERE")] == ["Stays here"]
        backend.advance(seconds=1)
        assert [m["body"] for m in backend.query(messages.list_recent, channel=channel)] == ["Stays here"]


def test_history_is_read_page_by_page() -> None:
    with LocalBackend("functions") as backend:
        channel = backend.mutation(channels.create, name="a")
        for body in ("one", "two", "three"):
            backend.mutation(messages.send, channel=channel, body=body)
        newest = backend.query(messages.history, channel=channel, paginationOpts=PaginationOptions(num_items=2))
        assert [m["body"] for m in newest.page] == ["three", "two"]
        further = PaginationOptions(num_items=2, cursor=newest.continue_cursor)
        oldest = backend.query(messages.history, channel=channel, paginationOpts=further)
        assert ([m["body"] for m in oldest.page], oldest.is_done) == (["one"], True)


def test_a_visitor_is_online_for_as_long_as_his_heart_beats() -> None:
    with LocalBackend("functions") as backend:
        channel = backend.mutation(channels.create, name="a")
        for _ in range(4):
            backend.mutation(presence.heartbeat, channel=channel, name="ada")
            backend.advance(seconds=10)
            assert backend.query(presence.list_online, channel=channel) == ["ada"]
        backend.advance(seconds=10)
        assert backend.query(presence.list_online, channel=channel) == []


def test_a_reminder_rings_unless_it_is_called_off() -> None:
    with LocalBackend("functions") as backend:
        channel = backend.mutation(channels.create, name="a")
        backend.mutation(reminders.remind_after, channel=channel, body="tea", minutes=5)
        off = backend.mutation(reminders.remind_after, channel=channel, body="cake", minutes=5)
        backend.mutation(reminders.remind_at, channel=channel, body="late", time="2024-01-01T00:00:00")
        backend.mutation(reminders.cancel, reminder=off)
        backend.advance(seconds=300)

        listed = backend.query(reminders.list_all, channel=channel)
        states = {row["reminder"]["body"]: row["state"] for row in listed}
        assert states == {"tea": "success", "cake": "canceled", "late": "pending"}
        assert [m["body"] for m in backend.query(messages.list_recent, channel=channel)] == ["tea"]


def test_a_digest_counts_authors_and_words() -> None:
    with LocalBackend("functions") as backend:
        channel = backend.mutation(channels.create, name="a")
        for author, body in [("ada", "engine engine wheel"), ("bob", "the engine"), ("ada", "wheel")]:
            backend.mutation(messages.send, channel=channel, body=body, author=author)
        backend.action(digest.write, channel=channel)

        latest = backend.query(digest.latest, channel=channel)
        assert latest is not None
        assert latest["messages"] == 3
        assert latest["text"] == "ada (2), bob (1) spoke of engine (3), wheel (2)."


def test_a_digest_of_every_channel_is_written_every_week() -> None:
    with LocalBackend("functions") as backend:
        first, second = (backend.mutation(channels.create, name=name) for name in "ab")
        backend.mutation(messages.send, channel=first, body="Crons follow the clock on the wall", author="ada")
        backend.advance(seconds=7 * 24 * 3600)

        told = [backend.query(digest.latest, channel=channel) for channel in (first, second)]
        assert [found is not None and found["messages"] for found in told] == [1, 0]


def test_a_channel_may_have_a_digest_every_day() -> None:
    with LocalBackend("functions") as backend:
        channel = backend.mutation(channels.create, name="a")
        backend.mutation(digest.write_daily, channel=channel, hour=7, timezone="America/New_York")
        backend.advance(seconds=24 * 3600)
        first = backend.query(digest.latest, channel=channel)
        assert first is not None
        assert datetime.fromtimestamp(first["_creationTime"] / 1000, ZoneInfo("America/New_York")).hour == 7

        backend.mutation(digest.stop_writing_daily, channel=channel)
        backend.advance(seconds=2 * 24 * 3600)
        assert backend.query(digest.latest, channel=channel) == first
