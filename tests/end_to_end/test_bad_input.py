"""What bad requests and frames get: a typed error that says what was wrong and where, from a server that serves on.

One server takes all of it. After every test the same process answers, a mutation commits and a query shows it; at the
end the store is sound and the server has logged no error that it did not expect.
"""

from __future__ import annotations

import base64
import json
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode
from websockets.sync.client import ClientConnection

from evolute.limits import KIB, MIB
from tests.end_to_end.bad_input_target import CONNECT, WAIT_S, Target, modify, new_session, running_target

WHOLE = "v.float64() that is a whole number"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with running_target(tmp_path_factory.mktemp("bad_input")) as target:
        yield target


@pytest.fixture
def server(running: Target) -> Iterator[Target]:
    yield running
    running.assert_serves()


# --- Requests ---------------------------------------------------------------------------------------------------------

ECHO = b'{"path":"well:echo","args":{"value":%b}}'


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "400 BadJsonBody: The body is not JSON: "),
        (b"{", "400 BadJsonBody: The body is not JSON: "),
        (b"\xff\xfe{}", "400 BadJsonBody: The body is not JSON: "),
        (ECHO % b'"\xc3\x28"', "400 BadJsonBody: The body is not JSON: "),
        (ECHO % b'"\\ud800"', "400 BadJsonBody: The body is not JSON: "),
        (ECHO % b"NaN", "400 BadJsonBody: The body is not JSON: "),
        (ECHO % b"-Infinity", "400 BadJsonBody: The body is not JSON: "),
        (ECHO % b"1e400", "400 BadJsonBody: The body is not JSON: number is infinity when parsed"),
        (ECHO % (b"[" * 10_000 + b"]" * 10_000), "400 BadJsonBody: The body is not JSON: "),
        (ECHO % (b"[" * 10_000), "400 BadJsonBody: The body is not JSON: "),
        (b"[" * 700 + b"]" * 700, "400 BadJsonBody: The body must be a JSON object, got what is too deep"),
        (b'"text"', '400 BadJsonBody: The body must be a JSON object, got "text".'),
        (b"{}", "400 BadJsonBody: The field `path` must be a string, got null."),
        (b'{"path":{"a":1},"args":{}}', '400 BadJsonBody: The field `path` must be a string, got {"a":1}.'),
        (b'{"path":"well:echo"}', "400 BadJsonBody: The field `args` is missing"),
        (b'{"path":"well:echo","args":{},"format":"xml"}', '400 BadFormat: There is no format "xml"; there are '),
        (b'{"path":"well:echo","args":{},"format":[1]}', "400 BadFormat: There is no format [1]; there are "),
        (b'{"path":"../x","args":{}}', "400 BadConvexFunctionIdentifier: Could not find public function for '../x'."),
        (b'{"path":"","args":{}}', "400 BadConvexFunctionIdentifier: Could not find public function for ''."),
        (b'{"path":"%b","args":{}}' % (b"x" * 100_000), "400 BadConvexFunctionIdentifier: Could not find public fun"),
        (b'{"path":"a:b\\u0000","args":{}}', "400 BadConvexFunctionIdentifier: Could not find public function for"),
        (ECHO % (b'"%b"' % (b"x" * 3 * MIB)), "400 BadJsonBody: The body is longer than 3145728 bytes (http_body_byte"),
    ],
)
def test_bodies_that_are_no_calls(server: Target, body: bytes, said: str) -> None:
    told = server.refused(body)
    assert told.startswith(said)
    assert len(told) < 2000, "what was sent is not sent back at its full length"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("1" * 300, ""),
        ("1e308", ""),
        ("-" + "9" * 30, ""),
        ('{"a":1,"a":2}', ""),
        ('{"schlüssel":1}', "Invalid arguments for well:echo: Field name 'schlüssel' has other characters than print"),
        ('{"$weird":1}', "Invalid arguments for well:echo: Field name '$weird' starts with '$', which is reserved"),
        ('{"a":{"$b":1,"c":2}}', "Invalid arguments for well:echo: Field name '$b' starts with '$', which is reserved"),
        ('{"$integer":"AA"}', "Invalid arguments for well:echo: The content of `$integer` is not base64"),
        ('{"$integer":7}', "Invalid arguments for well:echo: The content of `$integer` is not a string of base64"),
        ('{"$float":"AAAAAAAA8D8="}', "Invalid arguments for well:echo: `$float` is for NaN, infinities and -0.0; wri"),
        ('{"$bytes":"A=="}', "Invalid arguments for well:echo: The content of `$bytes` is not base64"),
        ("[" * 70 + "]" * 70, "Value is too nested (nested 65 levels deep > maximum nesting 64) at .value[0][0]"),
        ("[" * 400 + "]" * 400, "Value is too nested (nested 65 levels deep > maximum nesting 64) at .value[0][0]"),
        ("[" + "0," * 8192 + "0]", "Array length is too long (8193 > maximum length 8192) at .value"),
        ("{" + ",".join(f'"f{n}":0' for n in range(1025)) + "}", "Object has too many fields (1025 > maximum number"),
        ('{"' + "k" * 1025 + '":0}', "Field name is too long (1025 > maximum length 1024) at .value"),
        ('"' + "x" * (MIB + 1) + '"', "Arguments for well:echo are too large (actual: 1048589 bytes, limit: 1048576 b"),
    ],
)
def test_values_that_are_none(server: Target, value: str, said: str) -> None:
    """Empty: JSON that is odd, and a value all the same. Over both transports."""
    text = f'{{"path":"well:echo","args":{{"value":{value}}}}}'
    status, answer = server.request("POST", "/api/query", text.encode(), {"Content-Type": "application/json"})
    assert status == 200
    tree = json.loads(answer)
    assert said in tree.get("errorMessage", ""), tree
    assert (tree["status"] == "success") == (not said)
    add = f'{{"type":"Add","queryId":0,"udfPath":"well:echo","args":[{{"value":{value}}}]}}'
    with server.sync() as client:
        client.send(json.dumps(CONNECT | {"sessionId": new_session()}))
        client.send(json.dumps(modify("ADD")).replace('"ADD"', add))
        (change,) = json.loads(client.recv(timeout=WAIT_S))["modifications"]
        assert change["type"] == ("QueryFailed" if said else "QueryUpdated")
        assert said in change.get("errorMessage", "")


