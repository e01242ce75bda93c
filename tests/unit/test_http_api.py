"""The HTTP API of a real server: statuses, bodies, formats, credentials, CORS (protocol §6)."""

from __future__ import annotations

import base64
import http.client
import logging
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import orjson
import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from evolute.limits import Limits
from tests.server_thread import Reply, ServerThread

FUNCTIONS = {
    "m.py": """
from evolute import ActionCtx, ConvexError, Int64, MutationCtx, QueryCtx, action, internal_query, mutation, query

@query
def echo(ctx: QueryCtx, value: object = None):
    return value

@query
def numbers(ctx: QueryCtx):
    return {"whole": 3, "half": 0.5, "big": Int64(7), "nan": float("nan"), "bytes": b"xy", "text": "ü"}

@query
def fails(ctx: QueryCtx, data=None):
    print("about to fail")
    if data is not None:
        raise ConvexError(data)
    raise ValueError("a secret")

@internal_query
def hidden(ctx: QueryCtx) -> str:
    return "found"

@mutation
def add(ctx: MutationCtx, body: str) -> int:
    ctx.db.insert("items", {"body": body})
    return len(ctx.db.query("items").collect())

@query
def count(ctx: QueryCtx) -> int:
    return len(ctx.db.query("items").collect())

@mutation
def note(ctx: MutationCtx, text: str) -> None:
    ctx.db.insert("notes", {"text": text})

@action
async def act(ctx: ActionCtx) -> str:
    return "done"
""".replace("value: object = None", "value=None"),
    "sub/deep.py": """
from evolute import QueryCtx, query

@query
def inner(ctx: QueryCtx) -> str:
    return "inner"
""",
    "schema.py": """
from evolute import Document, define_schema, define_table

class Item(Document):
    body: str

schema = define_schema(items=define_table(Item))
""",
}


LIMITS = Limits(http_body_bytes_max=2_000, http_batch_queries_max=8, echo_bytes_max=3_000, pinned_snapshots_max=0)


@pytest.fixture(scope="module")
def server() -> Iterator[ServerThread]:
    with ServerThread(FUNCTIONS, LIMITS) as server:
        yield server


def call(server: ServerThread, kind: str, path: str, args: Any = None, **more: Any) -> Reply:
    headers = more.pop("headers", None)
    body = {"path": path, "args": {} if args is None else args, **more}
    return server.request("POST", f"/api/{kind}", body, headers=headers)


def test_calls_of_each_kind(server: ServerThread) -> None:
    assert call(server, "query", "m:echo", {"value": [1, "x"]}).json == {"status": "success", "value": [1, "x"]}
    first = call(server, "mutation", "m:add", {"body": "x"}).json
    second = call(server, "mutation", "m:add", {"body": "x"}).json
    assert first == {"status": "success", "value": second["value"] - 1}
    assert call(server, "action", "m:act").json == {"status": "success", "value": "done"}


def test_arguments_are_an_object_alone_or_in_a_list(server: ServerThread) -> None:
    """Trap 41."""
    for args in ({"value": 1}, [{"value": 1}]):
        assert call(server, "query", "m:echo", args).json["value"] == 1
    assert call(server, "query", "m:echo", []).json["value"] is None


@pytest.mark.parametrize("path", ["m:echo", "m.js:echo", "m.py:echo"])
def test_paths_have_several_spellings(server: ServerThread, path: str) -> None:
    """Trap 26."""
    assert call(server, "query", path, {"value": 1}, componentPath="").json["value"] == 1


def test_a_function_that_raises_is_an_answer(server: ServerThread) -> None:
    """Trap 39: 200 and `status`; `errorData` only for a ConvexError."""
    failed = call(server, "query", "m:fails")
    assert failed.status == 200
    assert failed.json["status"] == "error"
    assert failed.json["errorMessage"].startswith("[Request ID: ")
    assert "\nUncaught ValueError: a secret\n" in failed.json["errorMessage"]
    assert failed.json["logLines"] == ["[LOG] about to fail"]
    assert "errorData" not in failed.json
    assert call(server, "query", "m:fails", {"data": {"code": 1}}).json["errorData"] == {"code": 1}


