"""examples/chat_web, as its README says: installed, type-checked, built, served by `evolute serve --static`, and used
in Chromium by people who have signed in with an OpenID Connect issuer.

One browser serves all tests, which tell it in JavaScript what to do. Each has windows of its own, in `w`; whatever
their consoles complain of fails the test. Screenshots are in the test's folder; `--screenshots DIR` puts them where
they can be looked at.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from evolute.cli.main import commands
from evolute_client import ConvexError, HttpClient, RequestRefused
from tests.end_to_end.client_process import ClientProcess
from tests.end_to_end.conftest import CHAT_WEB, CHROMIUM
from tests.end_to_end.page_reader import ROOT, blocks_of
from tests.end_to_end.server_process import ServerProcess
from tests.oidc_issuer import OidcIssuer
from tests.oidc_login import running_login

BUILD_S_MAX = 120
DRIVER = r"""
import assert from "node:assert/strict";
import { createInterface } from "node:readline";
import { chromium } from "playwright-core";

const flags = ["no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
  "disable-component-update", "disable-sync"].map((flag) => `--${flag}`);
const browser = await chromium.launch({ executablePath: process.argv[2], args: flags });
const faults = [];

/** A window of somebody's own browser. */
async function open(address, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1200, height: 800 }, locale: "en-GB", ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(20_000);
  page.on("console", (line) => line.type() === "error" && faults.push(`${line.location().url}: ${line.text()}`));
  page.on("pageerror", (error) => faults.push(String(error)));
  page.on("request", (request) => new URL(request.url()).hostname === "127.0.0.1" || faults.push(request.url()));
  await page.goto(address);
  return page;
}
const phone = { viewport: { width: 390, height: 844 }, deviceScaleFactor: 2, hasTouch: true, isMobile: true };
const field = (page) => page.getByRole("textbox", { name: /^Message to / });
const signInButton = (page) => page.getByRole("main").getByRole("button", { name: "Sign in" });
async function signIn(page, name) {
  await signInButton(page).click();
  await page.getByLabel("Your name").fill(name);
  await page.getByRole("button", { name: "Sign in" }).click();
  await field(page).waitFor();
  return page;
}
async function say(page, text, life = "Stays") {
  await page.getByLabel("How long it stays").selectOption({ label: life });
  await field(page).fill(text);
  await field(page).press("Enter");
}
/** Waits until exactly these messages are on each page, none of them on its way. */
async function until(pages, ...texts) {
  const isSo = (wanted) => {
    const shown = [...document.querySelectorAll(".bubble > p")].map((each) => each.textContent);
    return JSON.stringify(shown) === wanted && document.querySelector(".pending") === null;
  };
  await Promise.all([pages].flat().map((page) => page.waitForFunction(isSo, JSON.stringify(texts))));
}
const tools = { assert, open, phone, field, signIn, signInButton, say, until, faults, w: {} };
const AsyncFunction = (async () => {}).constructor;
const closeAll = () => Promise.all(browser.contexts().map((context) => context.close()));
let done = 0;
for await (const line of createInterface({ input: process.stdin })) {
  const { program, given } = JSON.parse(line);
  const names = { ...tools, shoot: (page, name) => page.screenshot({ path: `${given.shots}/${name}.png` }), ...given };
  try {
    if (program === null) await closeAll();
    else await new AsyncFunction(...Object.keys(names), program)(...Object.values(names));
    const complaints = faults.splice(0);
    assert.deepEqual(complaints, []);
    console.log(`done ${(done += 1)}`);
  } catch (error) {
    console.log(`failed ${JSON.stringify(String(error.stack))}`);
    const pages = browser.contexts().flatMap((context) => context.pages());
    for (const [number, page] of pages.entries())
      await page.screenshot({ path: `${given.shots}/failed-${number}.png` }).catch(console.error);
    faults.length = 0;
  }
}
await browser.close();
process.exit();
"""


@dataclass(frozen=True)
class Site:
    """The page, built for an issuer that runs."""

    folder: Path
    issuer: OidcIssuer

    def serve(self, data: Path, *, port: int = 0) -> ServerProcess:
        return ServerProcess(
            CHAT_WEB / "chat",
            data,
            command="serve",
            port=port,
            environment={"CHAT_ISSUER": self.issuer.url},
            options=["--static", str(self.folder / "dist")],
        )

    def say(self, server: ServerProcess, *texts: str) -> None:
        """Without a browser."""
        token = self.issuer.token({"sub": "charles", "name": "Charles Babbage", "aud": "chat-web"})
        client = HttpClient(server.url, token=token)
        client.mutation("channels:open_first")
        (channel,) = client.query("channels:list_all")
        for text in texts:
            client.mutation("messages:send", channel=channel["_id"], body=text, key=text)


class Browser:
    """A process that does what it is told, program by program."""

    def __init__(self, folder: Path) -> None:
        script = folder / "driver.mjs"
        script.write_text(DRIVER)
        self.process = ClientProcess(["node", str(script), str(CHROMIUM)], folder=folder)
        self.shots = folder
        self._answers = 0

    def do(self, program: str | None, **given: str) -> None:
        """Returns when it is done. `given` are constants of the program; without one, all windows are closed."""
        self.process.say(json.dumps({"program": program, "given": {"shots": str(self.shots), **given}}))
        self._answers = self.process.wait_for_match("(done|failed) .*", after=self._answers)
        answer, _, error = self.process.lines[self._answers - 1].partition(" ")
        assert answer == "done", json.loads(error)


@pytest.fixture(scope="module")
def running_browser(chat_web_folder: Path) -> Iterator[Browser]:
    browser = Browser(chat_web_folder)
    with browser.process:
        yield browser


@pytest.fixture(scope="module")
def site(chat_web_folder: Path, running_browser: Browser) -> Iterator[Site]:
    """The browser, which takes a while to start, does so meanwhile."""
    with running_login() as issuer:
        done = subprocess.run(
            ["npm", "run", "build"],
            cwd=chat_web_folder,
            env={**os.environ, "VITE_OIDC_ISSUER": issuer.url},
            capture_output=True,
            text=True,
            timeout=BUILD_S_MAX,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        yield Site(chat_web_folder, issuer)


@pytest.fixture
def browser(running_browser: Browser, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Browser]:
    given: str | None = request.config.getoption("--screenshots")
    running_browser.shots = tmp_path / "screenshots" if given is None else Path(given).absolute()
    running_browser.shots.mkdir(parents=True, exist_ok=True)
    yield running_browser
    running_browser.do(None)


def test_two_windows_see_each_other(site: Site, browser: Browser, tmp_path: Path) -> None:
    """And a third one, of a visitor who has not signed in. Channels have addresses, and who signs out reads on."""
    with site.serve(tmp_path / "data") as server:
        browser.do(
            """
            w.visitor = await open(url);
            await w.visitor.getByText("Nothing has been said here yet.").waitFor();
            assert.equal(new URL(w.visitor.url()).pathname, "/c/general");
            await shoot(w.visitor, "visitor");
            w.ada = await signIn(await open(url), "Ada Lovelace");
            w.grace = await signIn(await open(`${url}/c/general`, phone), "Grace Hopper");
            for (const page of [w.visitor, w.ada, w.grace]) await page.getByText("2 here").waitFor();
            """,
            url=server.url,
        )
        browser.do(
            r"""
            const everybody = [w.visitor, w.ada, w.grace];
            const said = ["Good morning! Is anybody here?", "Good morning, Ada. I have found the bug.",
              "It was a moth, of all things.\nIn relay 70, panel F.",
              "A real one? Tape it into the log, or nobody will believe us."];
            await say(w.ada, said[0]);
            await until(w.grace, said[0]);
            await say(w.grace, said[1]);
            await field(w.grace).fill("It was a moth, of all things.");
            await field(w.grace).press("Shift+Enter");
            await field(w.grace).pressSequentially("In relay 70, panel F.");
            await w.grace.getByRole("button", { name: "Send" }).click();
            await until(w.ada, ...said.slice(0, 3));
            await say(w.ada, said[3]);
            await until(everybody, ...said);
            const authors = await w.visitor.locator(".author").allTextContents();
            assert.deepEqual(authors, ["Ada Lovelace", "Grace Hopper", "Ada Lovelace"]);
            assert.equal(await w.ada.locator(".mine .bubble").count(), 2);
            assert.equal(await field(w.visitor).count(), 0);

            await say(w.grace, "This one vanishes.", "Vanishes in 5 s");
            await until(everybody, ...said, "This one vanishes.");
            for (const page of everybody) await page.locator(".countdown").getByText(/^[1-5] s$/).waitFor();
            await shoot(w.ada, "desktop-light");
            await shoot(w.grace, "phone-light");
            for (const page of [w.ada, w.grace]) await page.emulateMedia({ colorScheme: "dark" });
            await shoot(w.ada, "desktop-dark");
            await shoot(w.grace, "phone-dark");
            w.said = said;
            """
        )
        browser.do(  # until it has vanished
            """
            await w.grace.getByRole("button", { name: "Channels" }).click();
            await w.grace.getByRole("textbox", { name: "Name of a new channel" }).fill("Difference Engine");
            await w.grace.getByRole("textbox", { name: "Name of a new channel" }).press("Enter");
            await w.grace.getByRole("heading", { name: "difference-engine" }).waitFor();
            await w.grace.getByRole("dialog").waitFor({ state: "detached" });
            assert.equal(await w.grace.title(), "#difference-engine · evolute chat");
            await say(w.grace, "Only here");
            await w.ada.getByRole("link", { name: "difference-engine" }).click();
            await until([w.ada, w.grace], "Only here");
            for (const page of [w.ada, w.grace]) await page.goBack();
            await until([w.visitor, w.ada, w.grace], ...w.said);

            await w.grace.goForward();
            await w.grace.reload();
            await until(w.grace, "Only here");
            await w.grace.getByRole("button", { name: "Channels" }).click();
            await w.grace.getByRole("dialog").getByText("Grace Hopper").waitFor();
            await shoot(w.grace, "phone-drawer");
            await w.grace.getByRole("button", { name: "Sign out" }).click();
            await w.grace.keyboard.press("Escape");
            await w.grace.getByRole("dialog").waitFor({ state: "detached" });
            await signInButton(w.grace).waitFor();
            await until(w.grace, "Only here");
            await w.visitor.goto(`${url}/c/nowhere`);
            await w.visitor.getByText("There is no #nowhere").waitFor();
            """,
            url=server.url,
        )


def test_a_server_that_is_killed_loses_nothing_and_duplicates_nothing(
    site: Site, browser: Browser, tmp_path: Path
) -> None:
    """Not what was said while it was down either; and what is to vanish does."""
    data = tmp_path / "data"
    with site.serve(data) as first:
        browser.do(
            """
            w.ada = await signIn(await open(url), "Ada");
            w.grace = await signIn(await open(url), "Grace");
            await say(w.ada, "one");
            await say(w.grace, "two");
            await until([w.ada, w.grace], "one", "two");
            await say(w.ada, "gone soon", "Vanishes in 5 s");
            await until([w.ada, w.grace], "one", "two", "gone soon");
            """,
            url=first.url,
        )
        first.kill()
        browser.do(
            """
            for (const page of [w.ada, w.grace]) await page.getByText("The connection is lost.").waitFor();
            await say(w.ada, "while it was down");
            await w.ada.locator(".pending").getByText("while it was down").waitFor();
            await say(w.ada, "and more");
            await w.ada.locator(".pending").getByText("and more").waitFor();
            assert.equal(await w.grace.getByText("while it was down").count(), 0);
            await w.ada.locator(".connection p").evaluate((notice) => notice.getAnimations()[0].finished);
            await shoot(w.ada, "connection-lost");
            faults.length = 0; // a browser complains of every connection that it is refused
            """
        )
        with site.serve(data, port=first.port):
            browser.do(
                """
                const all = ["one", "two", "while it was down", "and more"];
                await until([w.ada, w.grace], ...all);
                for (const page of [w.ada, w.grace]) await page.locator(".connection p").waitFor({ state: "detached" });
                faults.length = 0;
                await say(w.grace, "after");
                await until([w.ada, w.grace], ...all, "after");
                await w.ada.reload();
                await until(w.ada, ...all, "after");
                assert.equal(await w.ada.locator(".mine .bubble").count(), 3);
                """
            )


def test_older_messages_come_as_one_scrolls_up(site: Site, browser: Browser, tmp_path: Path) -> None:
    with site.serve(tmp_path / "data") as server:
        site.say(server, *(f"message {number}" for number in range(1, 81)))
        browser.do(
            """
            w.numbers = (from, to) => Array.from({ length: to - from + 1 }, (_, place) => `message ${from + place}`);
            const page = (w.page = await open(url));
            await until(page, ...w.numbers(51, 80));
            await page.getByRole("log").hover();
            for (let scrolls = 0; (await page.getByText("The beginning of #general").count()) === 0; scrolls += 1) {
              assert(scrolls < 200, "there is no end of it");
              await page.mouse.wheel(0, -600);
              await page.waitForTimeout(20);
              const shown = await page.locator(".bubble > p").allTextContents();
              assert.deepEqual(shown, w.numbers(81 - shown.length, 80));
            }
            await until(page, ...w.numbers(1, 80));
            await page.mouse.wheel(0, -5000);
            await page.getByRole("button", { name: "Latest messages" }).waitFor();
            w.height = async () => (await page.getByText("message 1", { exact: true }).boundingBox()).y;
            w.before = await w.height();
            await shoot(page, "older");
            """,
            url=server.url,
        )
        site.say(server, "message 81")
        browser.do(
            """
            await until(w.page, ...w.numbers(1, 81));
            assert(Math.abs((await w.height()) - w.before) < 2, "what one reads stays where it is");
            await w.page.getByRole("button", { name: "Latest messages" }).click();
            await w.page.getByRole("button", { name: "Latest messages" }).waitFor({ state: "detached" });
            """
        )


def test_who_has_not_signed_in_cannot_write(site: Site, tmp_path: Path) -> None:
    """By no other way either than the page's, and not with another application's token."""
    with site.serve(tmp_path / "data") as server:
        site.say(server, "hello")
        visitor = HttpClient(server.url)
        (channel,) = visitor.query("channels:list_all")
        calls: dict[str, dict[str, object]] = {
            "messages:send": {"channel": channel["_id"], "body": "hello", "key": "1"},
            "channels:create": {"name": "mine"},
            "presence:heartbeat": {"channel": channel["_id"]},
        }
        for path, arguments in calls.items():
            with pytest.raises(ConvexError) as refused:
                visitor.mutation(path, **arguments)
            assert refused.value.data == {"code": "NotSignedIn", "message": "Sign in to take part."}
        assert visitor.query("people:me") is None
        ada = HttpClient(server.url, token=site.issuer.token({"name": "Ada", "aud": "chat-web"}))
        assert ada.query("people:me")["name"] == "Ada"
        with pytest.raises(RequestRefused, match="No auth provider found"):
            HttpClient(server.url, token=site.issuer.token({"name": "Ada", "aud": "another"})).query("people:me")


def test_the_readme_names_commands_that_there_are() -> None:
    """And those of the fixtures are among them."""
    given = [line for block in blocks_of(CHAT_WEB / "README.md") for line in block.text.splitlines()]
    assert len(given) == 6
    scripts = json.loads((CHAT_WEB / "package.json").read_text())["scripts"]
    for line in given:
        match shlex.split(line):
            case ["npm", "--prefix", "examples/chat_web", "install"]:
                pass
            case ["npm", "--prefix", "examples/chat_web", "run", script]:
                assert script in scripts
            case ["uv", "run", "python", "-m", "tests.oidc_login"]:
                assert (ROOT / "tests" / "oidc_login.py").exists()
            case ["uv", "run", "evolute", *arguments]:
                name, command, rest = commands.resolve_command(
                    commands.make_context("evolute", [*arguments]), arguments
                )
                assert command is not None, line
                assert command.make_context(name, rest).params["functions"] == Path("examples/chat_web/chat")
            case _:
                raise AssertionError(line)