def test_the_last_of_two_equal_keys_counts(server: Target) -> None:
    answer = server.request("POST", "/api/query", ECHO % b'{"a":1,"a":2}', {"Content-Type": "application/json"})
    assert json.loads(answer[1])["value"] == {"a": 2}


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (
            7,
            "ArgumentValidationError: Expected to receive a single object as the function's argument. Instead received",
        ),
        ([{}, {}], "argument. Instead received 2 arguments: [{},{}]"),
        ([[]], "argument. Instead received []."),
        (["x"], 'argument. Instead received "x".'),
        ({}, "Object is missing the required field `whole`."),
        ({"whole": 1, "more": 2}, "Object contains extra field `more` that is not in the validator."),
        ({"whole": 1.5}, f"Value does not match validator.\nPath: .whole\nValue: 1.5\nValidator: {WHOLE}"),
        ({"whole": None}, f"Value does not match validator.\nPath: .whole\nValue: null\nValidator: {WHOLE}"),
        ({"whole": True}, f"Value does not match validator.\nPath: .whole\nValue: true\nValidator: {WHOLE}"),
        ({"whole": 1, "text": 2}, "Path: .text\nValue: 2.0\nValidator: v.string()"),
        ({"whole": 1, "inner": [{}, {"a": "b"}]}, f'Path: .inner[1].values()\nValue: "b"\nValidator: {WHOLE}'),
    ],
)
def test_arguments_that_do_not_fit_name_the_field(server: Target, args: object, said: str) -> None:
    assert said in server.error("query", "well:typed", args)
    assert said in server.answer("query", "well:typed", args if isinstance(args, list) else [args])["errorMessage"]


