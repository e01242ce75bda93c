"""Messages to JSON text and back; the only module that knows how the sync protocol spells its fields.

    decode_client ──► messages ──► encode_server          (the server's half)
    encode_client ◄── messages ◄── decode_server          (the client's half)

Values are spliced in as the bytes they are, never encoded again. What all sessions of one query share is made once by
`encode_result`; `encode_modification` puts one session's query id before it. Whole numbers stay whole numbers: PyPI's
client takes `1.0` where it expects `1` for a broken connection.

Decoding takes nothing on trust. A message that is not one of the protocol's raises MalformedMessage, which says what
was wrong and where; arguments that are not values become the `fault` of their call. Fields that nobody knows are
ignored. How long a message may be is the transport's business (`limits.message_bytes_max`).
"""

from __future__ import annotations

import functools
import uuid
from collections.abc import Iterable, Mapping
from typing import TypeAlias

import orjson

from evolute.errors import InvalidValue, MalformedMessage
from evolute.limits import Limits
from evolute.protocol.fields import Fields, shown
from evolute.protocol.json_text import json_text
from evolute.protocol.messages import (
    NO_ARGUMENTS,
    Action,
    ActionResponse,
    AddQuery,
    AdminToken,
    Authenticate,
    AuthError,
    ClientMessage,
    Connect,
    Event,
    Failure,
    FatalError,
    Modification,
    ModifyQuerySet,
    Mutation,
    MutationResponse,
    NoToken,
    Ping,
    QueryFailed,
    QueryRemoved,
    QueryUpdated,
    RemoveQuery,
    ServerMessage,
    StateVersion,
    Success,
    Token,
    Transition,
    UserToken,
)
from evolute.protocol.timestamp import decode_ts, encode_ts
from evolute.values import function_path, wire_codec

Tree: TypeAlias = Mapping[str, object]

_VERSIONS_MAX = 1024


# --- Server: what leaves --------------------------------------------------------------------------------------------


def encode_server(message: ServerMessage) -> bytes:
    match message:
        case Transition():
            return _transition(message)
        case MutationResponse(request_id, result, ts, log_lines):
            assert (ts is not None) == isinstance(result, Success), "a success has a commit timestamp, a failure none"
            if ts is not None and isinstance(result, Success):
                return _success(request_id, result.value, ts, log_lines)
            head = {"type": "MutationResponse", "requestId": request_id}
            return json_text(head | _result(result) | {"ts": None, "logLines": log_lines})
        case ActionResponse(request_id, result, log_lines):
            head = {"type": "ActionResponse", "requestId": request_id}
            return json_text(head | _result(result) | {"logLines": log_lines})
        case AuthError(error, base_version, attempted):
            tree: Tree = {"type": "AuthError", "error": error, "baseVersion": base_version}
            return json_text({**tree, "authUpdateAttempted": attempted})
        case FatalError(error):
            return json_text({"type": "FatalError", "error": error})
        case Ping():
            return b'{"type":"Ping"}'


def _success(request_id: int, value: bytes, ts: int, log_lines: tuple[str, ...]) -> bytes:
    """Of nearly every mutation: its bytes are joined, which takes half as long as a tree of them."""
    head = b'{"type":"MutationResponse","requestId":%d,"success":true,"result":' % request_id
    lines = json_text(log_lines) if log_lines else b"[]"
    return b"".join((head, value, b',"ts":"', encode_ts(ts).encode(), b'","logLines":', lines, b"}"))


def encode_result(result: Success | Failure, log_lines: tuple[str, ...], journal: str | None = None) -> bytes:
    """The part of QueryUpdated or QueryFailed that is the same for every session; for `encode_modification`.

    It is joined and not what orjson returns, which has thousands of bytes of room behind it: this is kept.
    """
    parts: list[bytes] = []
    match result:
        case Success(value):
            parts += (b'{"type":"QueryUpdated","value":', value)
        case Failure(message, data):
            parts += (b'{"type":"QueryFailed","errorMessage":', json_text(message))
            if data is not None:
                parts += (b',"errorData":', data)
    parts += (b',"logLines":', json_text(log_lines), b',"journal":', json_text(journal), b"}")
    return b"".join(parts)