def test_what_nobody_may_call_does_not_exist(server: ServerThread) -> None:
    """Trap 51: internal and missing are told alike."""
    missing, hidden = call(server, "query", "m:missing"), call(server, "query", "m:hidden")
    assert missing.status == hidden.status == 200
    assert missing.json["errorMessage"].endswith("Could not find public function for 'm:missing'.")
    assert hidden.json["errorMessage"].endswith("Could not find public function for 'm:hidden'.")
    wrong_kind = call(server, "mutation", "m:echo").json["errorMessage"]
    assert "m.py:echo" in wrong_kind
    assert "Mutation" in wrong_kind


@pytest.mark.parametrize("args", [[1], [{}, {}], {"$x": 1}, {"value": {"$float": "AAAAAAAA8D8="}}, {"unknown": 1}])
def test_arguments_that_do_not_fit_fail_the_call(server: ServerThread, args: Any) -> None:
    """Traps 9, 36."""
    failed = call(server, "query", "m:echo", args)
    assert (failed.status, failed.json["status"]) == (200, "error")


def test_formats(server: ServerThread) -> None:
    clean = {"whole": 3, "half": 0.5, "big": "7", "nan": "NaN", "bytes": "eHk=", "text": "ü"}
    for name in (None, "json", "convex_clean_json"):
        assert call(server, "query", "m:numbers", **({"format": name} if name else {})).json["value"] == clean
    for name in ("convex_encoded_json", "convex_json"):
        encoded = call(server, "query", "m:numbers", format=name).json["value"]
        assert encoded["big"] == {"$integer": "BwAAAAAAAAA="}
        assert encoded["nan"] == {"$float": "AAAAAAAA+H8="}
        assert encoded["bytes"] == {"$bytes": "eHk="}
    exported = server.request("POST", "/api/query", {"path": "m:numbers", "args": {}, "format": "export_json"}).body
    assert b'"big":7,"bytes":{"$bytes":"eHk="},"half":0.5,"nan":{"$float":"AAAAAAAA+H8="}' in exported
    assert b'"whole":3.0' in exported
    assert_refused(call(server, "query", "m:numbers", format="xml"), 400, "BadFormat", "convex_encoded_json")


def test_ancient_clients_get_the_encoded_form_unasked(server: ServerThread) -> None:
    for client, big in (
        ("npm-1.4.0", {"$integer": "BwAAAAAAAAA="}),
        ("python-0.4.9", {"$integer": "BwAAAAAAAAA="}),
        ("npm-1.4.1", "7"),
        ("python-0.5.0", "7"),
        ("npm-cli-1.0.0", "7"),
        ("nonsense", "7"),
    ):
        reply = call(server, "query", "m:numbers", headers={"Convex-Client": client})
        assert reply.json["value"]["big"] == big, client


def test_a_python_client_reads_whole_numbers_with_a_point(server: ServerThread) -> None:
    """Trap 33."""
    wanted = {"path": "m:fails", "args": {"data": [3, {"$integer": "BwAAAAAAAAA="}]}, "format": "convex_encoded_json"}
    python = server.request("POST", "/api/query", wanted, headers={"Convex-Client": "python-0.8.1"})
    assert b'"errorData":[3.0,{"$integer":"BwAAAAAAAAA="}]' in python.body
    other = server.request("POST", "/api/query", wanted, headers={"Convex-Client": "npm-1.48.0"})
    assert b'"errorData":[3,{"$integer":"BwAAAAAAAAA="}]' in other.body