@pytest.mark.parametrize(
    ("kind", "path", "said"),
    [
        ("query", "well:nothing", "Could not find public function for 'well:nothing'."),
        ("query", "nowhere:f", "Could not find public function for 'nowhere:f'."),
        ("mutation", "well:hidden", "Could not find public function for 'well:hidden'."),
        ("query", "_system:x", "Could not find public function for '_system:x'."),
        ("mutation", "well:echo", "Trying to execute well.py:echo as Mutation, but it is defined as Query."),
        ("action", "well:add", "Trying to execute well.py:add as Action, but it is defined as Mutation."),
        ("query", "well:pause", "Trying to execute well.py:pause as Query, but it is defined as Action."),
    ],
)
def test_unknown_functions_and_wrong_kinds(server: Target, kind: str, path: str, said: str) -> None:
    assert server.error(kind, path) == said
    answer = server.answer(kind, path, [{}])
    assert said in (answer.get("errorMessage") or answer["result"])


def test_ids_that_are_none(server: Target) -> None:
    """Not an id, mistyped, of another table, of none, of a system table; the message names the argument."""
    item = server.value("mutation", "well:insert_any", table="items", fields={"n": 1})
    other = server.value("mutation", "well:insert_any", table="others", fields={})
    job = server.value("mutation", "well:later", delay=1e9)
    mistyped = item[:-1] + ("0" if item[-1] != "0" else "1")
    said = server.error("query", "well:of_item", {"item": other})
    assert f'Found ID "{other}" from table `others`, which does not match the table name in validator' in said
    assert "Path: .item" in said
    assert "from a system table" in server.error("query", "well:of_item", {"item": job})
    for bad in ("", "x", mistyped, 7):
        assert "Path: .item" in server.error("query", "well:of_item", {"item": bad})
    refusals = {
        "": "Invalid argument `id` for `db.get`: Unable to decode ID: Invalid ID length 0",
        "!" * 32: "Invalid argument `id` for `db.get`: Unable to decode ID: ID wasn't valid base32",
        mistyped: "Invalid argument `id` for `db.get`: Unable to decode ID: ",
        job: "System tables can only be accessed with db.system.",
    }
    for bad, text in refusals.items():
        assert text in server.error("query", "well:get_any", {"id": bad})
    assert "`db.get`, expected string but got 'list'" in server.error("query", "well:get_any", {"id": [1]})
    server.value("mutation", "well:delete_any", id=item)
    assert server.value("query", "well:get_any", id=item) is None
    assert f"Update on nonexistent document ID {item}" in server.error(
        "mutation", "well:patch_any", {"id": item, "fields": {}}
    )
    assert f"Delete on nonexistent document ID {item}" in server.error("mutation", "well:delete_any", {"id": item})


