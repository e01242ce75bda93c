"""An application whose functions know their caller, behind a real server and a real issuer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.end_to_end.raw_session import RawSession
from tests.oidc_issuer import AUDIENCE, JWKS, OidcIssuer
from tests.server_thread import Reply, ServerThread

SCHEMA = """
from evolute import Document, define_schema, define_table

class Note(Document):
    owner: str
    text: str

schema = define_schema(notes=define_table(Note).index("by_owner", ["owner"]))
"""
NOTES = """
from typing import Any
from evolute import ActionCtx, MutationCtx, QueryCtx, action, internal_query, mutation, query

def owner(ctx: Any) -> str:
    identity = ctx.auth.get_user_identity()
    return "nobody" if identity is None else identity["subject"]

@query
def mine(ctx: QueryCtx) -> list[str]:
    return [note["text"] for note in ctx.db.query("notes").with_index("by_owner", owner=owner(ctx))]

@query
def who(ctx: QueryCtx) -> Any:
    return ctx.auth.get_user_identity()

@query
def everything(ctx: QueryCtx) -> list[str]:
    return [note["text"] for note in ctx.db.query("notes")]

@internal_query
def secret(ctx: QueryCtx) -> str:
    return owner(ctx)

@query
def keys(ctx: QueryCtx) -> Any:
    return list(ctx.db.query("_admin_keys"))

@query
def system_keys(ctx: QueryCtx) -> Any:
    return list(ctx.db.system.query("_admin_keys"))

@mutation
def write(ctx: MutationCtx, text: str) -> str:
    ctx.db.insert("notes", {"owner": owner(ctx), "text": text})
    return owner(ctx)

@mutation
def write_later(ctx: MutationCtx, text: str) -> None:
    ctx.scheduler.run_after(0, write, text=text)

@mutation
def nested(ctx: MutationCtx) -> list[str]:
    return [owner(ctx), ctx.run_query(secret), ctx.run_mutation(write, text="nested")]

@action
async def act(ctx: ActionCtx) -> list[str]:
    return [owner(ctx), await ctx.run_query(secret), await ctx.run_mutation(write, text="acted")]

@action
def block(ctx: Any) -> list[str]:
    return [owner(ctx), ctx.run_query(secret)]
"""


def sources(issuer: OidcIssuer) -> dict[str, str]:
    """The functions; their providers are the issuer and, for tokens of `iss: custom`, its keys alone."""
    providers = f"""
from evolute import CustomJwtProvider, OidcProvider

providers = [
    OidcProvider(domain="{issuer.url}", application_id="{AUDIENCE}"),
    CustomJwtProvider(issuer="https://custom.example", jwks="{issuer.url}{JWKS}", algorithm="ES256"),
]
"""
    return {"schema.py": SCHEMA, "notes.py": NOTES, "auth_config.py": providers}


def call(server: ServerThread, kind: str, path: str, authorization: str | None = None, /, **arguments: object) -> Reply:
    headers: Mapping[str, str] = {} if authorization is None else {"Authorization": authorization}
    return server.request("POST", f"/api/{kind}", {"path": path, "args": arguments}, headers=headers)


def value(reply: Reply) -> Any:
    assert reply.status == 200, reply
    assert reply.json["status"] == "success", reply.json
    return reply.json["value"]


def assert_refused(reply: Reply, status: int, code: str, text: str = "") -> None:
    assert (reply.status, reply.json["code"]) == (status, code), reply
    assert text in reply.json["message"], reply


def session(server: ServerThread) -> RawSession:
    return RawSession(f"http://{server.address}")


def auth_error(client: RawSession, *, attempted: bool = True) -> str:
    """The AuthError that comes next, after which the socket is closed without a code."""
    message = client.next()
    while message["type"] != "AuthError":
        message = client.next()
    assert message["authUpdateAttempted"] is attempted
    assert message["baseVersion"] == client.version["identity"]
    assert client.closed() == (None, "") or client.closed()[0] == 1005
    return str(message["error"])
