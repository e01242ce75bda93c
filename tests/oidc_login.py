"""The issuer of the tests with a page to sign in at: OpenID Connect's authorization code flow with PKCE.

    GET  /authorize     the page: whoever gives a name is who he says he is
    POST /authorize     back to the application, with a code
    POST /token         an ID token and a refresh token for a code and its verifier, or for a refresh token

Applications are those of this machine. For examples/chat_web by hand: `python -m tests.oidc_login --port 8099`.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from urllib.parse import parse_qsl, urlencode, urlsplit

import uvicorn
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from tests.oidc_issuer import LIFETIME_S, OidcIssuer, running_issuer

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Sign in</title>
<link rel="icon" href="data:,">
<style>
  :root {{ color-scheme: light dark }}
  body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 22rem; margin: 20vh auto; padding: 1rem }}
  h1 {{ font-size: 1.25rem; margin: 0 }}
  p {{ margin: 0 0 1rem; opacity: .75 }}
  input, button {{ font: inherit; width: 100%; padding: .6rem .8rem; margin-top: .5rem; box-sizing: border-box }}
</style>
<h1>Sign in</h1>
<p>A service for trying things out: it believes every name.</p>
<form method="post" action="/authorize">
  {hidden}
  <label>Your name<input name="name" autofocus required maxlength="40" autocomplete="name"></label>
  <button>Sign in</button>
</form>
</html>
"""
ASKED = ("client_id", "redirect_uri", "state", "nonce", "code_challenge")


class BadRequest(Exception):
    """What is asked for cannot be; the text is OAuth's word for it."""


@dataclass(frozen=True)
class Grant:
    """What somebody has let an application have."""

    name: str
    asked: Mapping[str, str]


class Login:
    """The page and what is behind it. `issuer` mints; it is set once that runs."""

    def __init__(self) -> None:
        self.issuer: OidcIssuer | None = None
        self.routes = [
            Route("/authorize", self._show, methods=["GET"]),
            Route("/authorize", self._sign_in, methods=["POST"]),
            Route("/token", self._token, methods=["POST"]),
        ]
        self._codes: dict[str, Grant] = {}
        self._refresh_tokens: dict[str, Grant] = {}

    async def _show(self, request: Request) -> Response:
        try:
            asked = _asked(request.query_params)
        except BadRequest as error:
            return Response(f"This cannot be asked for: {error}", 400)
        hidden = (f'<input type="hidden" name="{name}" value="{escape(value)}">' for name, value in asked.items())
        return HTMLResponse(PAGE.format(hidden="\n  ".join(hidden)))

    async def _sign_in(self, request: Request) -> Response:
        form = await _form(request)
        try:
            asked = _asked({**form, "response_type": "code", "code_challenge_method": "S256"})
        except BadRequest as error:
            return Response(f"This cannot be asked for: {error}", 400)
        code = secrets.token_urlsafe(16)
        self._codes[code] = Grant(form.get("name", "").strip() or "Nobody", asked)
        answer = urlencode({"code": code, "state": asked["state"]})
        return RedirectResponse(f"{asked['redirect_uri']}?{answer}", 303)

    async def _token(self, request: Request) -> Response:
        try:
            return JSONResponse(self._tokens(await _form(request)), headers={"Cache-Control": "no-store"})
        except BadRequest as error:
            return JSONResponse({"error": str(error)}, 400)

    def _tokens(self, form: Mapping[str, str]) -> dict[str, object]:
        """A code is good once, and only for who knows what was hashed into its challenge."""
        match form.get("grant_type"):
            case "authorization_code":
                grant = self._codes.pop(form.get("code", ""), None)
                digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
                challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
                if grant is None or grant.asked["code_challenge"] != challenge:
                    raise BadRequest("invalid_grant")
                if grant.asked["redirect_uri"] != form.get("redirect_uri"):
                    raise BadRequest("invalid_grant")
            case "refresh_token":
                grant = self._refresh_tokens.get(form.get("refresh_token", ""))
                if grant is None:
                    raise BadRequest("invalid_grant")
            case _:
                raise BadRequest("unsupported_grant_type")
        if grant.asked["client_id"] != form.get("client_id"):
            raise BadRequest("invalid_client")
        refresh_token = secrets.token_urlsafe(16)
        self._refresh_tokens[refresh_token] = grant
        assert self.issuer is not None
        subject = re.sub(r"\W+", "-", grant.name.lower())
        claims = {"sub": subject, "name": grant.name, "aud": grant.asked["client_id"], "jti": secrets.token_hex(8)}
        return {
            "access_token": secrets.token_urlsafe(16),
            "token_type": "Bearer",
            "expires_in": LIFETIME_S,
            "refresh_token": refresh_token,
            "id_token": self.issuer.token({**claims, "nonce": grant.asked.get("nonce")}),
        }


def _asked(given: Mapping[str, str]) -> dict[str, str]:
    asked = {name: given[name] for name in ASKED if given.get(name)}
    if given.get("response_type") != "code" or given.get("code_challenge_method") != "S256":
        raise BadRequest("unsupported_response_type")
    if missing := {"client_id", "redirect_uri", "state", "code_challenge"} - asked.keys():
        raise BadRequest(f"invalid_request without {', '.join(sorted(missing))}")
    address = urlsplit(asked["redirect_uri"])
    if address.scheme != "http" or address.hostname not in ("127.0.0.1", "localhost"):
        raise BadRequest("redirect_uri that is not on this machine")
    return asked


async def _form(request: Request) -> dict[str, str]:
    return dict(parse_qsl((await request.body()).decode()))


@contextmanager
def running_login() -> Iterator[OidcIssuer]:
    """An issuer with this page, on a free port and a thread, while the block runs."""
    login = Login()
    with running_issuer(login.routes) as issuer:
        login.issuer = issuer
        yield issuer


def main() -> None:
    parser = argparse.ArgumentParser(description="An issuer to sign in at, for trying out examples/chat_web.")
    parser.add_argument("--port", type=int, default=8099)
    port: int = parser.parse_args().port
    login = Login()
    login.issuer = OidcIssuer(f"http://127.0.0.1:{port}", routes=login.routes)
    print(f"{login.issuer.url} believes every name; Ctrl-C ends it", flush=True)
    uvicorn.run(login.issuer.app, port=port, lifespan="off", log_level="warning")


if __name__ == "__main__":
    main()
