"""`--static`: a page's production build, served beside the API, and nothing else of the machine."""

from __future__ import annotations

import http.client
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson
import pytest

from tests.end_to_end.server_process import ServerProcess

INDEX = "<!doctype html><title>page</title>"
SCRIPT = "assets/index-DlfHr6_x.js"
FILES = {
    "index.html": INDEX,
    SCRIPT: "export const answer = 42;",
    "assets/index-DlfHr6_x.css": "body { margin: 0 }",
    "assets/plain-settings.js": "export {};",
    "assets/photo-20240101.webp": "webp",
    "docs/index.html": "<!doctype html><title>docs</title>",
    "fonts/a.woff2": "font",
    "version": "the API's routes come first",
    "unknown.zzz": "bytes",
    "empty/.keep": "",
    ".env": "SECRET",
    ".git/config": "SECRET",
    ".well-known/security.txt": "Contact: us",
}
SECRET = "SECRET"


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    text: str


class Site:
    """A server with `--static`, and what lies beside the folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "dist"
        (folder / "functions").mkdir(parents=True)
        (folder / "dist-of-another").mkdir()
        for path in ("outside.txt", "functions/secret.txt", "dist-of-another/secret.txt"):
            (folder / path).write_text(SECRET)
        for name, text in FILES.items():
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_text(text)
        self.server = ServerProcess(
            folder / "functions", folder / "data", command="serve", workers=1, options=["--static", str(self.folder)]
        )

    def ask(self, target: str, method: str = "GET", **headers: str) -> Reply:
        """The target goes out as it is: no client tidies it."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=30)
        try:
            connection.putrequest(method, "/")
            line = f"{method} {target} HTTP/1.1".encode("latin-1")
            connection._buffer[0] = line  # type: ignore[attr-defined] # putrequest refuses what attackers send
            for name, value in headers.items():
                connection.putheader(name.replace("_", "-"), value)
            connection.endheaders()
            response = connection.getresponse()
            body = response.read().decode()
            return Reply(response.status, {name.lower(): value for name, value in response.getheaders()}, body)
        finally:
            connection.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("static"))
    with site.server:
        yield site


@pytest.mark.parametrize(
    ("path", "name", "media_type"),
    [
        ("/", "index.html", "text/html; charset=utf-8"),
        ("/index.html", "index.html", "text/html; charset=utf-8"),
        (f"/{SCRIPT}", SCRIPT, "text/javascript; charset=utf-8"),
        ("/assets/index-DlfHr6_x.css", "assets/index-DlfHr6_x.css", "text/css; charset=utf-8"),
        ("/fonts/a.woff2", "fonts/a.woff2", "font/woff2"),
        ("/docs/", "docs/index.html", "text/html; charset=utf-8"),
        ("/unknown.zzz", "unknown.zzz", "application/octet-stream"),
        ("/.well-known/security.txt", ".well-known/security.txt", "text/plain; charset=utf-8"),
        ("/index.html?v=1&next=../..", "index.html", "text/html; charset=utf-8"),
        ("/%69ndex.html", "index.html", "text/html; charset=utf-8"),
    ],
)
def test_a_file_is_served_as_what_it_is(site: Site, path: str, name: str, media_type: str) -> None:
    reply = site.ask(path)
    assert (reply.status, reply.text) == (200, FILES[name])
    assert reply.headers["content-type"] == media_type
    assert reply.headers["x-content-type-options"] == "nosniff"
    head = site.ask(path, "HEAD")
    assert (head.status, head.text) == (200, "")
    assert head.headers["content-length"] == str(len(FILES[name]))
    assert head.headers["etag"] == reply.headers["etag"]


@pytest.mark.parametrize(
    "path", ["/channels", "/channels/general", "/channels/", "/assets", "/assets/", "/empty/", "/x" * 999]
)
def test_an_address_of_the_pages_own_is_the_page(site: Site, path: str) -> None:
    """Also that of a folder: nobody is shown what is in it."""
    reply = site.ask(path)
    assert (reply.status, reply.text) == (200, INDEX)
    assert reply.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize(
    "path", ["/missing.js", "/assets/index-00000000.js", "/channels/general.json", "/index.html/x.css"]
)
def test_a_file_that_is_missing_is_not_the_page(site: Site, path: str) -> None:
    """A browser that is given HTML for a script of yesterday's build only says that it cannot parse it."""
    reply = site.ask(path)
    assert reply.status == 404
    assert orjson.loads(reply.text)["code"] == "NotFound"


