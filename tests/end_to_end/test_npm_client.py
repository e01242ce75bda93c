"""npm's `convex` client, as published, under Node, against the real server.

Every program must end by itself with exit code 0: an exception that nobody caught ends Node with another.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from evolute import failpoints
from tests.end_to_end.app_under_test import Gates, write_functions
from tests.end_to_end.client_process import ClientProcess
from tests.end_to_end.server_process import ServerProcess

PRELUDE = """
import assert from "node:assert/strict";
import { ConvexClient, ConvexHttpClient } from "convex/browser";
import { anyApi } from "convex/server";
import { ConvexError } from "convex/values";

const [url, ...given] = process.argv.slice(2);
const client = new ConvexClient(url);
/** Everything that a query has shown, and a wait until what it shows last is what is expected. */
function watch(query, args, watching = client) {
  const seen = [];
  const waiting = [];
  const look = () => waiting.splice(0).forEach((again) => again());
  const stop = watching.onUpdate(query, args, (value) => { seen.push(value); look(); },
                                 (error) => { seen.push(error); look(); });
  const until = (done) => new Promise((resolve) => {
    const again = () => (seen.length && done(seen.at(-1)) ? resolve(seen.at(-1)) : waiting.push(again));
    again();
  });
  return { seen, until, stop };
}
"""
POSTLUDE = """
await client.close();
process.exit(0);
"""


class Node:
    """Starts programs with the client at hand."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def program(self, text: str, *arguments: str) -> ClientProcess:
        script = self._folder / "program.mjs"
        script.write_text(PRELUDE + text + POSTLUDE)
        return ClientProcess(["node", str(script), *arguments], folder=self._folder)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("npm")
    functions = write_functions(folder / "functions")
    with ServerProcess(functions, folder / "data", environment=Gates(folder).environment) as server:
        yield server


@pytest.fixture
def node(node_folder: Path) -> Node:
    return Node(node_folder)


def test_every_kind_of_call(server: ServerProcess, node: Node) -> None:
    text = """
const { counters, values, deep, plain } = anyApi;
assert.equal(await client.mutation(counters.add, { name: "kinds", amount: 2 }), 2);
assert.equal(await client.query(counters.get, { name: "kinds" }), 2);
assert.deepEqual(await client.action(values.echo_late, { value: [1] }), [1]);
assert.equal(await client.mutation(counters.look, { name: "kinds" }), 2);
assert.equal(await client.query(deep.inner.answer, {}), 42);
assert.equal(await client.query(plain.default, {}), "default");
const sent = [null, true, 3, 1.5, -0, NaN, Infinity, -Infinity, 7n, -(2n ** 63n), "ä𝄞", new Uint8Array([1, 2]).buffer,
              [[]], { "": 1, "a b": [2] }];
assert.deepEqual(await client.query(values.echo, { value: sent }), sent);
assert.deepEqual(await client.mutation(values.echo_back, { value: sent }), sent);
assert.deepEqual(await client.action(values.echo_late, { value: sent }), sent);
"""
    with node.program(text, server.url) as client:
        client.finish()


def test_failures_are_rejections_and_the_client_goes_on(server: ServerProcess, node: Node) -> None:
    text = """
const { counters, faults } = anyApi;
const failure = (promise) => promise.then(() => assert.fail("it did not fail"), (error) => error);
const told = await failure(client.mutation(faults.told, {}));
assert(told instanceof ConvexError);
assert.deepEqual(told.data, { code: 7, why: "because" });
assert.deepEqual((await failure(client.action(faults.acted, {}))).data, { code: 9 });
assert.equal((await failure(client.query(faults.asked, {}))).data, "no");
const raised = await failure(client.mutation(faults.raised, {}));
assert(!(raised instanceof ConvexError));
assert.match(raised.message, /ValueError: boom/);
for (const call of [client.query, client.mutation, client.action]) {
  for (const missing of [faults.nothing, faults.hidden]) {
    const error = await failure(call.call(client, missing, {}));
    assert.match(error.message, /Could not find public function for 'faults:(nothing|hidden)'/);
  }
}
assert.match((await failure(client.mutation(counters.add, { amount: "x" }))).message, /ArgumentValidationError/);
assert.equal(await client.query(counters.get, { name: "nobody" }), 0);
"""
    with node.program(text, server.url) as client:
        client.finish()


