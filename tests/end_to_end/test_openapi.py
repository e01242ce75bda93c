"""The OpenAPI document of the public functions, and a client that believes it: schemathesis makes calls from it.

`--schemathesis-examples N` has each function called more often than in the suite.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.config import SchemathesisConfig
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.server_thread import ServerThread

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
FUNCTIONS = {
    "m.py": """
from typing import Any, Literal, NotRequired, TypedDict

from evolute import ActionCtx, ConvexError, Id, Int64, MutationCtx, QueryCtx, action, internal_query, mutation, query

class Part(TypedDict):
    name: str
    size: NotRequired[float | None]

@query
def echo(ctx: QueryCtx, number: float, big: Int64, data: bytes, flag: bool = False) -> dict[str, float | Int64 | bytes]:
    return {"number": number, "big": big, "data": data}

@query
def choose(ctx: QueryCtx, which: Literal["a", "b", 3, True], parts: list[Part]) -> str | None:
    return parts[0]["name"] if parts else None

@query
def anything(ctx: QueryCtx, value: Any = None, **rest: Any) -> Any:
    return [value, rest]

@query
def look(ctx: QueryCtx, item: Id["items"]) -> None:
    ctx.db.get(item)

@mutation
def keep(ctx: MutationCtx, counts: dict[str, int]) -> int:
    ctx.db.insert("items", {"counts": counts})
    return len(counts)

@mutation
def refuse(ctx: MutationCtx, why: str) -> None:
    raise ConvexError({"why": why})

@action
async def wait(ctx: ActionCtx) -> bool:
    return True

@internal_query
def secret(ctx: QueryCtx) -> None:
    pass
""",
    "deep/inner.py": """
from evolute import QueryCtx, query

@query
def default(ctx: QueryCtx) -> None:
    print("looked")
""",
}


@pytest.fixture(scope="module")
def server() -> Iterator[ServerThread]:
    with ServerThread(FUNCTIONS) as server:
        yield server


@pytest.fixture(scope="module")
def document(server: ServerThread) -> Any:
    return server.request("GET", "/api/openapi.json").json


def test_public_functions_are_in_it_and_no_others(document: Any) -> None:
    assert document["openapi"] == "3.1.0"
    names = ("anything", "choose", "echo", "keep", "look", "refuse", "wait")
    assert sorted(document["paths"]) == ["/api/run/deep/inner/default", *(f"/api/run/m/{name}" for name in names)]
    assert "secret" not in str(document)
    operation = document["paths"]["/api/run/deep/inner/default"]["post"]
    assert (operation["operationId"], operation["tags"]) == ("deep/inner:default", ["query"])


def schemas(document: Any, name: str) -> tuple[Any, Any]:
    """Of the arguments and of the result of a function."""
    operation = document["paths"][f"/api/run/m/{name}"]["post"]
    asked = operation["requestBody"]["content"]["application/json"]["schema"]
    success, _ = operation["responses"]["200"]["content"]["application/json"]["schema"]["oneOf"]
    return asked["properties"]["args"], success["properties"]["value"]


def test_schemas_say_what_validators_accept(document: Any) -> None:
    arguments, result = schemas(document, "echo")
    assert arguments["required"] == ["big", "data", "number"]
    assert arguments["additionalProperties"] is False
    assert arguments["properties"]["flag"] == {"type": "boolean"}
    assert arguments["properties"]["number"]["anyOf"][0] == {"type": "number"}
    assert arguments["properties"]["big"]["required"] == ["$integer"]
    assert arguments["properties"]["data"]["required"] == ["$bytes"]
    assert result["additionalProperties"]["anyOf"][1] == {"type": "string", "pattern": "^-?[0-9]{1,19}$"}
    arguments, result = schemas(document, "choose")
    assert arguments["properties"]["which"] == {"anyOf": [{"const": value} for value in ("a", "b", 3, True)]}
    part = arguments["properties"]["parts"]["items"]
    assert (part["required"], list(part["properties"])) == (["name"], ["name", "size"])
    assert result == {"anyOf": [{"type": "string"}, {"type": "null"}]}
    assert schemas(document, "anything") == ({"type": "object"}, {})


def test_calls_that_the_document_allows_are_answered_as_it_says(
    server: ServerThread, document: Any, pytestconfig: pytest.Config
) -> None:
    """And calls that it does not allow, too. No answer is a fault of the server."""
    config = SchemathesisConfig.from_dict({"base-url": f"http://{server.address}"})
    schema = schemathesis.openapi.from_dict(document, config=config)
    operations = [found.ok() for found in schema.get_all_operations() if isinstance(found, Ok)]
    assert len(operations) == len(document["paths"])
    accepted: set[str] = set()
    modes = list(schemathesis.GenerationMode)
    examples = pytestconfig.getoption("--schemathesis-examples")

    for operation in operations:
        strategies = [operation.as_strategy(generation_mode=mode) for mode in modes]

        @given(st.one_of(strategies))
        @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        def call(case: schemathesis.Case[Any]) -> None:
            response = case.call_and_validate(checks=CHECKS)
            if response.status_code == 200 and response.json()["status"] == "success":
                accepted.add(case.path)

        call()
    assert accepted == set(document["paths"]) - {"/api/run/m/refuse", "/api/run/m/look"}
    assert server.request("POST", "/api/run/m/wait", {"args": {}}).json == {"status": "success", "value": True}
