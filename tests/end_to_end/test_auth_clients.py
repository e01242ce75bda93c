"""Clients that hold a user's token, npm's, PyPI's and ours, against the real server and a real issuer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from evolute_client import Client
from tests.end_to_end.auth_under_test import call, sources, value
from tests.end_to_end.client_process import ClientProcess
from tests.end_to_end.test_npm_client import Node
from tests.end_to_end.test_pypi_client import program
from tests.oidc_issuer import LIFETIME_S, OidcIssuer, running_issuer
from tests.server_thread import ServerThread

PRELUDE = """
const [issuer] = given;
const mint = async (claims) =>
  (await (await fetch(issuer + "/mint", { method: "POST", body: JSON.stringify(claims) })).json()).token;
const asked = [];
const changes = [];
/** Logs in with what `claims` says of the n-th token, and remembers what the client has asked for and was told. */
function logIn(claims) {
  client.setAuth(async ({ forceRefreshToken }) => {
    asked.push(forceRefreshToken);
    return mint({ jti: String(asked.length), ...claims(asked.length) });
  }, (isAuthenticated) => changes.push(isAuthenticated));
}
const turn = () => new Promise((resolve) => setTimeout(resolve, 5));
async function eventually(isSo) {
  while (!isSo()) await turn();
}
"""


@pytest.fixture(scope="module")
def issuer() -> Iterator[OidcIssuer]:
    with running_issuer() as issuer:
        yield issuer


@pytest.fixture
def server(issuer: OidcIssuer) -> Iterator[ServerThread]:
    with ServerThread(sources(issuer)) as server:
        yield server


@pytest.fixture
def node(node_folder: Path) -> Node:
    return Node(node_folder)


def started(node: Node, server: ServerThread, issuer: OidcIssuer, text: str) -> ClientProcess:
    return node.program(PRELUDE + text, f"http://{server.address}", issuer.url)


def test_npm_confirms_refreshes_and_logs_out(server: ServerThread, node: Node, issuer: OidcIssuer) -> None:
    """A token of eleven seconds is refreshed ten seconds before its end."""
    text = """
const { notes } = anyApi;
const who = watch(notes.who, {});
await who.until((identity) => identity === null);
const now = Math.floor(Date.now() / 1000);
logIn(() => ({ sub: "npm", iat: now, exp: now + 11 }));
await who.until((identity) => identity?.subject === "npm");
await eventually(() => changes.length === 1);
assert.deepEqual(changes, [true]);
assert.equal(await client.mutation(notes.write, { text: "by npm" }), "npm");
assert.deepEqual(await client.action(notes.act, {}), ["npm", "npm", "npm"]);
await eventually(() => asked.length >= 3);
assert.deepEqual(asked.slice(0, 3), [false, true, true]);
assert.equal(await client.mutation(notes.write, { text: "refreshed" }), "npm");
assert.equal(who.seen.length, 2, "a refreshed token runs nothing again");
client.client.clearAuth();
await who.until((identity) => identity === null);
const http = new ConvexHttpClient(url);
http.setAuth(await mint({ sub: "by http" }));
assert.equal((await http.query(notes.who)).subject, "by http");
http.setAuth(await mint({ sub: "by http", aud: "other" }));
await assert.rejects(http.query(notes.who), /NoAuthProvider/);
"""
    with started(node, server, issuer, text) as done:
        done.finish()


def test_npm_fetches_another_token_when_one_expires(server: ServerThread, node: Node, issuer: OidcIssuer) -> None:
    text = """
