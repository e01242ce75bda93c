"""The HTTP client against a server that answers what a test tells it to."""

from __future__ import annotations

import base64
import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import orjson
import pytest

from evolute_client import (
    ConnectionLost,
    ConvexError,
    FunctionError,
    HttpClient,
    Int64,
    RequestRefused,
)


class HttpScript(BaseHTTPRequestHandler):
    """Answers with `answers[path]`, and keeps what it was asked."""

    answers: dict[str, tuple[int, bytes]]
    asked: list[tuple[str, str | None, object]]

    def do_POST(self) -> None:
        body = orjson.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append((self.path, self.headers["Authorization"], body))
        status, answer = self.answers[self.path]
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:
        return


@contextlib.contextmanager
def http_server(answers: dict[str, tuple[int, bytes]]) -> Iterator[tuple[str, list[tuple[str, str | None, object]]]]:
    asked: list[tuple[str, str | None, object]] = []
    script = type("Script", (HttpScript,), {"answers": answers, "asked": asked})
    with ThreadingHTTPServer(("127.0.0.1", 0), script) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
        thread.join()


def test_calls_over_http() -> None:
    answers = {
        "/api/query": (200, b'{"status":"success","value":{"n":{"$integer":"AQAAAAAAAAA="}},"logLines":["[LOG] x"]}'),
        "/api/mutation": (200, b'{"status":"error","errorMessage":"no","errorData":{"code":1}}'),
        "/api/action": (200, b'{"status":"error","errorMessage":"boom"}'),
        "/api/function": (403, b'{"code":"BadDeployKey","message":"The admin key is wrong."}'),
    }
    with http_server(answers) as (address, asked):
        client = HttpClient(address, admin_key="demo|key")
        assert client.query("m:f", n=Int64(2)) == {"n": 1}
        with pytest.raises(ConvexError) as raised:
            client.mutation("m:g")
        assert raised.value.data == {"code": 1}
        with pytest.raises(FunctionError, match="boom"):
            client.action("m:a")
        with pytest.raises(RequestRefused, match="The admin key is wrong") as refused:
            client.run("m:internal")
        assert (refused.value.code, refused.value.status) == ("BadDeployKey", 403)
    arguments = {"n": {"$integer": "AgAAAAAAAAA="}}
    body = {"path": "m:f", "args": arguments, "format": "convex_encoded_json"}
    assert asked[0] == ("/api/query", "Convex demo|key", body)
    assert [path for path, _, _ in asked] == ["/api/query", "/api/mutation", "/api/action", "/api/function"]
    with pytest.raises(ConnectionLost, match="cannot reach"):
        client.query("m:f")


def test_answers_that_are_none() -> None:
    with http_server({"/api/query": (502, b"<html>bad gateway")}) as (address, _):
        client = HttpClient(address)
        with pytest.raises(RequestRefused, match="answered 502: <html>"):
            client.query("m:f")


def test_who_the_caller_is() -> None:
    with http_server({"/api/query": (200, b'{"status":"success","value":1}')}) as (address, asked):
        HttpClient(address).query("m:f")
        HttpClient(address, token="jwt").query("m:f")
        HttpClient(address, admin_key="demo|key", acting_as={"subject": "änn", "issuer": "i"}).query("m:f")
    assert [authorization for _, authorization, _ in asked[:2]] == [None, "Bearer jwt"]
    assert asked[2][1] is not None
    key, _, identity = asked[2][1].partition(":")
    assert (key, orjson.loads(base64.b64decode(identity))) == ("Convex demo|key", {"subject": "änn", "issuer": "i"})
