"""`usePaginatedQuery` of npm's `convex`, as published, in a React application that is rendered into a DOM.

Each program renders a list, looks at what is on the page, and must end by itself with exit code 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from evolute_client import HttpClient
from tests.end_to_end.client_process import ClientProcess
from tests.end_to_end.server_process import ServerProcess
from tests.unit.function_store import write_folder

MODULE = """
from evolute import PaginationOptions, PaginationResult

@mutation
def insert(ctx: MutationCtx, group: str, numbers: list[int]) -> None:
    for n in numbers:
        ctx.db.insert("items", {"group": group, "n": n})

@mutation
def delete(ctx: MutationCtx, group: str, numbers: list[int]) -> None:
    for item in ctx.db.query("items").with_index("by_n", group=group).collect():
        if item["n"] in numbers:
            ctx.db.delete(item["_id"])

@query
def page(ctx: QueryCtx, group: str, paginationOpts: PaginationOptions) -> PaginationResult[dict[str, Any]]:
    return ctx.db.query("items").with_index("by_n", group=group).order("desc").paginate(paginationOpts)

@query
def rare(ctx: QueryCtx, group: str, paginationOpts: PaginationOptions) -> PaginationResult[dict[str, Any]]:
    tens = ctx.db.query("items").with_index("by_n", group=group).filter(lambda item: item["n"] % 10 == 0)
    return tens.paginate(paginationOpts, maximum_rows_read=8)

@query
def everything(ctx: QueryCtx, group: str) -> list[int]:
    return [item["n"] for item in ctx.db.query("items").with_index("by_n", group=group).order("desc").collect()]
"""
SCHEMA = """
from evolute import define_schema, define_table
schema = define_schema(items=define_table().index("by_n", ["group", "n"]))
"""
PRELUDE = """
import assert from "node:assert/strict";
import { Window } from "happy-dom";
const window = new Window({ url: "http://localhost" });
for (const [name, value] of Object.entries({ window, document: window.document, navigator: window.navigator }))
  Object.defineProperty(globalThis, name, { value, configurable: true });
const { createElement } = await import("react");
const { createRoot } = await import("react-dom/client");
const { ConvexProvider, ConvexReactClient, usePaginatedQuery, usePaginatedQuery_experimental, useQuery } =
  await import("convex/react");
const { anyApi } = await import("convex/server");
const { default: NodeSocket } = await import("ws");

const [url, group, hook] = process.argv.slice(2);
/** Every query that was asked for. */
const added = [];
class Socket extends NodeSocket {
  send(text) {
    for (const each of JSON.parse(text).modifications ?? []) if (each.type === "Add") added.push(each);
    super.send(text);
  }
}
const convex = new ConvexReactClient(url, { webSocketConstructor: Socket, unsavedChangesWarning: false });
const paginated = hook === "experimental" ? usePaginatedQuery_experimental : usePaginatedQuery;
const renders = [];
let waiting = [];
function List({ query, initialNumItems }) {
  const found = paginated(query, { group }, { initialNumItems });
  const whole = useQuery(anyApi.items.everything, { group });
  renders.push({ numbers: found.results.map((item) => item.n), status: found.status, loadMore: found.loadMore, whole });
  queueMicrotask(() => waiting.splice(0).forEach((look) => look()));
  return createElement("ul", null, found.results.map((item) => createElement("li", { key: item._id }, `${item.n},`)));
}
const root = createRoot(document.body.appendChild(document.createElement("div")));
const show = (query, initialNumItems) =>
  root.render(createElement(ConvexProvider, { client: convex }, createElement(List, { query, initialNumItems })));
/** Waits until it is so. */
const wait = (isSo) =>
  new Promise((resolve) => {
    const look = () => (isSo() ? resolve() : void waiting.push(look));
    look();
  });
setInterval(() => waiting.splice(0).forEach((look) => look()), 20).unref();
/** Waits until the list is rendered in this state, and stands so on the page. */
const until = async (numbers, status) => {
  const there = () => {
    const last = renders.at(-1);
    const isRendered = JSON.stringify(last?.numbers) === JSON.stringify(numbers) && last.status === status;
    return isRendered && document.body.textContent === numbers.map((n) => `${n},`).join("");
  };
  await wait(there);
  return renders.at(-1);
};
const insert = (...numbers) => convex.mutation(anyApi.items.insert, { group, numbers });
const remove = (...numbers) => convex.mutation(anyApi.items.delete, { group, numbers });
const down = (from, to) => Array.from({ length: from - to + 1 }, (_, place) => from - place);
"""
POSTLUDE = """
root.unmount();
await convex.close();
process.exit(0);
"""
HOOKS = ("published", "experimental")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("react")
    with ServerProcess(write_functions(folder), folder / "data") as server:
        yield server


def write_functions(folder: Path) -> Path:
    return write_folder(folder / "functions", {"items.py": MODULE, "schema.py": SCHEMA})


class Page:
    """Starts programs with React, a document and the list at hand."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def program(self, text: str, *arguments: str) -> ClientProcess:
        script = self._folder / "program.mjs"
        script.write_text(PRELUDE + text + POSTLUDE)
        return ClientProcess(["node", str(script), *arguments], folder=self._folder)


@pytest.fixture
def page(react_folder: Path) -> Page:
    return Page(react_folder)


def insert(server: ServerProcess, group: str, *numbers: int) -> None:
    HttpClient(server.url).mutation("items:insert", group=group, numbers=list(numbers))