def assert_refused(reply: Reply, status: int, code: str, *words: str) -> None:
    """Trap 40: every refusal has a `code` and a `message`, and the message says what is wrong."""
    assert reply.status == status
    assert set(reply.json) == {"code", "message"}
    assert reply.json["code"] == code
    assert all(word in reply.json["message"] for word in words), reply.json


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{", "not JSON"),
        (b'{"path":"m:echo","args":{"value":NaN}}', "not JSON"),
        (b"[]", "object"),
        (b'{"args":{}}', "`path`"),
        (b'{"path":7,"args":{}}', "`path`"),
        (b'{"path":"m:echo"}', "`args`"),
        (b'{"path":"m:echo","args":{"value":"' + b"x" * 2_000 + b'"}}', "http_body_bytes_max"),
    ],
)
def test_a_bad_body_is_refused_by_name(server: ServerThread, body: bytes, words: str) -> None:
    assert_refused(server.request("POST", "/api/query", body), 400, "BadJsonBody", words)


def test_requests_that_are_not_calls(server: ServerThread) -> None:
    text = server.request("POST", "/api/query", b"{}", headers={"Content-Type": "text/plain"})
    assert_refused(text, 400, "BadJsonBody", "Content-Type", "text/plain")
    suffix = {"Content-Type": "application/x+json; charset=utf-8"}
    assert server.request("POST", "/api/query", {"path": "m:echo", "args": {}}, headers=suffix).status == 200
    assert_refused(call(server, "query", "not a path!"), 400, "BadConvexFunctionIdentifier", "not a path!")
    assert_refused(server.request("POST", "/api/push_config", {}), 400, "UnknownEndpoint", "/api/push_config")
    assert_refused(server.request("GET", "/nowhere"), 404, "NotFound", "/nowhere")
    assert_refused(server.request("PUT", "/api/query", {}), 405, "MethodNotAllowed")


def test_a_query_in_the_address(server: ServerThread) -> None:
    def get(**parameters: str) -> Reply:
        return server.request("GET", "/api/query?" + urlencode(parameters))

    assert get(path="m:echo", args='{"value":[1]}').json == {"status": "success", "value": [1]}
    assert get(path="m:echo").json["value"] is None
    encoded = get(path="m:numbers", args="{}", format="convex_encoded_json").json["value"]
    assert encoded["big"] == {"$integer": "BwAAAAAAAAA="}
    assert get(path="m:hidden").json["status"] == "error"
    assert get(path="m:add", args='{"body":"x"}').json["status"] == "error"
    assert_refused(get(), 400, "BadQueryParameter", "`path`")
    assert_refused(get(path="m:echo", args="{"), 400, "BadQueryParameter", "`args`")
    assert_refused(get(path="m:echo", format="xml"), 400, "BadFormat")
    assert_refused(server.request("GET", "/api/mutation?path=m:add"), 405, "MethodNotAllowed")


def test_a_function_of_any_kind_by_its_address(server: ServerThread) -> None:
    assert server.request("POST", "/api/run/m/echo", {"args": {"value": 1}}).json == {"status": "success", "value": 1}
    assert server.request("POST", "/api/run/m/act", {"args": {}}).json["value"] == "done"
    assert server.request("POST", "/api/run/sub/deep/inner", {"args": {}}).json["value"] == "inner"
    added = server.request("POST", "/api/run/m/add", {"args": {"body": "x"}, "format": "convex_encoded_json"})
    assert added.json["status"] == "success"
    hidden, missing = (
        server.request("POST", f"/api/run/m/{name}", {"args": {}}).json["errorMessage"].partition("\n")[2]
        for name in ("hidden", "missing")
    )
    assert missing == "Could not find public function for 'm:missing'."
    assert hidden == missing.replace("missing", "hidden")
    admin = {"Authorization": f"Convex {server.admin_key}"}
    assert server.request("POST", "/api/run/m/hidden", {"args": {}}, headers=admin).json["value"] == "found"
    for path in ("m", "", "m/", "/m"):
        reply = server.request("POST", f"/api/run/{path}", {"args": {}})
        assert_refused(reply, 400, "BadConvexFunctionIdentifier", "/api/run/<module>/<function>")