def encode_modification(query_id: int, result: bytes | None) -> bytes:
    """One entry of `Transition.modifications`: what `encode_result` made, or None for QueryRemoved."""
    if result is None:
        return b'{"queryId":%d,"type":"QueryRemoved"}' % query_id
    return b"".join((b'{"queryId":%d,' % query_id, memoryview(result)[1:]))


def _transition(message: Transition) -> bytes:
    text = join_transition(message.start, message.end, map(_modification, message.modifications))
    skew, server_ts = message.client_clock_skew, message.server_ts
    if skew is None or server_ts is None:
        assert skew is server_ts, "clientClockSkew and serverTs are sent both or not at all"
        return text
    return with_clock_skew(text, skew, server_ts)


def join_transition(start: StateVersion, end: StateVersion, modifications: Iterable[bytes]) -> bytes:
    """A Transition of what `encode_modification` made."""
    head = (b'{"type":"Transition","startVersion":', _version(start), b',"endVersion":', _version(end))
    return b"".join((*head, b',"modifications":[', b",".join(modifications), b"]}"))


def with_clock_skew(transition: bytes, skew: int, server_ts: int) -> bytes:
    """The same for a client that has told its time."""
    return b"".join((memoryview(transition)[:-1], b',"clientClockSkew":%d,"serverTs":%d}' % (skew, server_ts)))


def _modification(modification: Modification | bytes) -> bytes:
    match modification:
        case bytes():
            return modification
        case QueryUpdated(query_id, value, log_lines, journal):
            return encode_modification(query_id, encode_result(Success(value), log_lines, journal))
        case QueryFailed(query_id, error_message, error_data, log_lines, journal):
            return encode_modification(query_id, encode_result(Failure(error_message, error_data), log_lines, journal))
        case QueryRemoved(query_id):
            return encode_modification(query_id, None)


@functools.lru_cache(maxsize=_VERSIONS_MAX)  # sessions of one query stand at the same versions
def _version(version: StateVersion) -> bytes:
    ts = encode_ts(version.ts).encode()
    return b'{"querySet":%d,"identity":%d,"ts":"%b"}' % (version.query_set, version.identity, ts)


def _result(result: Success | Failure) -> dict[str, object]:
    match result:
        case Success(value):
            return {"success": True, "result": orjson.Fragment(value)}
        case Failure(message, data):
            tree: dict[str, object] = {"success": False, "result": message}
            return tree if data is None else {**tree, "errorData": orjson.Fragment(data)}


# --- Server: what arrives -------------------------------------------------------------------------------------------


def decode_client(text: str | bytes, limits: Limits) -> ClientMessage:
    """Raises MalformedMessage."""
    fields = Fields.of_message(text)
    match fields.string("type"):
        case "Mutation":
            return Mutation(fields.number("requestId"), *_decode_call(fields, limits))
        case "Action":
            return Action(fields.number("requestId"), *_decode_call(fields, limits))
        case "Connect":
            return _decode_connect(fields)
        case "ModifyQuerySet":
            base_version, new_version = fields.number("baseVersion"), fields.number("newVersion")
            modifications = tuple(_decode_query_change(each, limits) for each in fields.mappings("modifications"))
            return ModifyQuerySet(base_version, new_version, modifications)
        case "Authenticate":
            return Authenticate(fields.number("baseVersion"), _decode_token(fields))
        case "Event":
            return Event(fields.string("eventType"))
        case unknown:
            raise MalformedMessage(f"There is no client message of type {unknown[:64]!r}.")


