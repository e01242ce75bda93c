"""Doors that are closed, tried from outside by somebody who has no key: each is refused by name, on every way in.

The doors of tokens and keys are in `test_closed_doors.py`, those of `--static` in `test_static_files.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest

from tests.end_to_end.raw_session import RawSession
from tests.server_thread import ServerThread

FUNCTIONS = {
    "m.py": """
from typing import Any
from evolute import MutationCtx, PaginationOptions, PaginationResult, QueryCtx
from evolute import internal_action, internal_mutation, internal_query, mutation, query

@internal_query
def hidden_query(ctx: QueryCtx) -> str:
    return "secret"

@internal_mutation
def hidden_mutation(ctx: MutationCtx) -> str:
    return "secret"

@internal_action
async def hidden_action(ctx) -> str:
    return "secret"

@mutation
def schedule(ctx: MutationCtx) -> str:
    return ctx.scheduler.run_after(3_600_000, hidden_mutation)

@query
def rows(ctx: QueryCtx, table: str) -> list[Any]:
    return ctx.db.query(table).collect()

@query
def row(ctx: QueryCtx, id: str) -> Any:
    return ctx.db.get(id)

@mutation
def write(ctx: MutationCtx, table: str, fields: dict[str, Any]) -> str:
    return ctx.db.insert(table, fields)

@mutation
def change(ctx: MutationCtx, id: str, fields: dict[str, Any]) -> None:
    ctx.db.patch(id, fields)

@mutation
def remove(ctx: MutationCtx, id: str) -> None:
    ctx.db.delete(id)

@query
def page(ctx: QueryCtx, paginationOpts: PaginationOptions) -> PaginationResult[Any]:
    return ctx.db.query("notes").paginate(paginationOpts)
"""
}
SYSTEM_TABLES = (
    "_scheduled_functions",
    "_sessions",
    "_tables",
    "_indexes",
    "_deployments",
    "_crons",
    "_storage",
    "_no",
)


@pytest.fixture(scope="module")
def server() -> Iterator[ServerThread]:
    with ServerThread(FUNCTIONS) as server:
        yield server


Call = Callable[[str, str, dict[str, Any]], Any]


@pytest.fixture(params=["http", "websocket"])
def call(request: pytest.FixtureRequest, server: ServerThread) -> Iterator[Call]:
    """Calls a function from outside; gives its answer as the HTTP API does."""

    def by_http(kind: str, path: str, args: dict[str, Any]) -> Any:
        return server.request("POST", f"/api/{kind}", {"path": path, "args": args}).json

    if request.param == "http":
        yield by_http
        return
    with RawSession(f"http://{server.address}") as client:

        def by_websocket(kind: str, path: str, args: dict[str, Any]) -> Any:
            if kind == "query":
                result = client.result(client.add(path, **args))
                if result["type"] == "QueryUpdated":
                    return {"status": "success", "value": result["value"]}
                data = {"errorData": result["errorData"]} if "errorData" in result else {}
                return {"status": "error", "errorMessage": result["errorMessage"], **data}
            answer = client.answer(client.request(kind.capitalize(), path, **args))
            name = "value" if answer["success"] else "errorMessage"
            return {"status": "success" if answer["success"] else "error", name: answer["result"]}

        yield by_websocket


def refusal(answer: Any) -> str:
    assert answer["status"] == "error", answer
    text: str = answer["errorMessage"]
    assert "secret" not in text
    return text.partition("\n")[2]


@pytest.mark.parametrize("kind", ["query", "mutation", "action"])
def test_internal_functions(call: Call, kind: str) -> None:
    """Whatever they are called as, they are as little there as those that are not."""
    for name in ("hidden_query", "hidden_mutation", "hidden_action", "nothing"):
        for path in (f"m:{name}", f"m.py:{name}", f"m.js:{name}"):
            assert refusal(call(kind, path, {})) == f"Could not find public function for 'm:{name}'."
    for path in ("_system/cli/tables", "_system/cli/modules:apiSpec"):
        assert refusal(call(kind, path, {})).startswith("Could not find public function for '_system/cli/")


@pytest.mark.parametrize("table", SYSTEM_TABLES)
def test_system_tables(call: Call, table: str) -> None:
    assert "SystemTableError: " in refusal(call("query", "m:rows", {"table": table}))
    assert "SystemTableError: System tables (prefixed with `_`) are read-only." in refusal(
        call("mutation", "m:write", {"table": table, "fields": {"name": "x"}})
    )


def test_rows_of_system_tables_by_their_id(call: Call) -> None:
    job = call("mutation", "m:schedule", {})["value"]
    for kind, path, args in (
        ("query", "m:row", {"id": job}),
        ("mutation", "m:change", {"id": job, "fields": {"name": "m:hidden_query"}}),
        ("mutation", "m:remove", {"id": job}),
    ):
        assert "SystemTableError" in refusal(call(kind, path, args)), path


def test_forged_cursors(server: ServerThread, call: Call) -> None:
    for text in "abc":
        call("mutation", "m:write", {"table": "notes", "fields": {"text": text}})
    first = call("query", "m:page", {"paginationOpts": {"numItems": 1, "cursor": None}})["value"]
    cursor = first["continueCursor"]
    other = "A" if cursor[len(cursor) // 2] != "A" else "B"
    forged = cursor[: len(cursor) // 2] + other + cursor[len(cursor) // 2 + 1 :]
    for made_up in (forged, cursor[:-4], cursor + "AAAA", "", "x", "e30="):
        for options in ({"cursor": made_up}, {"cursor": cursor, "endCursor": made_up}):
            answer = call("query", "m:page", {"paginationOpts": {"numItems": 1, **options}})
            assert "InvalidCursor" in refusal(answer), (made_up, options)
            assert answer["errorData"] == {"isConvexSystemError": True, "paginationError": "InvalidCursor"}


def test_what_is_for_administrators(server: ServerThread) -> None:
    for method, path in (
        ("POST", "/api/function"),
        ("GET", "/api/stream_function_logs"),
        ("GET", "/api/check_admin_key"),
        ("POST", "/api/admin/jobs/list"),
        ("POST", "/api/admin/crons/run"),
        ("GET", "/metrics"),
    ):
        body = {"path": "m:hidden_query", "args": {}} if method == "POST" else None
        refused = server.request(method, path, body)
        assert (refused.status, refused.json["code"]) == (403, "BadDeployKey"), path
        forged = server.request(method, path, body, headers={"Authorization": "Convex evolute|forged"})
        assert (forged.status, forged.json["code"]) == (401, "BadAdminKey"), path
    shown = server.request("GET", "/api/openapi.json").body + server.request("GET", "/").body
    assert b"hidden" not in shown
    assert orjson.loads(server.request("GET", "/api/openapi.json").body)["paths"]