def test_several_queries_as_of_one_time(server: ServerThread) -> None:
    queries: list[Any] = [
        {"path": "m:numbers", "args": {}, "format": "convex_encoded_json"},
        {"path": "m:echo", "args": [{"value": 1}]},
        {"path": "m:echo", "args": [{"value": 1}]},
        {"path": "m:fails", "args": {"data": {"code": 1}}},
        {"path": "m:echo", "args": [1]},
        {"path": "m:add", "args": {"body": "x"}},
    ]
    results = server.request("POST", "/api/query_batch", {"queries": queries}).json["results"]
    assert results[0]["value"]["big"] == {"$integer": "BwAAAAAAAAA="}
    assert results[1] == results[2] == {"status": "success", "value": 1}
    assert results[3]["errorData"] == {"code": 1}
    assert [result["status"] for result in results[3:]] == ["error"] * 3
    assert server.request("POST", "/api/query_batch", {"queries": []}).json == {"results": []}
    for body, words in (
        ({}, "`queries`"),
        ({"queries": [1]}, "`queries`"),
        ({"queries": [{"path": "m:echo"}]}, "`queries[0].args`"),
        ({"queries": queries[1:2] * 9}, "http_batch_queries_max"),
    ):
        assert_refused(server.request("POST", "/api/query_batch", body), 400, "BadJsonBody", words)


def test_queries_as_of_an_earlier_time(server: ServerThread) -> None:
    """No moment is kept here: what nobody has changed since is answered, and what has changed is refused."""

    def at(ts: object, path: str, args: object = None) -> Reply:
        return call(server, "query_at_ts", path, args, ts=ts)

    ts = server.request("POST", "/api/query_ts").json["ts"]
    count = at(ts, "m:count").json["value"]
    call(server, "mutation", "m:note", {"text": "elsewhere"})
    assert at(ts, "m:count").json == {"status": "success", "value": count}
    call(server, "mutation", "m:add", {"body": "x"})
    assert_refused(at(ts, "m:count"), 503, "OutOfRetention", "m:count", "latest timestamp")
    assert at(ts, "m:echo", {"value": 1}).json["value"] == 1
    later = server.request("POST", "/api/query_ts").json["ts"]
    assert at(later, "m:count").json["value"] == count + 1
    assert at(later, "m:echo", [1]).json["status"] == "error"
    assert_refused(at("////////fw==", "m:count"), 400, "BadJsonBody", "ts must be")
    assert_refused(at("////////f38=", "m:count"), 400, "TimestampInFuture", "/api/query_ts")
    assert_refused(at(None, "m:count"), 400, "BadJsonBody", "`ts`")
    assert_refused(at("AAAAAAAAAAA=", "m:count"), 503, "OutOfRetention")


def test_a_proxy_may_name_a_request(server: ServerThread) -> None:
    named = call(server, "query", "m:fails", headers={"Convex-Request-Id": "from-the-proxy_1"})
    assert named.json["errorMessage"].startswith("[Request ID: from-the-proxy_1] Server Error")
    for bad in ("", "with space", "x" * 65, "a]b"):
        text = call(server, "query", "m:fails", headers={"Convex-Request-Id": bad}).json["errorMessage"]
        assert re.match(r"\[Request ID: [0-9a-f]{16}\] Server Error\n", text), text


def test_the_admin_key_opens_what_is_internal(server: ServerThread) -> None:
    admin = {"Authorization": f"Convex {server.admin_key}"}
    assert call(server, "query", "m:hidden", headers=admin).json["value"] == "found"
    assert call(server, "function", "m:hidden", headers=admin).json["value"] == "found"
    assert call(server, "function", "m:act", headers=admin).json["value"] == "done"
    by_parameter = server.request("POST", f"/api/query?adminKey={server.admin_key}", {"path": "m:hidden", "args": {}})
    assert by_parameter.json["value"] == "found"
    assert_refused(call(server, "function", "m:echo"), 403, "BadDeployKey", "Authorization")
    wrong = {"Authorization": "Convex evolute|wrong"}
    for kind in ("query", "function"):
        assert_refused(call(server, kind, "m:echo", headers=wrong), 401, "BadAdminKey")
    assert_refused(call(server, "query", "m:echo", headers={"Authorization": "Bearer x"}), 401, "NoAuthProvider")
    allowed = server.request("GET", "/api/check_admin_key", headers=admin).json
    assert allowed == {"success": True, "allowedOps": ["*"], "isReadOnly": False}
    assert_refused(server.request("GET", "/api/check_admin_key"), 403, "BadDeployKey")
    assert_refused(server.request("GET", "/api/check_admin_key", headers=wrong), 401, "BadAdminKey")


