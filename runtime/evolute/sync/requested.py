"""What a client has asked for so far: its query set and its identity, each with a version that the client counts too.

    Authenticate ────► identity, identity version ─────┐
    ModifyQuerySet ──► Add, Remove, query set version ─┴──► folded into the next Transition, which carries the versions

Versions start at 0 on every connection. A message whose base version is not the last one received means that one of the
two sides has lost count, and nothing good can follow.
"""

from __future__ import annotations

from evolute.clock import NS_PER_MS
from evolute.errors import BadRequest, FunctionNotFound, KeyIsReadOnly
from evolute.execution.request import Call, CallError, Kind
from evolute.limits import Limits
from evolute.protocol.messages import Action, AddQuery, Authenticate, Connect, ModifyQuerySet, Mutation, RemoveQuery
from evolute.sync.identity import ANONYMOUS, Identity
from evolute.values.function_path import canonical_path

CLIENT_TS_MS_MAX = 2**53  # A client's clock that shows more than this shows nothing; JSON numbers end there.


class ProtocolViolation(Exception):
    """The client broke the protocol. `reason` is the short name that the socket is closed with."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class Requested:
    """Methods that take a message raise ProtocolViolation if it cannot follow those before it."""

    def __init__(self, limits: Limits) -> None:
        self._queries_max = limits.queries_per_session_max
        self._queries_bytes_max = limits.session_queries_bytes_max
        self._query_bytes: dict[int, int] = {}
        self._queries_bytes = 0
        self._modifications: list[AddQuery | RemoveQuery] = []
        self.query_set_version = 0
        self.identity_version = 0
        self.identity: Identity = ANONYMOUS
        self.session_id: str | None = None
        self.client_clock_skew_ms: int | None = None

    @property
    def versions(self) -> tuple[int, int]:
        """The query set's and the identity's, as in StateVersion."""
        return self.query_set_version, self.identity_version

    def connect(self, message: Connect, now_ns: int) -> None:
        if self.session_id is not None:
            raise ProtocolViolation("ConnectTwice", "Connect came twice on one connection.")
        self.session_id = message.session_id
        if message.client_ts_ms is not None and abs(message.client_ts_ms) < CLIENT_TS_MS_MAX:
            self.client_clock_skew_ms = message.client_ts_ms - now_ns // NS_PER_MS

    def check_authenticate(self, message: Authenticate) -> None:
        _require_version("Authenticate", message.base_version, self.identity_version)

    def authenticated(self, identity: Identity) -> None:
        """What follows is asked by `identity`."""
        self.identity = identity
        self.identity_version += 1

    def modify_query_set(self, message: ModifyQuerySet) -> None:
        _require_version("ModifyQuerySet", message.base_version, self.query_set_version)
        if message.new_version <= message.base_version:
            text = f"ModifyQuerySet goes from version {message.base_version} to {message.new_version}."
            raise ProtocolViolation("BaseVersionMismatch", text)
        for modification in message.modifications:
            self._modify(modification)
        if max(len(self._query_bytes), len(self._modifications) // 2) > self._queries_max:
            text = f"One session may have {self._queries_max} queries (queries_per_session_max)."
            raise ProtocolViolation("TooManyQueries", text)
        if self._queries_bytes > self._queries_bytes_max:
            text = f"The arguments of a session's queries may have {self._queries_bytes_max} bytes "
            raise ProtocolViolation("TooManyQueryBytes", text + "in all (session_queries_bytes_max).")
        self.query_set_version = message.new_version

    def take_modifications(self) -> list[AddQuery | RemoveQuery]:
        """Those not taken before, in the order received."""
        modifications, self._modifications = self._modifications, []
        return modifications

    def call(self, kind: Kind, wanted: AddQuery | Mutation | Action, request_id: int | None = None) -> Call | CallError:
        """What to run for `wanted`, asked by the identity of this moment, or why nothing can be run.

        With a request id, and if the client named its session, the call runs once however often it is sent.
        """
        refusal = self.identity.refusal(kind)
        if refusal is not None:
            return CallError(refusal, code=KeyIsReadOnly.code)
        if wanted.fault is not None:
            return CallError(wanted.fault, code=BadRequest.code)
        try:
            path = canonical_path(wanted.path)
        except FunctionNotFound as error:
            return CallError(str(error), code=error.code)
        return Call(
            path,
            wanted.arguments,
            kind=kind,
            public_only=not self.identity.is_admin,
            identity=self.identity.attributes,
            session=None if self.session_id is None or request_id is None else (self.session_id, request_id),
            journal=wanted.journal if isinstance(wanted, AddQuery) else None,
        )

    def _modify(self, modification: AddQuery | RemoveQuery) -> None:
        query_id = modification.query_id
        if isinstance(modification, AddQuery):
            if query_id in self._query_bytes:
                raise ProtocolViolation("DuplicateQueryId", f"Query {query_id} is added, and there is one already.")
            self._query_bytes[query_id] = len(modification.arguments) + len(modification.journal or "")
            self._queries_bytes += self._query_bytes[query_id]
        else:
            if query_id not in self._query_bytes:
                raise ProtocolViolation("UnknownQueryId", f"Query {query_id} is removed, but there is none.")
            self._queries_bytes -= self._query_bytes.pop(query_id)
        self._modifications.append(modification)


def _require_version(message: str, got: int, expected: int) -> None:
    if got != expected:
        text = f"{message}.baseVersion is {got}, but the last version received was {expected}."
        raise ProtocolViolation("BaseVersionMismatch", text)