@pytest.mark.parametrize(
    ("table", "fields", "said"),
    [
        ("_sessions", {}, "System tables (prefixed with `_`) are read-only."),
        ("", {}, "Invalid table name ''"),
        ("no-name", {}, "Invalid table name 'no-name'"),
        ("others", {"_id": "x"}, "doesn't match '_id' field \"x\""),
        ("others", {"_creationTime": 1}, "doesn't match '_creationTime' field 1"),
        (
            "others",
            {"_hidden": 1},
            "Field '_hidden' starts with an underscore, which is only allowed for system fiel",
        ),
        ("others", [], "Invalid argument `value` for `db.insert`: expected a dict, but got list"),
        ("others", {"a": "x" * 1_040_000}, ""),
        ("others", {"a": "x" * 100_000, "b": [0] * 8192, "c": [[0] * 8192] * 12}, "Value is too large ("),
        ("others", {"a": [[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]}, "Document is too nested (nested 17 levels deep > maximum"),
        (
            "items",
            {"n": "x"},
            'Failed to insert or update a document in table "items" because it does not match the',
        ),
        ("items", {}, "Object is missing the required field `n`."),
    ],
)
def test_documents_that_are_none(server: Target, table: str, fields: object, said: str) -> None:
    answer = server.call("mutation", "well:insert_any", {"table": table, "fields": fields})
    assert (answer["status"] == "success") == (not said)
    assert said in answer.get("errorMessage", "")


@pytest.mark.parametrize(
    ("delay", "said"),
    [
        (-1, "InvalidSchedule: `delay` must be non-negative"),
        ({"$float": "AAAAAAAA+H8="}, "InvalidSchedule: `delay` must be a finite number"),
        ({"$float": "AAAAAAAA8H8="}, "InvalidSchedule: `delay` must be a finite number"),
        (6 * 366 * 24 * 3600 * 1000, "is more than 5 years in the future; the setting is schedule_ms_max"),
        (1e300, "is more than 5 years in the future; the setting is schedule_ms_max"),
        ("soon", "InvalidSchedule: `delay` must be a number of milliseconds or a timedelta, not 'soon'"),
        (True, "InvalidSchedule: `delay` must be a number of milliseconds or a timedelta, not True"),
        (None, "InvalidSchedule: `delay` must be a number of milliseconds or a timedelta, not None"),
    ],
)
def test_delays_that_are_none(server: Target, delay: object, said: str) -> None:
    assert said in server.error("mutation", "well:later", {"delay": delay})
    assert said in server.error("action", "well:action_later", {"delay": delay})


def test_schedules_that_cannot_be(server: Target) -> None:
    assert "InvalidSchedule: Unsupported function type. echo in module well is defined as a Query." in server.error(
        "mutation", "well:later", {"delay": 0, "target": "well:echo"}
    )
    assert "no exported function nothing found in the file: well.py." in server.error(
        "mutation", "well:later", {"delay": 0, "target": "well:nothing"}
    )
    assert "at nonexistent path: nowhere" in server.error(
        "action", "well:action_later", {"delay": 0, "target": "nowhere:f"}
    )
    assert "Object contains extra field `x`" in server.error("mutation", "well:later", {"delay": 0, "args": {"x": 1}})
    assert "is more than 5 years in the past" in server.error("mutation", "well:at", {"time": 0})
    assert "is before 1970" in server.error("mutation", "well:at", {"time": -1})
    other = server.value("mutation", "well:insert_any", table="others", fields={})
    for path, kind in (("well:cancel", "mutation"), ("well:action_cancel", "action")):
        assert "Unable to decode ID: Invalid ID length 1" in server.error(kind, path, {"job": "x"})
        assert "The ID must be an ID on the '_scheduled_functions' table." in server.error(kind, path, {"job": other})
        for bad in (7, None, [1], {"a": 1}):
            assert "Invalid argument `id` for `scheduler.cancel`, expected string but got" in server.error(
                kind, path, {"job": bad}
            )


def test_content_types_methods_and_addresses(server: Target) -> None:
    body = ECHO % b"1"
    for media_type in ("text/plain", "application/xml", "application/json2", "ünknown"):
        said = server.refused(body, Content_Type=media_type)
        assert said.startswith("400 BadJsonBody: The Content-Type must be application/json, got ")
    assert json.loads(server.request("POST", "/api/query", body)[1])["code"] == "BadJsonBody"
    for method in ("PUT", "DELETE", "PATCH"):
        status, answer = server.request(method, "/api/query", body, {"Content-Type": "application/json"})
        assert (status, json.loads(answer)["code"]) == (405, "MethodNotAllowed")
        assert f"{method} /api/query" in json.loads(answer)["message"]
    assert server.refused(b"{}", "/api/unknown").startswith("400 UnknownEndpoint: There is no endpoint POST /api/unkn")
    assert server.request("GET", "/%ff%00%0a/../..")[0] == 404
    assert server.request("GET", "/" + "a" * 20_000)[0] == 404


def test_credentials(server: Target) -> None:
    body = ECHO % b"1"
    secret = server.admin_key.rpartition("|")[2]
    refusals = {
        "": "401 InvalidAuthHeader: The Authorization header must begin with `Bearer `, or with `Convex ` before an",
        "Convex": "401 BadAdminKey: ",
        "Convex wrong": "401 BadAdminKey: ",
        "Convex \xfcber": "401 BadAdminKey: ",
        f"Convex {secret}:%%%": "401 Unauthenticated: After the `:` of an admin key comes the base64 of the JSON of an",
        f"Convex {secret}:{_base64(b'[]')}": "401 Unauthenticated: The identity to act as must be an object.",
        f"Convex {secret}:{_base64(b'{}')}": "401 Unauthenticated: The identity to act as must have a tokenIdentifier",
        f"Convex {secret}:{_base64(b'[' * 9000)}": "401 Unauthenticated: After the `:` of an admin key comes the base6",
        "Bearer token": "401 NoAuthProvider: No auth provider is configured",
        "Basic dTpw": "401 InvalidAuthHeader: The Authorization header must begin",
        "x" * 8000: "401 InvalidAuthHeader: The Authorization header must begin",
    }
    for header, said in refusals.items():
        told = server.refused(body, Authorization=header)
        assert told.startswith(said), (header, told)
        assert secret not in told
    assert server.refused(body, "/api/function").startswith("403 BadDeployKey: ")
    assert server.refused(body, "/api/query?adminKey=%ff%fe").startswith("401 BadAdminKey: ")


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.mark.parametrize(
    ("sent", "answered"),
    [
        (b"GET\r\n\r\n", b"HTTP/1.1 400 "),
        (b"\x16\x03\x01\x02\x00\x01\x00", b"HTTP/1.1 400 "),
        (b"POST /api/query HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n", b"HTTP/1.1 400 "),
        (b"POST /api/query HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", b"HTTP/1.1 400 "),
        (b"POST /\xff HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 40"),
        (
            b"POST /api/query HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n" + b"".join(b"1\r\n%c\r\n" % c for c in ECHO % b"1") + b"0\r\n\r\n",
            b'"value":1}',
        ),
        (
            b"POST /api/query HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
            b"HTTP/1.1 400 ",
        ),
        (
            b"POST /api/query HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n" + (b"80000\r\n" + b" " * 0x80000 + b"\r\n") * 7 + b"0\r\n\r\n",
            b"http_body_bytes_max",
        ),
        (b"GET /api/sync HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", b"HTTP/1.1 4"),
    ],
)
def test_bytes_that_are_hardly_http(server: Target, sent: bytes, answered: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.process.port), timeout=WAIT_S) as peer:
        heard = b""
        try:
            peer.sendall(sent)
            while answered not in heard and (data := peer.recv(64 * KIB)):
                heard += data
        except ConnectionError:
            pass  # the answer has been sent, and what came after it was not read
        assert answered in heard, heard