def decode_arguments(path: str, tree: object, limits: Limits) -> tuple[bytes, str | None]:
    """Canonical arguments of a call of `path` and None, or `{}` and the text of the call's fault.

    `tree` is parsed JSON: the object of named arguments, alone or as the only item of a list; `[]` is no arguments.
    """
    if isinstance(tree, list):
        if len(tree) > 1:
            return NO_ARGUMENTS, f"{_SINGLE_OBJECT} Instead received {len(tree)} arguments: {shown(tree)}"
        tree = tree[0] if tree else {}
    if not isinstance(tree, dict):
        return NO_ARGUMENTS, f"{_SINGLE_OBJECT} Instead received {shown(tree)}."
    try:
        # A copy, because sessions and the query cache keep it, and orjson leaves thousands of bytes of room behind it.
        return bytes(memoryview(wire_codec.canonical(tree, limits))), None
    except InvalidValue as error:
        return NO_ARGUMENTS, f"Invalid arguments for {path}: {error}"


_SINGLE_OBJECT = "ArgumentValidationError: Expected to receive a single object as the function's argument."


def _decode_connect(fields: Fields) -> Connect:
    session_id = fields.string("sessionId")
    try:
        canonical_id = str(uuid.UUID(session_id))
    except ValueError:
        raise MalformedMessage(f"Connect.sessionId must be a UUID, got {session_id[:64]!r}.") from None
    max_observed = fields.optional_string("maxObservedTimestamp")
    return Connect(
        session_id=canonical_id,
        connection_count=fields.number("connectionCount"),
        last_close_reason=fields.optional_string("lastCloseReason"),
        max_observed_ts=None if max_observed is None else decode_ts("Connect.maxObservedTimestamp", max_observed),
        client_ts_ms=fields.optional_whole("clientTs"),
    )


def _decode_query_change(fields: Fields, limits: Limits) -> AddQuery | RemoveQuery:
    match fields.string("type"):
        case "Add":
            query_id, journal = fields.number("queryId"), fields.optional_string("journal")
            path, arguments, fault = _decode_call(fields, limits)
            return AddQuery(query_id, path, arguments, journal, fault)
        case "Remove":
            return RemoveQuery(fields.number("queryId"))
        case unknown:
            raise MalformedMessage(f"{fields.where}.type must be 'Add' or 'Remove', got {unknown[:64]!r}.")


def _decode_call(fields: Fields, limits: Limits) -> tuple[str, bytes, str | None]:
    """Path, arguments, fault."""
    path, component = fields.string("udfPath"), fields.optional_string("componentPath")
    arguments, fault = decode_arguments(path, fields.any("args"), limits)
    if component:
        fault = f"{function_path.missing_text(path)} There is no component {component!r}: leave componentPath out."
    return path, arguments, fault


def _decode_token(fields: Fields) -> Token:
    match fields.string("tokenType"):
        case "None":
            return NoToken()
        case "User":
            return UserToken(fields.string("value"))
        case "Admin":
            identity = fields.optional_mapping("impersonating") or fields.optional_mapping("acting_as")
            if identity is None:
                return AdminToken(fields.string("value"))
            try:
                return AdminToken(fields.string("value"), wire_codec.canonical(identity.tree))
            except InvalidValue as error:
                raise MalformedMessage(f"{identity.where} is not a value: {error}") from error
        case unknown:
            raise MalformedMessage(f"Authenticate.tokenType must be 'None', 'User' or 'Admin', got {unknown[:64]!r}.")


# --- Client: what leaves --------------------------------------------------------------------------------------------


def encode_client(message: ClientMessage) -> bytes:
    match message:
        case Connect():
            return json_text(_connect(message))
        case ModifyQuerySet(base_version, new_version, modifications):
            head = {"type": "ModifyQuerySet", "baseVersion": base_version, "newVersion": new_version}
            return json_text({**head, "modifications": [_query_change(each) for each in modifications]})
        case Mutation(request_id, path, arguments):
            return json_text({"type": "Mutation", "requestId": request_id, **_call(path, arguments)})
        case Action(request_id, path, arguments):
            return json_text({"type": "Action", "requestId": request_id, **_call(path, arguments)})
        case Authenticate(base_version, token):
            return json_text({"type": "Authenticate", "baseVersion": base_version, **_token(token)})
        case Event(event_type):
            return json_text({"type": "Event", "eventType": event_type, "event": None})