def test_an_update_is_shown_once_before_and_once_after_the_answer(server: ServerProcess, node: Node) -> None:
    """An optimistic update makes way for its effect in one step: never is it applied on top of it."""
    text = """
const { messages } = anyApi;
const list = watch(messages.list, {});
await list.until((value) => value.length === 0);
const optimisticUpdate = (store, { body }) =>
  store.setQuery(messages.list, {}, [...store.getQuery(messages.list, {}), body + "*"]);
for (let number = 0; number < 20; number++) {
  const sent = client.mutation(messages.send, { body: `${number}` }, { optimisticUpdate });
  assert.equal(client.client.localQueryResult("messages:list", {}).at(-1), `${number}*`);
  await sent;
  assert.equal(client.client.localQueryResult("messages:list", {}).at(-1), `${number}`);
}
await list.until((value) => value.length === 20 && value.at(-1) === "19");
for (const value of list.seen) {
  const bare = value.map((body) => body.replace("*", ""));
  assert.deepEqual(bare, [...new Set(bare)], `shown twice: ${value}`);
}
await client.mutation(messages.clear, {});
"""
    with node.program(text, server.url) as client:
        client.finish()


def test_queries_that_change_together_are_shown_together(server: ServerProcess, node: Node) -> None:
    text = """
const { counters } = anyApi;
const writer = new ConvexClient(url);
const shown = (by) => client.client.localQueryResult("counters:scaled", { name: "together", by });
let agreements = 0;
function look() {
  const [one, ten, hundred] = [1, 10, 100].map(shown);
  if (one === undefined) return;
  assert.deepEqual([ten, hundred], [one * 10, one * 100]);
  agreements += 1;
}
const watched = [100, 10, 1].map((by) => {
  client.onUpdate(counters.scaled, { name: "together", by }, look);
  return watch(counters.scaled, { name: "together", by });
});
for (let number = 0; number < 30; number++) await writer.mutation(counters.add, { name: "together" });
await watched[2].until((value) => value === 30);
assert(agreements > 1);
await writer.close();
"""
    with node.program(text, server.url) as client:
        client.finish()


def test_a_transition_of_several_parts(server: ServerProcess, node: Node) -> None:
    text = """
const { counters } = anyApi;
const size = 9_000_000;
const [first, second] = [size, size + 1].map((size) => watch(counters.large, { name: "large", size }));
await first.until((value) => value === "0:" + "x".repeat(size));
await client.mutation(counters.add, { name: "large" });
await first.until((value) => value === "1:" + "x".repeat(size));
await second.until((value) => value === "1:" + "x".repeat(size + 1));
"""
    with node.program(text, server.url) as client:
        client.finish()


def test_a_failing_query_recovers(server: ServerProcess, node: Node) -> None:
    text = """
const { counters } = anyApi;
const shown = watch(counters.fails_when_odd, { name: "odd" });
await shown.until((value) => value === 0);
await client.mutation(counters.add, { name: "odd" });
await shown.until((value) => value instanceof Error && /ValueError: odd/.test(value.message));
await client.mutation(counters.add, { name: "odd" });
await shown.until((value) => value === 2);
shown.stop();
"""
    with node.program(text, server.url) as client:
        client.finish()


def test_an_address_with_a_slash_at_its_end(server: ServerProcess, node: Node) -> None:
    text = """
const { counters } = anyApi;
assert.equal(await client.mutation(counters.add, { name: "slash" }), 1);
const http = new ConvexHttpClient(url);
assert.equal(await http.query(counters.get, { name: "slash" }), 1);
"""
    with node.program(text, server.url + "/") as client:
        client.finish()


def test_the_http_client(server: ServerProcess, node: Node) -> None:
    text = """
const { counters, faults, values } = anyApi;
const http = new ConvexHttpClient(url);
const failure = (promise) => promise.then(() => assert.fail("it did not fail"), (error) => error);
assert.equal(await http.mutation(counters.add, { name: "http", amount: 3 }), 3);
assert.equal(await http.query(counters.get, { name: "http" }), 3);
assert.deepEqual(await http.action(values.echo_late, { value: { a: [1, 7n, NaN] } }), { a: [1, 7n, NaN] });
assert.deepEqual((await failure(http.mutation(faults.told, {}))).data, { code: 7, why: "because" });
assert.match((await failure(http.mutation(faults.raised, {}))).message, /ValueError: boom/);
assert.match((await failure(http.query(faults.nothing, {}))).message, /Could not find public function/);
assert.equal(await http.consistentQuery(counters.get, { name: "http" }), 3);
await http.mutation(counters.add, { name: "elsewhere" });
assert.equal(await http.consistentQuery(counters.scaled, { name: "http", by: 10 }), 30);
await http.mutation(counters.add, { name: "http" });
assert.equal(await http.consistentQuery(counters.get, { name: "http" }), 3, "as of its first question");
assert.equal(await new ConvexHttpClient(url).consistentQuery(counters.get, { name: "http" }), 4);
"""
    with node.program(text, server.url) as client:
        client.finish()