# --- Frames -----------------------------------------------------------------------------------------------------------

MALFORMED = "Received a message that is not of the protocol: "
ADD = {"type": "Add", "queryId": 0, "udfPath": "well:count", "args": [{}]}


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (b"\x00\x01", MALFORMED + "it is binary, and messages are text"),
        (json.dumps(CONNECT).encode(), MALFORMED + "it is binary, and messages are text"),
        ("", MALFORMED + "The message is not JSON: "),
        ("{", MALFORMED + "The message is not JSON: "),
        ("NaN", MALFORMED + "The message is not JSON: "),
        ('"\\ud800"', MALFORMED + "The message is not JSON: "),
        ("[" * 10_000, MALFORMED + "The message is not JSON: "),
        ("[]", MALFORMED + "A message must be a JSON object, got []."),
        ("[" * 700 + "]" * 700, MALFORMED + "A message must be a JSON object, got what is too deep"),
        ("{}", MALFORMED + "The message.type is missing."),
        ('{"type":' + "[" * 700 + "]" * 700 + "}", MALFORMED + "The message.type must be a string, got what is too d"),
        ({"type": "Nothing"}, MALFORMED + "There is no client message of type 'Nothing'."),
        ({"type": "x" * 100_000}, MALFORMED + "There is no client message of type 'xxxx"),
        (CONNECT | {"sessionId": "me"}, MALFORMED + "Connect.sessionId must be a UUID, got 'me'."),
        (CONNECT | {"connectionCount": -1}, MALFORMED + "Connect.connectionCount must be a whole number from 0 to"),
        (CONNECT | {"connectionCount": 1.5}, MALFORMED + "Connect.connectionCount must be a whole number from 0 to"),
        (CONNECT | {"maxObservedTimestamp": "x"}, MALFORMED + "Connect.maxObservedTimestamp "),
        (CONNECT | {"clientTs": "noon"}, MALFORMED + 'Connect.clientTs must be a whole number, got "noon".'),
        (modify(ADD, 7), MALFORMED + "ModifyQuerySet.modifications[1] must be an object, got 7."),
        (modify({"type": "Change"}), MALFORMED + "ModifyQuerySet.modifications[0].type must be 'Add' or 'Remove'"),
        (modify(ADD | {"queryId": "0"}), MALFORMED + "ModifyQuerySet.modifications[0].queryId must be a whole number"),
        (modify(ADD | {"udfPath": None}), MALFORMED + "ModifyQuerySet.modifications[0].udfPath must be a string"),
        (modify(ADD, ADD), "Query 0 is added, and there is one already."),
        (modify({"type": "Remove", "queryId": 9}), "Query 9 is removed, but there is none."),
        (modify(ADD, base=5), "ModifyQuerySet.baseVersion is 5, but the last version received was 0."),
        ({"type": "Mutation", "requestId": 0, "udfPath": "well:add"}, MALFORMED + "Mutation.args is missing."),
        ({"type": "Mutation", "udfPath": "well:add", "args": []}, MALFORMED + "Mutation.requestId is missing."),
        ({"type": "Action", "requestId": 2**32, "udfPath": "x", "args": []}, MALFORMED + "Action.requestId must be a"),
        ({"type": "Authenticate", "baseVersion": 3, "tokenType": "None"}, "Authenticate.baseVersion is 3, but the las"),
        ({"type": "Authenticate", "baseVersion": 0, "tokenType": "Key"}, MALFORMED + "Authenticate.tokenType must be"),
        ({"type": "Authenticate", "baseVersion": 0, "tokenType": "User"}, MALFORMED + "Authenticate.value is missing"),
    ],
)
def test_frames_that_are_no_messages(server: Target, frame: object, said: str) -> None:
    """The client is told what was wrong and where, then its connection is closed; others are served."""
    sent = frame if isinstance(frame, (str, bytes)) else json.dumps(frame)
    heard, code, _ = server.told(sent)
    assert heard[-1]["type"] == "FatalError"
    assert heard[-1]["error"].startswith(said), heard[-1]
    assert len(heard[-1]["error"]) < 500
    assert code is not None