@pytest.mark.parametrize("hook", HOOKS)
def test_a_list_grows_to_its_end_and_stays_up_to_date(server: ServerProcess, page: Page, hook: str) -> None:
    text = """
show(anyApi.items.page, 3);
assert.equal(renders[0]?.status ?? "LoadingFirstPage", "LoadingFirstPage");
(await until([8, 7, 6], "CanLoadMore")).loadMore(3);
(await until([8, 7, 6, 5, 4, 3], "CanLoadMore")).loadMore(9);
await until([8, 7, 6, 5, 4, 3, 2, 1], "Exhausted");
await insert(9, 0);
await until([9, 8, 7, 6, 5, 4, 3, 2, 1, 0], "Exhausted");
await remove(6, 5, 3);
await until([9, 8, 7, 4, 2, 1, 0], "Exhausted");
await insert(6);
await until([9, 8, 7, 6, 4, 2, 1, 0], "Exhausted");
"""
    insert(server, f"grows {hook}", *range(1, 9))
    with page.program(text, server.url, f"grows {hook}", hook) as client:
        client.finish()


@pytest.mark.parametrize("hook", HOOKS)
def test_the_list_is_never_anything_but_the_beginning_of_the_table(
    server: ServerProcess, page: Page, hook: str
) -> None:
    """Not while pages grow, shrink, are split and are loaded: in every render it is beside all rows of that moment."""
    text = """
show(anyApi.items.page, 2);
(await until([20, 18], "CanLoadMore")).loadMore(2);
(await until([20, 18, 16, 14], "CanLoadMore")).loadMore(2);
await until([20, 18, 16, 14, 12, 10], "CanLoadMore");
for (const round of [1, 3, 5, 7, 9]) {
  await insert(round, round + 10);
  await remove(round + 1, round + 11);
}
for (const n of down(60, 40)) await insert(n);
await insert(...down(39, 21));
const shown = [...down(60, 21), 19, 17, 15, 13, 11];
await until(shown, "CanLoadMore");
let looks = 0;
for (const { numbers, whole } of renders) {
  if (whole === undefined) continue;
  assert.deepEqual(numbers, whole.slice(0, numbers.length));
  looks += 1;
}
assert(looks > 10, `${looks}`);
"""
    insert(server, f"beginning {hook}", *range(2, 21, 2))
    with page.program(text, server.url, f"beginning {hook}", hook) as client:
        client.finish()


@pytest.mark.parametrize("hook", HOOKS)
def test_a_page_that_has_grown_is_split(server: ServerProcess, page: Page, hook: str) -> None:
    text = """
show(anyApi.items.page, 3);
await until([103, 102, 101], "CanLoadMore");
await insert(...down(130, 104));
await until(down(130, 101), "CanLoadMore");
await wait(() => added.filter((each) => each.args[0].paginationOpts?.endCursor).length >= 8);
await insert(200);
await until([200, ...down(130, 101)], "CanLoadMore");
"""
    insert(server, f"split {hook}", 100, 101, 102, 103)
    with page.program(text, server.url, f"split {hook}", hook) as client:
        client.finish()


@pytest.mark.parametrize("hook", HOOKS)
def test_a_page_that_must_be_split_is_shown_when_it_is_whole(server: ServerProcess, page: Page, hook: str) -> None:
    """The query reads at most eight rows at a time; few of them pass its filter."""
    text = """
show(anyApi.items.rare, 2);
let last = await until([0], "CanLoadMore");
last.loadMore(2);
last = await until([0, 10], "CanLoadMore");
last.loadMore(2);
last = await until([0, 10, 20], "CanLoadMore");
last.loadMore(2);
await until([0, 10, 20], "Exhausted");
"""
    insert(server, f"rare {hook}", *range(25))
    with page.program(text, server.url, f"rare {hook}", hook) as client:
        client.finish()


@pytest.mark.parametrize("hook", HOOKS)
def test_the_list_outlives_the_server(tmp_path: Path, page: Page, hook: str) -> None:
    functions, data = write_functions(tmp_path), tmp_path / "data"
    text = """
show(anyApi.items.page, 2);
(await until([8, 6], "CanLoadMore")).loadMore(2);
await until([8, 6, 4, 2], "CanLoadMore");
console.log("shown");
await until([9, 8, 7, 6, 5, 4, 3, 2], "CanLoadMore");
assert(added.some((each) => each.journal), "the journals were handed back");
"""
    with ServerProcess(functions, data) as first:
        insert(first, "a", 0, 2, 4, 6, 8)
        with page.program(text, first.url, "a", hook) as client:
            client.wait_for("shown")
            first.kill()
            with ServerProcess(functions, data, port=first.port) as second:
                insert(second, "a", 1, 3, 5, 7, 9)
                client.finish()


def test_the_list_begins_anew_when_its_query_has_become_another(tmp_path: Path, page: Page) -> None:
    """The experimental hook cannot bear any error of a page: it throws out of its socket's handler."""
    functions = write_functions(tmp_path)
    text = """
show(anyApi.items.page, 2);
(await until([8, 6], "CanLoadMore")).loadMore(2);
await until([8, 6, 4, 2], "CanLoadMore");
console.log("shown");
await until([0, 2], "CanLoadMore");
"""
    with ServerProcess(functions, tmp_path / "data") as server:
        insert(server, "a", 0, 2, 4, 6, 8)
        with page.program(text, server.url, "a", "published") as client:
            client.wait_for("shown")
            changed = MODULE.replace('.order("desc").paginate', ".paginate")
            assert changed != MODULE
            write_folder(functions, {"items.py": changed})
            client.finish()
