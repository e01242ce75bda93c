"""Everything that a client and the server say to each other, as plain frozen data.

    client ──► Connect  Authenticate  ModifyQuerySet  Mutation  Action  Event
    server ──► Transition  MutationResponse  ActionResponse  AuthError  FatalError  Ping

A *value* is JSON bytes in the encoding of `values.wire_codec`: what a server decodes or encodes is canonical, what a
client receives is whatever the server wrote. A call whose arguments are not values carries a `fault`: the text with
which that one call fails. So one bad call never ends the connection.
Timestamps are whole nanoseconds; `codec` writes them as the protocol wants them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias


class StateVersion(NamedTuple):
    """Where a client's view stands: how many query set and identity changes it has seen, at which timestamp."""

    query_set: int
    identity: int
    ts: int


INITIAL_VERSION = StateVersion(0, 0, 0)
"""Both sides start here on every new connection."""

NO_ARGUMENTS = b"{}"


# --- Client to server -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Connect:
    """The first message. `max_observed_ts` is the highest timestamp that this client has ever seen."""

    session_id: str
    connection_count: int
    last_close_reason: str | None = None
    max_observed_ts: int | None = None
    client_ts_ms: int | None = None


@dataclass(frozen=True, slots=True)
class AddQuery:
    """Subscribe. `path` is as the client wrote it; `journal` is what the server last sent for this query."""

    query_id: int
    path: str
    arguments: bytes
    journal: str | None = None
    fault: str | None = None


@dataclass(frozen=True, slots=True)
class RemoveQuery:
    query_id: int


@dataclass(frozen=True, slots=True)
class ModifyQuerySet:
    base_version: int
    new_version: int
    modifications: tuple[AddQuery | RemoveQuery, ...]


class Mutation(NamedTuple):
    request_id: int
    path: str
    arguments: bytes
    fault: str | None = None


@dataclass(frozen=True, slots=True)
class Action:
    request_id: int
    path: str
    arguments: bytes
    fault: str | None = None


@dataclass(frozen=True, slots=True)
class NoToken:
    """Log out."""


@dataclass(frozen=True, slots=True)
class UserToken:
    """A JSON Web Token. Like every secret it shows in no text that is made of the message."""

    value: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class AdminToken:
    """The admin key; `acting_as` is the identity to take on, an object's canonical JSON."""

    value: str = field(repr=False)
    acting_as: bytes | None = None


Token: TypeAlias = NoToken | UserToken | AdminToken


@dataclass(frozen=True, slots=True)
class Authenticate:
    base_version: int
    token: Token


@dataclass(frozen=True, slots=True)
class Event:
    """Telemetry. Never answered; what it carries is not kept."""

    event_type: str


ClientMessage: TypeAlias = Connect | ModifyQuerySet | Mutation | Action | Authenticate | Event


# --- Server to client -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class QueryUpdated:
    query_id: int
    value: bytes
    log_lines: tuple[str, ...] = ()
    journal: str | None = None


@dataclass(frozen=True, slots=True)
class QueryFailed:
    """The query raised; it stays subscribed. `error_data` is the data of a ConvexError."""

    query_id: int
    error_message: str
    error_data: bytes | None = None
    log_lines: tuple[str, ...] = ()
    journal: str | None = None


@dataclass(frozen=True, slots=True)
class QueryRemoved:
    query_id: int


Modification: TypeAlias = QueryUpdated | QueryFailed | QueryRemoved


@dataclass(frozen=True, slots=True)
class Transition:
    """All the changes that bring a client's view from `start` to `end`, to be applied at once.

    A server gives the modifications already encoded (bytes, see `codec.encode_result`), because one result goes to many
    sessions; a client receives them decoded. `client_clock_skew` (ms) and `server_ts` (ns) come both or not at all.
    """

    start: StateVersion
    end: StateVersion
    modifications: tuple[Modification | bytes, ...] = ()
    client_clock_skew: int | None = None
    server_ts: int | None = None


class Success(NamedTuple):
    """How a call ended: `value` is what the function returned."""

    value: bytes


@dataclass(frozen=True, slots=True)
class Failure:
    """How a call ended: `message` is for people, `data` is there only for a ConvexError."""

    message: str
    data: bytes | None = None


class MutationResponse(NamedTuple):
    """`ts` is the commit timestamp: given with a Success, None with a Failure."""

    request_id: int
    result: Success | Failure
    ts: int | None
    log_lines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ActionResponse:
    request_id: int
    result: Success | Failure
    log_lines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AuthError:
    """`base_version` is the identity version of the last Transition. The server closes the socket after this."""

    error: str
    base_version: int
    auth_update_attempted: bool


@dataclass(frozen=True, slots=True)
class FatalError:
    """The client broke the protocol. JavaScript clients stop for good, so this is never for an author's mistake."""

    error: str


@dataclass(frozen=True, slots=True)
class Ping:
    """Nothing has happened, and the connection is alive."""


ServerMessage: TypeAlias = Transition | MutationResponse | ActionResponse | AuthError | FatalError | Ping