def test_connecting_twice_and_from_the_future(server: Target) -> None:
    heard, _, reason = server.told(json.dumps(CONNECT), json.dumps(CONNECT))
    assert heard[-1] == {"type": "FatalError", "error": "Connect came twice on one connection."}
    assert reason == "ConnectTwice"
    future = base64.b64encode(struct.pack("<q", 2**62)).decode()
    assert server.told(json.dumps(CONNECT | {"maxObservedTimestamp": future})) == ([], 1011, "ClientAheadOfServer")


def test_tokens_that_nobody_has(server: Target) -> None:
    for token, said in (
        ({"tokenType": "User", "value": "jwt"}, "No auth provider is configured"),
        ({"tokenType": "Admin", "value": "wrong"}, "The admin key is not this server's"),
    ):
        heard, _, _ = server.told(json.dumps(CONNECT), json.dumps({"type": "Authenticate", "baseVersion": 0, **token}))
        assert heard[-1]["type"] == "AuthError"
        assert said in heard[-1]["error"]


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (Frame(Opcode.TEXT, b"\xff\xfe"), 1007),
        (Frame(Opcode.CONT, b"x"), 1002),
        (Frame(Opcode.PING, b"x" * 126), 1002),
        (Frame(Opcode.TEXT, b"{}", rsv1=True), 1002),
        (Frame(Opcode.CLOSE, b"\x00"), 1002),
    ],
)
def test_frames_that_break_the_websocket(server: Target, frame: Frame, code: int) -> None:
    with server.sync() as client:
        mask, length = b"\x01\x02\x03\x04", len(frame.data)
        head = bytes([0x80 | (0x40 if frame.rsv1 else 0) | frame.opcode])
        head += bytes([0x80 | length]) if length < 126 else struct.pack("!BH", 0xFE, length)
        assert_closed(
            client, head + mask + bytes(byte ^ mask[place % 4] for place, byte in enumerate(frame.data)), code
        )


