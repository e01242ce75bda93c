"""What `npx convex logs` is told: every call that ended, once, and a wait when there is none."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from evolute.limits import Limits
from tests.end_to_end.raw_session import RawSession
from tests.server_thread import Reply, ServerThread

FUNCTIONS = {
    "m.py": """
from evolute import MutationCtx, QueryCtx, mutation, query

@mutation
def say(ctx: MutationCtx, text: str) -> None:
    print(text)

@query
def fails(ctx: QueryCtx, number: int) -> None:
    raise ValueError("a secret")
"""
}


@pytest.fixture(scope="module")
def server() -> Iterator[ServerThread]:
    limits = Limits(function_log_wait_ms=300, function_log_page_entries_max=2)
    with ServerThread(FUNCTIONS, limits, redact=True) as server:
        yield server


def ask(server: ServerThread, cursor: object) -> Reply:
    headers = {"Authorization": f"Convex {server.admin_key}"}
    return server.request("GET", f"/api/stream_function_logs?cursor={quote(str(cursor))}", headers=headers)


def all_after(server: ServerThread, cursor: float) -> tuple[list[Any], float]:
    entries: list[Any] = []
    while page := (answer := ask(server, cursor).json)["entries"]:
        entries += page
        cursor = answer["newCursor"]
    assert answer["newCursor"] == cursor
    return entries, cursor


def test_every_call_is_told_once(server: ServerThread) -> None:
    """Redaction is for clients: who has the key sees what was printed and raised."""
    _, cursor = all_after(server, 0)
    for number in range(3):
        server.request("POST", "/api/query", {"path": "m:fails", "args": {"number": number}})
    with RawSession(f"http://{server.address}") as client:
        client.mutate("m:say", text="hello")
        client.mutate("m:say", text="x" * 40_000)
    entries, end = all_after(server, cursor)
    assert [entry["identifier"] for entry in entries] == ["m:fails"] * 3 + ["m:say"] * 2
    assert [entry["udfType"] for entry in entries] == ["Query"] * 3 + ["Mutation"] * 2
    assert all("ValueError: a secret" in entry["error"] for entry in entries[:3])
    said, cut = entries[3:]
    assert said["error"] is None
    (line,) = said["logLines"]
    assert (line["level"], line["messages"], line["isTruncated"]) == ("LOG", ["hello"], False)
    assert said["requestId"] == hashlib.sha256(f"{client.session}|0".encode()).hexdigest()[:16]
    assert cut["logLines"][0]["isTruncated"]
    assert end > cursor


def test_who_asks_too_early_waits(server: ServerThread) -> None:
    _, cursor = all_after(server, 0)
    answers: list[Any] = []

    def wait() -> None:
        at = cursor
        while not answers:
            answer = ask(server, at).json
            answers.extend(answer["entries"])
            at = answer["newCursor"]

    asking = threading.Thread(target=wait)
    asking.start()
    server.request("POST", "/api/mutation", {"path": "m:say", "args": {"text": "now"}})
    asking.join(30)
    assert [entry["logLines"][0]["messages"] for entry in answers] == [["now"]]


def test_it_is_for_administrators(server: ServerThread) -> None:
    refused = server.request("GET", "/api/stream_function_logs?cursor=0")
    assert (refused.status, refused.json["code"]) == (403, "BadDeployKey")
    for cursor in ("nan", "soon"):
        assert (ask(server, cursor).status, ask(server, cursor).json["code"]) == (400, "BadQueryParameter")
    server.request("POST", "/api/mutation", {"path": "m:say", "args": {"text": "now"}})
    assert ask(server, "").json["entries"]