def test_what_never_changes_is_kept_and_everything_else_asked_for_again(site: Site) -> None:
    for path, kept in {
        f"/{SCRIPT}": True,
        "/assets/index-DlfHr6_x.css": True,
        "/assets/plain-settings.js": False,
        "/assets/photo-20240101.webp": False,
        "/fonts/a.woff2": False,
        "/": False,
    }.items():
        assert site.ask(path).headers["cache-control"] == (
            "public, max-age=31536000, immutable" if kept else "no-cache"
        ), path


def test_what_the_browser_has_is_not_sent_again(site: Site) -> None:
    tag = site.ask("/").headers["etag"]
    for given in (tag, f"W/{tag}", f'"another", {tag}', "*"):
        reply = site.ask("/channels", If_None_Match=given)
        assert (reply.status, reply.text, reply.headers["etag"]) == (304, "", tag)
        assert reply.headers["cache-control"] == "no-cache"
    for given in ('"another"', tag.strip('"')):
        assert site.ask("/", If_None_Match=given).status == 200


def test_a_build_of_the_same_size_and_time_is_another(site: Site) -> None:
    """As those of reproducible builds are, whose index.html differs in nothing but the names of its scripts."""
    page = site.folder / "docs" / "index.html"
    before, status = site.ask("/docs/"), page.stat()
    draft = page.with_suffix(".draft")
    draft.write_text(FILES["docs/index.html"].replace("docs", "DOCS"))
    os.utime(draft, ns=(status.st_atime_ns, status.st_mtime_ns))
    draft.replace(page)
    after = site.ask("/docs/", If_None_Match=before.headers["etag"])
    assert (after.status, after.text) == (200, FILES["docs/index.html"].replace("docs", "DOCS"))
    page.write_text(FILES["docs/index.html"])


def test_a_part_of_a_file_may_be_asked_for(site: Site) -> None:
    reply = site.ask(f"/{SCRIPT}", Range="bytes=7-11")
    assert (reply.status, reply.text) == (206, "const")
    assert reply.headers["content-range"] == f"bytes 7-11/{len(FILES[SCRIPT])}"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_files_are_only_read(site: Site, method: str) -> None:
    for path in ("/", f"/{SCRIPT}", "/channels"):
        reply = site.ask(path, method, Content_Length="0")
        assert (reply.status, reply.headers["allow"]) == (405, "GET, HEAD")
        assert orjson.loads(reply.text)["code"] == "MethodNotAllowed"


TRAVERSALS = [
    "/../outside.txt",
    "/assets/../../outside.txt",
    "/%2e%2e/outside.txt",
    "/%2e%2e%2foutside.txt",
    "/..%2foutside.txt",
    "/assets/%2e%2e/%2e%2e/outside.txt",
    "/assets/..%2f..%2foutside.txt",
    "/.%2e/outside.txt",
    "/..%5coutside.txt",
    "/..\\outside.txt",
    "/assets\\index-DlfHr6_x.js",
    "/assets%5cindex-DlfHr6_x.js",
    "/%252e%252e/outside.txt",
    "/%c0%ae%c0%ae/outside.txt",
    "/../dist-of-another/secret.txt",
    "/..%2fdist-of-another%2fsecret.txt",
    "/../functions/secret.txt",
    "/../data/admin_key",
    "/..",
    "/%2e%2e",
    "/../",
    "/./index.html",
    "/%2e/index.html",
    "//etc/passwd",
    "/%2fetc%2fpasswd",
    "/%2f%2fetc/passwd",
    "/etc/passwd%00.html",
    "/index.html%00",
    "/%00",
    "/.env",
    "/%2eenv",
    "/.git/config",
    "/.git/",
    "/.well-known/../.env",
    "/.well-known/../../outside.txt",
    "/" + "../" * 40 + "etc/passwd",
    "/" + "a" * 300 + ".js",
    "/~root/.ssh/id_rsa",
    "/C:\\Windows\\win.ini",
    "/file:///etc/passwd",
]