def test_a_frame_that_announces_too_much(server: Target) -> None:
    with server.sync() as client:
        assert_closed(client, struct.pack("!BBQ", 0x81, 0xFF, 4 * MIB + 1) + bytes(4), 1009)


def assert_closed(client: ClientConnection, sent: bytes, code: int) -> None:
    client.socket.sendall(sent)
    with pytest.raises(ConnectionClosed) as caught:
        client.recv(timeout=WAIT_S)
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == code


SCALARS = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=20)
TREES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
)
VALID: list[dict[str, Any]] = [
    CONNECT,
    CONNECT | {"maxObservedTimestamp": "AAAAAAAAAAA="},
    modify(ADD, {"type": "Remove", "queryId": 0}, ADD | {"journal": None, "componentPath": ""}),
    {"type": "Mutation", "requestId": 0, "udfPath": "well:insert_any", "args": [{"table": "f", "fields": {"a": 1}}]},
    {"type": "Action", "requestId": 1, "udfPath": "well:pause", "args": [{}]},
    {"type": "Authenticate", "baseVersion": 0, "tokenType": "None"},
    {"type": "Authenticate", "baseVersion": 0, "tokenType": "Admin", "value": "x", "impersonating": {"subject": "me"}},
    {"type": "Event", "eventType": "x", "event": {}},
]


@st.composite
def mutations(draw: st.DrawFn) -> str:
    """A valid message in which one thing was replaced, removed, added, or cut off."""
    tree = json.loads(json.dumps(draw(st.sampled_from(VALID))))
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        for key, item in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
            places.append((node, key))
            walk(item)

    walk(tree)
    holder, key = draw(st.sampled_from(places))
    match draw(st.sampled_from(["replace", "remove", "copy", "cut"])):
        case "replace":
            holder[key] = draw(TREES)
        case "remove":
            del holder[key]
        case "copy":
            other, other_key = draw(st.sampled_from(places))
            holder[key] = json.loads(json.dumps(other[other_key])) if other_key in _keys(other) else None
        case "cut":
            text = json.dumps(tree)
            return text[: draw(st.integers(0, len(text)))]
    return json.dumps(tree)


def _keys(node: Any) -> Any:
    return range(len(node)) if isinstance(node, list) else node


@settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(frames=st.lists(mutations(), min_size=1, max_size=5))
def test_mutated_messages(running: Target, frames: list[str]) -> None:
    """Whatever is said, each answer is a message of the protocol, and the socket is closed with a code or serves on."""
    with running.sync() as client:
        last = json.dumps({"type": "Action", "requestId": 4_000_000_000, "udfPath": "well:pause", "args": [{}]})
        try:
            for frame in [*frames, last]:
                client.send(frame)
            while True:
                message = json.loads(client.recv(timeout=WAIT_S))
                assert message["type"] in (
                    "Transition",
                    "MutationResponse",
                    "ActionResponse",
                    "AuthError",
                    "FatalError",
                    "Ping",
                )
                if message.get("requestId") == 4_000_000_000:
                    return
                if message["type"] in ("AuthError", "FatalError"):
                    assert message["error"]
        except ConnectionClosed as closed:
            end = closed.rcvd
    assert end is not None
    assert end.code != 1011 or end.reason == "ClientAheadOfServer", end


@settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    body=st.one_of(
        st.binary(max_size=200),
        TREES.map(lambda tree: json.dumps({"path": "well:echo", "args": tree}).encode()),
        TREES.map(lambda tree: json.dumps({"path": "well:echo", "args": {"value": tree}, "format": "json"}).encode()),
        TREES.map(lambda tree: json.dumps({"path": tree, "args": {}}).encode()),
    )
)
def test_generated_bodies(running: Target, body: bytes) -> None:
    status, answer = running.request("POST", "/api/query", body, {"Content-Type": "application/json"})
    tree = json.loads(answer)
    assert status in (200, 400)
    assert ("status" in tree) if status == 200 else set(tree) == {"code", "message"}


def test_all_is_well_after_the_generated_ones(server: Target) -> None:
    """The fixture looks."""