def test_an_admin_may_call_internal_functions(server: ServerProcess, node: Node) -> None:
    text = """
const { counters, faults } = anyApi;
const shown = watch(faults.hidden, {});
await shown.until((value) => value instanceof Error);
client.client.setAdminAuth(given[0]);
await shown.until((value) => value === "internal");
assert.equal(await client.mutation(counters.add, { name: "admin" }), 1);
"""
    with node.program(text, server.url, (server.data / "admin_key").read_text().strip()) as client:
        client.finish()


def test_a_client_without_tokens_and_one_that_is_refused_one(server: ServerProcess, node: Node) -> None:
    """Without auth the identity never changes; with a token that nobody can check, the client is told, and goes on."""
    text = """
const { counters } = anyApi;
assert.equal(await client.query(counters.get, { name: "auth" }), 0);
const changes = [];
let heard;
const confirmed = new Promise((resolve) => { heard = resolve; });
const other = new ConvexClient(url);
other.setAuth(async () => null, (isAuthenticated) => { changes.push(isAuthenticated); heard(); });
await confirmed;
assert.deepEqual(changes, [false]);
assert.equal(await other.mutation(counters.add, { name: "auth" }), 1);
const refused = new ConvexClient(url);
const token = ["{}", '{"iss":"https://x","exp":9999999999,"iat":1}', "x"]
  .map((part) => Buffer.from(part).toString("base64url")).join(".");
assert.equal(await new Promise((resolve) => refused.setAuth(async () => token, resolve)), false);
assert.equal(await refused.mutation(counters.add, { name: "auth" }), 2);
await other.close();
await refused.close();
"""
    with node.program(text, server.url) as client:
        client.finish()


def test_a_mutation_happens_once_however_often_the_server_is_killed(node: Node, tmp_path: Path) -> None:
    """Killed while it runs, it has not happened and runs again; killed after its commit, it is only answered again."""
    functions = write_functions(tmp_path / "functions")
    gates = Gates(tmp_path)
    text = """
const { counters, gated } = anyApi;
const shown = watch(counters.get, {});
await shown.until((value) => value === 0);
const sent = [client.mutation(gated.mutate, { gate: 0 }), client.mutation(counters.add, {})];
assert.deepEqual(await Promise.all(sent), [1, 2]);
await shown.until((value) => value === 2);
assert.deepEqual(shown.seen, [...shown.seen].sort(), "nothing is taken back");
"""
    data = tmp_path / "data"
    killing = {**gates.environment, "EVOLUTE_FAILPOINT": f"{failpoints.AFTER_COMMIT}:2"}
    with (
        ServerProcess(functions, data, environment=gates.environment) as first,
        node.program(text, first.url) as client,
    ):
        gates.wait_reached(0)
        first.kill()
        gates.open(0)
        with ServerProcess(functions, data, port=first.port, environment=killing) as second:
            assert second.wait() == -signal.SIGKILL
        with ServerProcess(functions, data, port=first.port, environment=gates.environment):
            client.finish()


def test_a_server_that_stops_answers_what_runs_and_lets_its_clients_go(node: Node, tmp_path: Path) -> None:
    """They come back to the next one, and nothing has been lost or done twice."""
    functions = write_functions(tmp_path / "functions")
    gates = Gates(tmp_path)
    text = """
const { counters, gated } = anyApi;
const shown = watch(counters.get, {});
await shown.until((value) => value === 0);
assert.equal(await client.mutation(gated.mutate, { gate: 0 }), 1);
assert.equal(client.connectionState().connectionCount, 1);
console.log("answered");
await new Promise((resolve) => process.stdin.once("data", resolve));
assert.equal(await client.mutation(counters.add, {}), 2);
await shown.until((value) => value === 2);
assert.equal(client.connectionState().connectionCount, 2);
"""
    data = tmp_path / "data"
    with (
        ServerProcess(functions, data, environment=gates.environment) as first,
        node.program(text, first.url) as client,
    ):
        gates.wait_reached(0)
        first.process.send_signal(signal.SIGTERM)
        first.wait_deaf()
        gates.open(0)
        client.wait_for("answered")
        assert first.wait() == 0
        with ServerProcess(functions, data, port=first.port, environment=gates.environment) as second:
            client.say("go")
            client.finish()
            assert second.stop() == 0