const { notes } = anyApi;
const now = Math.floor(Date.now() / 1000);
const late = Number(given[1]);
logIn((nth) => (nth <= 2 ? { sub: "npm", jti: "1" } : { sub: "npm", exp: now + late }));
const mine = watch(notes.mine, {});
await mine.until((texts) => texts.length === 0);
await eventually(() => asked.length === 2);
console.log("waits");
await mine.until((texts) => texts.length === 1);
assert.deepEqual(asked, [false, true, true]);
assert.equal(await client.mutation(notes.write, { text: "again" }), "npm");
assert.ok(!changes.includes(false), "nobody was logged out");
"""
    address, late_s = f"http://{server.address}", 3 * LIFETIME_S
    with node.program(PRELUDE + text, address, issuer.url, str(late_s)) as client:
        client.wait_for("waits")
        server.clock.shift_s = LIFETIME_S + 60
        token = issuer.token(sub="npm", exp=int(time.time()) + late_s)
        value(call(server, "mutation", "notes:write", f"Bearer {token}", text="for npm"))
        client.finish()


def test_npm_gives_up_after_bad_tokens_and_goes_on_as_nobody(
    server: ServerThread, node: Node, issuer: OidcIssuer
) -> None:
    text = """
const { notes } = anyApi;
logIn(() => ({ sub: "npm", aud: "another-app" }));
const who = watch(notes.who, {});
await eventually(() => changes.length === 1);
assert.deepEqual(changes, [false]);
assert.deepEqual(asked, [false, true, true, true]);
await who.until((identity) => identity === null);
assert.equal(await client.mutation(notes.write, { text: "x" }), "nobody");
"""
    with started(node, server, issuer, text) as done:
        done.finish()


def test_npm_is_not_logged_out_while_the_issuer_is_down(server: ServerThread, node: Node, issuer: OidcIssuer) -> None:
    text = """
const { notes } = anyApi;
const token = await mint({ sub: "npm" });
client.setAuth(async () => token, (isAuthenticated) => changes.push(isAuthenticated));
const who = watch(notes.who, {});
console.log("waits");
await who.until((identity) => identity?.subject === "npm");
assert.ok(!changes.includes(false), "nobody was logged out");
"""
    issuer.failing = True
    before = sum(issuer.fetches.values())
    try:
        with started(node, server, issuer, text) as client:
            client.wait_for("waits")
            while sum(issuer.fetches.values()) == before:
                time.sleep(0.01)
            issuer.failing = False
            server.clock.shift_s = 11  # as long as the issuer is left alone after a failure
            client.finish()
    finally:
        issuer.failing = False


def test_pypi_sends_its_token(server: ServerThread, issuer: OidcIssuer) -> None:
    text = """
good, other = sys.argv[2:]
assert client.query("notes:who") is None
client.set_auth(good)
assert client.query("notes:who")["subject"] == "pypi"
assert client.mutation("notes:write", {"text": "by pypi"}) == "pypi"
assert client.action("notes:act") == ["pypi"] * 3
client.set_auth(other)
assert client.query("notes:who")["subject"] == "other"
client.set_auth(None)
assert client.query("notes:who") is None
"""
    tokens = [issuer.token(sub="pypi"), issuer.token(algorithm="EdDSA", sub="other")]
    with program(text, f"http://{server.address}", *tokens) as done:
        done.finish()


def test_our_client_lives_through_the_same(server: ServerThread, issuer: OidcIssuer) -> None:
    """Confirmed; another token when one has expired; nobody after bad ones; logged in again."""
    asked: list[bool] = []
    changes: list[bool] = []

    def fetch(force_refresh: bool) -> str:
        asked.append(force_refresh)
        return issuer.token(sub="ours", jti=str(len(asked)), exp=int(time.time() + server.clock.shift_s) + LIFETIME_S)

    async def test() -> None:
        async with Client(f"http://{server.address}") as client:
            assert await client.set_auth(fetch, changes.append)
            assert (await client.query("notes:who"))["subject"] == "ours"
            server.clock.shift_s = LIFETIME_S + 60
            before = len(asked)
            assert await client.mutation("notes:write", text="late") == "ours"
            assert asked[before:] == [True]
            assert await client.query("notes:mine") == ["late"]
            assert False not in changes, "nobody was logged out"
            bad = (issuer.token(aud="another-app", jti=str(number)) for number in range(10))
            assert not await client.set_auth(lambda force_refresh: next(bad))
            assert "another-app" in (client.auth_error or "")
            assert await client.query("notes:who") is None
            assert await client.set_auth(fetch)
            assert await client.query("notes:mine") == ["late"]
            await client.clear_auth()
            assert await client.mutation("notes:write", text="x") == "nobody"

    asyncio.run(test())
