"""Who this client is: which token holds, which one is wanted, and what the server made of it.

    begin ─► wanted: FetchToken ─token─► told to the server ─Transition─► confirmed ─► RefreshAfter ─► FetchToken …
                  ▲                              │ AuthError
                  └── another one, by force ─────┘ until `fresh_tokens_max` of them were refused: then nobody

The first token that comes may be an old one out of a cache. So once it is confirmed a fresh one is fetched, and from
that one's `iat` and `exp` follows when to fetch the next; the clocks of server and client need not agree. While a token
is fetched that the connection cannot do without, nothing is sent (`paused`): a call would run as somebody else.
Neither clock nor network is in here: the driver does what `wanted` says, and tells what came of it.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from evolute.limits import Limits
from evolute.protocol.messages import AdminToken, Authenticate, AuthError, NoToken, Token, UserToken
from evolute.values import wire_codec
from evolute_client.token_lifetime import lifetime_s

AuthState: TypeAlias = Literal["anonymous", "pending", "authenticated", "refused"]
"""What the application was told last; `pending` until it is told anything. `refused`: calls are made as nobody."""

NO_TOKEN_CAME = "the token fetcher gave no token"
NO_OTHER_CAME = "the token fetcher gave the token that was refused"


@dataclass(frozen=True, slots=True)
class FetchToken:
    """Ask the application for a token; with `force` not for one out of its cache."""

    force: bool


@dataclass(frozen=True, slots=True)
class RefreshAfter:
    """Say `refresh_due` after that many seconds."""

    delay_s: float


@dataclass(frozen=True, slots=True)
class AuthChange:
    """The server has confirmed who this is; or it has not, for `error`, and calls are made as nobody."""

    authenticated: bool
    error: str | None = None


class _Phase(enum.Enum):
    IDLE = enum.auto()  # nobody, or an admin
    FIRST = enum.auto()  # a token is fetched, paused
    ANOTHER = enum.auto()  # another one is fetched by force, paused
    CACHED_TOLD = enum.auto()
    FRESH_TOLD = enum.auto()
    REFRESHING = enum.auto()  # the token holds, and the next one is fetched
    CONFIRMED = enum.auto()
    REFUSED = enum.auto()


_PAUSED = (_Phase.FIRST, _Phase.ANOTHER)
_TOLD = (_Phase.CACHED_TOLD, _Phase.FRESH_TOLD)
_HELD = (_Phase.REFRESHING, _Phase.CONFIRMED)


class Authentication:
    def __init__(self, token: Token, limits: Limits) -> None:
        self._limits = limits
        self._token = token
        self._told: Token | None = NoToken()
        self._phase = _Phase.IDLE
        self._fresh_refused = 0
        self._reported: bool | None = None
        self._change: AuthChange | None = None
        self._confirmed_version = 0
        self.version = 0
        """How often this connection was told who the client is."""
        self.wanted: FetchToken | RefreshAfter | None = None

    @property
    def paused(self) -> bool:
        return self._phase in _PAUSED

    @property
    def is_admin(self) -> bool:
        return isinstance(self._token, AdminToken)

    @property
    def settled(self) -> bool:
        """The server has confirmed all that it was told."""
        return not self.paused and self._confirmed_version >= self.version

    @property
    def state(self) -> AuthState:
        if self.is_admin:
            return "authenticated" if self.version and self.settled else "pending"
        if self._phase is _Phase.IDLE:
            return "anonymous"
        return "pending" if self._reported is None else "authenticated" if self._reported else "refused"

    # --- The application ---

    def begin(self) -> None:
        """There is a token fetcher now, in place of what was there before."""
        self._token, self._told = NoToken(), None
        self._phase, self._fresh_refused, self._reported = _Phase.FIRST, 0, None
        self.wanted = FetchToken(force=False)

    def clear(self) -> None:
        """From now on nobody."""
        self._token, self._phase, self.wanted, self._change = NoToken(), _Phase.IDLE, None, None

    def fetched(self, token: str | None) -> None:
        """What the fetcher gave."""
        assert isinstance(self.wanted, FetchToken)
        if self._phase is _Phase.FIRST and token is None:
            self._phase, self.wanted = _Phase.ANOTHER, FetchToken(force=True)
        elif token is None:
            self._give_up(NO_TOKEN_CAME)
        elif self._phase is _Phase.FIRST:
            self._adopt(token, _Phase.CACHED_TOLD)
        elif UserToken(token) != self._token:
            self._adopt(token, _Phase.FRESH_TOLD)
        elif self._phase is _Phase.ANOTHER:
            self._give_up(NO_OTHER_CAME)
        else:
            self._hold()

    def fetch_failed(self, error: str) -> None:
        """The fetcher raised. A token that holds goes on to hold until the server refuses it."""
        if self._phase is _Phase.REFRESHING:
            self._phase, self.wanted = _Phase.CONFIRMED, None
        else:
            self._give_up(error)

    def refresh_due(self) -> None:
        assert self._phase is _Phase.CONFIRMED
        self._phase, self.wanted = _Phase.REFRESHING, FetchToken(force=True)

    def take_change(self) -> AuthChange | None:
        """What the application has not been told yet."""
        change, self._change = self._change, None
        return change

    # --- The connection ---

    def restart(self) -> None:
        """A new connection, which takes the client for nobody."""
        self._told, self.version, self._confirmed_version = NoToken(), 0, 0

    def take_message(self) -> Authenticate | None:
        if self.paused or self._token == self._told:
            return None
        self._told, self.version = self._token, self.version + 1
        return Authenticate(self.version - 1, self._token)

    def transition(self, start: int, end: int) -> None:
        """A Transition brings the view from identity version `start` to `end`."""
        self._confirmed_version = max(self._confirmed_version, end)
        if end <= start or end < self.version or self._phase not in _TOLD:
            return
        self._report(AuthChange(authenticated=True))
        if self._phase is _Phase.CACHED_TOLD:
            self._phase, self.wanted = _Phase.REFRESHING, FetchToken(force=True)
        else:
            self._hold()

    def refused(self, message: AuthError) -> bool:
        """Whether it is the token of now that was refused; then the connection is of no more use."""
        told_meanwhile = not message.auth_update_attempted and self._phase in _TOLD
        if told_meanwhile or message.base_version + 1 < self.version or self.paused:
            return False
        if self._phase is _Phase.FRESH_TOLD:
            self._fresh_refused += 1
        if self._phase in (*_TOLD, *_HELD) and self._fresh_refused < self._limits.fresh_tokens_max:
            self._phase, self.wanted = _Phase.ANOTHER, FetchToken(force=True)
        else:
            self._give_up(message.error)
        return True

    def _adopt(self, token: str, phase: _Phase) -> None:
        self._token, self._phase, self.wanted = UserToken(token), phase, None

    def _hold(self) -> None:
        """The token is confirmed and as fresh as they come."""
        assert isinstance(self._token, UserToken)
        self._phase, self.wanted, self._fresh_refused = _Phase.CONFIRMED, None, 0
        lifetime = lifetime_s(self._token.value)
        if lifetime is not None:
            leeway = min(self._limits.token_refresh_leeway_ms / 1000, lifetime / 2)
            self.wanted = RefreshAfter(min(lifetime - leeway, self._limits.token_refresh_ms_max / 1000))

    def _give_up(self, error: str) -> None:
        self._token, self._phase, self.wanted = NoToken(), _Phase.REFUSED, None
        self._report(AuthChange(authenticated=False, error=error))

    def _report(self, change: AuthChange) -> None:
        if change.authenticated != self._reported:
            self._reported, self._change = change.authenticated, change


def admin_token(token: object, admin_key: str | None, acting_as: Mapping[str, object] | None) -> AdminToken | None:
    """Raises ValueError for what does not go together."""
    if admin_key is None:
        if acting_as is not None:
            raise ValueError("acting_as needs the admin_key")
        return None
    if token is not None:
        raise ValueError("give a token or an admin_key, not both; with the key, acting_as takes on an identity")
    return AdminToken(admin_key, None if acting_as is None else wire_codec.encode(dict(acting_as)))