def _connect(message: Connect) -> Tree:
    tree: dict[str, object] = {
        "type": "Connect",
        "sessionId": message.session_id,
        "connectionCount": message.connection_count,
        "lastCloseReason": message.last_close_reason,
    }
    if message.client_ts_ms is not None:
        tree["clientTs"] = message.client_ts_ms
    if message.max_observed_ts is not None:
        tree["maxObservedTimestamp"] = encode_ts(message.max_observed_ts)
    return tree


def _query_change(change: AddQuery | RemoveQuery) -> Tree:
    match change:
        case AddQuery(query_id, path, arguments, journal):
            head = {"type": "Add", "queryId": query_id, **_call(path, arguments)}
            return head if journal is None else {**head, "journal": journal}
        case RemoveQuery(query_id):
            return {"type": "Remove", "queryId": query_id}


def _call(path: str, arguments: bytes) -> dict[str, object]:
    return {"udfPath": path, "args": [orjson.Fragment(arguments)]}


def _token(token: Token) -> Tree:
    match token:
        case NoToken():
            return {"tokenType": "None"}
        case UserToken(value):
            return {"tokenType": "User", "value": value}
        case AdminToken(value, acting_as):
            tree = {"tokenType": "Admin", "value": value}
            return tree if acting_as is None else {**tree, "impersonating": orjson.Fragment(acting_as)}


# --- Client: what arrives -------------------------------------------------------------------------------------------


def decode_server(text: str | bytes) -> ServerMessage:
    """Raises MalformedMessage. Values are not checked here: `wire_codec.decode` does that where one is used."""
    fields = Fields.of_message(text)
    match fields.string("type"):
        case "Transition":
            modifications = tuple(_decode_modification(each) for each in fields.mappings("modifications"))
            start, end = _decode_version(fields.mapping("startVersion")), _decode_version(fields.mapping("endVersion"))
            skew, server_ts = fields.optional_whole("clientClockSkew"), fields.optional_whole("serverTs")
            return Transition(start, end, modifications, skew, server_ts)
        case "MutationResponse":
            result, ts = _decode_result(fields), fields.optional_string("ts")
            if isinstance(result, Success) and ts is None:
                raise MalformedMessage("MutationResponse.ts is missing; a success has one.")
            commit_ts = None if ts is None else decode_ts("MutationResponse.ts", ts)
            return MutationResponse(fields.number("requestId"), result, commit_ts, fields.strings("logLines"))
        case "ActionResponse":
            return ActionResponse(fields.number("requestId"), _decode_result(fields), fields.strings("logLines"))
        case "AuthError":
            attempted = fields.optional_boolean("authUpdateAttempted") is not False
            return AuthError(fields.string("error"), fields.number("baseVersion"), attempted)
        case "FatalError":
            return FatalError(fields.string("error"))
        case "Ping":
            return Ping()
        case unknown:
            raise MalformedMessage(f"There is no server message of type {unknown[:64]!r}.")


def _decode_modification(fields: Fields) -> Modification:
    kind, query_id = fields.string("type"), fields.number("queryId")
    if kind == "QueryRemoved":
        return QueryRemoved(query_id)
    log_lines, journal = fields.strings("logLines"), fields.optional_string("journal")
    match kind:
        case "QueryUpdated":
            return QueryUpdated(query_id, fields.raw("value"), log_lines, journal)
        case "QueryFailed":
            data = fields.raw("errorData") if fields.has("errorData") else None
            return QueryFailed(query_id, fields.string("errorMessage"), data, log_lines, journal)
        case unknown:
            raise MalformedMessage(f"{fields.where}: there is no modification of type {unknown[:64]!r}.")


def _decode_result(fields: Fields) -> Success | Failure:
    if fields.boolean("success"):
        return Success(fields.raw("result"))
    return Failure(fields.string("result"), fields.raw("errorData") if fields.has("errorData") else None)


def _decode_version(fields: Fields) -> StateVersion:
    ts = decode_ts(f"{fields.where}.ts", fields.string("ts"))
    return StateVersion(fields.number("querySet"), fields.number("identity"), ts)