def test_browsers_may_call_from_anywhere(server: ServerThread) -> None:
    """§6.3: the origin is mirrored, in refusals too, and a preflight is answered."""
    origin = "https://app.example"
    for reply in (
        call(server, "query", "m:echo", headers={"Origin": origin}),
        server.request("POST", "/api/query", b"{", headers={"Origin": origin}),
    ):
        assert reply.headers["access-control-allow-origin"] == origin
        assert reply.headers["access-control-allow-credentials"] == "true"
        assert "Origin" in reply.headers["vary"]
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type, convex-client"}
    preflight = server.request("OPTIONS", "/api/query", headers={"Origin": origin, **asked})
    assert preflight.status == 200
    assert preflight.headers["access-control-allow-headers"] == "content-type, convex-client"
    assert "POST" in preflight.headers["access-control-allow-methods"]
    assert preflight.headers["access-control-max-age"] == "86400"
    assert "access-control-allow-origin" not in call(server, "query", "m:echo").headers


def test_pages_and_odd_addresses(server: ServerThread) -> None:
    for path in ("/version", "/instance_version"):
        assert server.request("GET", path).body == b"0.1.0"
    assert server.request("GET", "/instance_name").body == server.admin_key.partition("|")[0].encode()
    sent = bytes(range(256)) * 8
    echoed = server.request("POST", "/echo", sent, headers={"Content-Type": "application/octet-stream"})
    assert (echoed.body, echoed.headers["content-type"]) == (sent, "application/octet-stream")
    assert_refused(server.request("POST", "/echo", sent * 2), 400, "BadJsonBody", "echo_bytes_max")
    page = server.request("GET", "/")
    assert page.headers["content-type"].startswith("text/html")
    assert b"evolute 0.1.0" in page.body
    assert b"5 queries, 2 mutations, 1 action" in page.body
    twice = server.request("POST", "//api//query", {"path": "m:echo", "args": {"value": 1}})
    assert twice.json["value"] == 1
    ts = server.request("POST", "/api/query_ts", headers={"Content-Type": "application/json", "Content-Length": "0"})
    assert len(base64.b64decode(ts.json["ts"])) == 8


def test_a_client_that_goes_away_in_the_middle_harms_nobody(server: ServerThread) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.putrequest("POST", "/api/query")
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", "1000")
    connection.endheaders(b'{"path":')
    connection.close()
    assert call(server, "query", "m:echo").status == 200


def test_a_fault_of_ours_is_logged_and_not_told(server: ServerThread, caplog: pytest.LogCaptureFixture) -> None:
    async def broken(request: Request) -> Response:
        raise RuntimeError("the reason")

    server.app.router.routes.append(Route("/broken", broken))
    with caplog.at_level(logging.ERROR):
        reply = server.request("GET", "/broken")
    assert_refused(reply, 500, "InternalServerError")
    assert "the reason" not in reply.body.decode()
    assert "RuntimeError: the reason" in caplog.text
    assert call(server, "query", "m:echo").status == 200


def test_redacted_errors_keep_their_data() -> None:
    """Trap 52."""
    with ServerThread(FUNCTIONS, redact=True) as server:
        failed = call(server, "query", "m:fails", {"data": {"code": 1}})
        assert failed.json["errorData"] == {"code": 1}
        assert "logLines" not in failed.json
        head, _, rest = failed.json["errorMessage"].partition("] ")
        assert head.startswith("[Request ID: ")
        assert rest == "Server Error"
        assert "secret" not in orjson.dumps(call(server, "query", "m:fails").json).decode()