@pytest.mark.parametrize("target", TRAVERSALS)
def test_path_traversal_leads_nowhere(site: Site, target: str) -> None:
    """Neither to a file that is not the page's, nor to one by another name than its own."""
    reply = site.ask(target)
    assert SECRET not in reply.text
    assert "root:" not in reply.text
    assert reply.status in (400, 404) or (reply.status, reply.text) == (200, INDEX), reply
    assert reply.status != 200 or not any(sign in target for sign in ("..", "%2e", "\\", "%5c", "%00", "/."))


def test_a_symlink_out_of_the_folder_leads_nowhere(site: Site) -> None:
    outside = site.folder.parent / "outside.txt"
    links = {
        "link.txt": outside,
        "relative.txt": Path("../outside.txt"),
        "sibling": site.folder.parent / "dist-of-another",
        "up": site.folder.parent,
        "chain.txt": site.folder / "link.txt",
        "environment.txt": site.folder / ".env",
        "loop.txt": site.folder / "loop.txt",
        "dangling.txt": site.folder / "nowhere.txt",
    }
    for name, target in links.items():
        (site.folder / name).symlink_to(target)
    os.mkfifo(site.folder / "pipe.txt")
    try:
        for path in (*links, "sibling/secret.txt", "up/outside.txt", "up/data/admin_key", "up/dist/.env", "pipe.txt"):
            reply = site.ask(f"/{path}")
            assert (reply.status, reply.text) == (200, INDEX) if "." not in path else reply.status == 404, path
    finally:
        for name in (*links, "pipe.txt"):
            (site.folder / name).unlink()


def test_a_symlink_within_the_folder_is_its_file(site: Site) -> None:
    link = site.folder / "latest.js"
    link.symlink_to(site.folder / SCRIPT)
    try:
        assert site.ask("/latest.js").text == FILES[SCRIPT]
    finally:
        link.unlink()


def test_the_folder_may_be_replaced_while_it_is_served(tmp_path: Path) -> None:
    """As a deployment does that builds beside it and moves a symlink."""
    for number in "12":
        (tmp_path / number).mkdir()
        (tmp_path / number / "index.html").write_text(f"build {number}")
    current = tmp_path / "current"
    current.symlink_to("1")
    (tmp_path / "functions").mkdir()
    with ServerProcess(
        tmp_path / "functions", tmp_path / "data", workers=1, options=["--static", str(current)]
    ) as server:
        server.wait_for(rf"page +{current}/")
        for number in "12":
            current.unlink()
            current.symlink_to(number)
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
            connection.request("GET", "/")
            assert connection.getresponse().read().decode() == f"build {number}"
            connection.close()


def test_the_api_is_where_it_was(site: Site) -> None:
    assert site.ask("/version").text != FILES["version"]
    assert "admin key" in site.ask("/metrics").text
    for path in ("/api", "/api/", "/api/nothing", "/api/query/more"):
        reply = site.ask(path)
        assert reply.status in (400, 404)
        assert INDEX not in reply.text
    assert site.ask("/api/mutation").status == 405
    assert site.ask("/api/mutation").headers["allow"] == "POST"
    assert site.ask("/api/query", "POST", Content_Length="0").status == 400


def test_a_page_that_cannot_be_served_ends_the_start_with_one_line(tmp_path: Path) -> None:
    for name in ("functions", "built", "empty"):
        (tmp_path / name).mkdir()
    (tmp_path / "built" / "index.html").write_text(INDEX)
    (tmp_path / "built" / "data").mkdir()
    (tmp_path / "index.html").write_text(INDEX)
    for static, data, complaint in [
        ("missing", "data", r"there is no folder .*/missing to serve; name one with --static, or build the page"),
        ("built/index.html", "data", r"there is no folder .*index\.html to serve"),
        ("empty", "data", r"there is no index\.html in .*/empty; build the page"),
        ("built", "built/data", r"built/data is inside .*/built, which everybody may read"),
        (".", "data", r"functions is inside .*, which everybody may read"),
    ]:
        server = ServerProcess(
            tmp_path / "functions",
            tmp_path / data,
            command="serve",
            workers=1,
            options=["--static", str(tmp_path / static)],
        )
        try:
            assert server.wait() == 1
            server.wait_for(complaint)
            assert len(server.output.strip().splitlines()) == 1, server.output
        finally:
            server.close()
