"""GET /api/openapi.json: the public functions as an OpenAPI 3.1 document, one path for each under /api/run.

What goes in is spelt as on the websocket (an Int64 is `{"$integer": …}`), what comes out as plain JSON (it is a string
of digits), for so /api/run takes and gives it. A schema says what a validator's JSON says: `int` is a number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, assert_never

from starlette.requests import Request
from starlette.responses import Response

from evolute.registry.registry import FunctionReport, RegistryReport
from evolute.server.http_error import json_response

Schema = dict[str, Any]
Direction = Literal["in", "out"]

_BASE64 = r"^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?$"
_BASE64_OF_8_BYTES = r"^[A-Za-z0-9+/]{10}[AEIMQUYcgkosw048]=$"
_SPECIAL_NUMBERS = {
    "in": ["AAAAAAAA+H8=", "AAAAAAAA8H8=", "AAAAAAAA8P8=", "AAAAAAAAAIA="],
    "out": ["NaN", "Infinity", "-Infinity"],
}
_FIELD_NAME = {"pattern": r"^(?:[ -#%-~][ -~]*)?$", "maxLength": 1024}
_LOG_LINES = {"type": "array", "items": {"type": "string"}}
_REFUSED: Mapping[str, Any] = {
    "type": "object",
    "properties": {"code": {"type": "string"}, "message": {"type": "string"}},
    "required": ["code", "message"],
}


class OpenApi:
    """`report` gives what is served now."""

    def __init__(self, version: str, report: Callable[[], RegistryReport]) -> None:
        self._version = version
        self._report = report

    async def page(self, request: Request) -> Response:
        return json_response(openapi_document(self._version, self._report()))


def openapi_document(version: str, report: RegistryReport) -> Schema:
    public = [function for function in report.functions.values() if function.visibility == "public"]
    return {
        "openapi": "3.1.0",
        "info": {"title": "evolute", "version": version},
        "paths": {
            "/api/run/" + function.path.replace(":", "/"): {"post": _operation(function)}
            for function in sorted(public, key=lambda function: function.path)
        },
        "components": {
            "schemas": {"Refused": _REFUSED},
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
                "adminKey": {"type": "apiKey", "in": "header", "name": "Authorization"},
            },
        },
        "security": [{}, {"token": []}, {"adminKey": []}],
    }


def _operation(function: FunctionReport) -> Schema:
    arguments = schema_of(function.arguments, "in") or {"type": "object"}
    body = {
        "type": "object",
        "properties": {"args": arguments, "format": {"const": "json"}},
        "required": ["args"],
    }
    refused = {"content": _json({"$ref": "#/components/schemas/Refused"})}
    return {
        "operationId": function.path,
        "tags": [function.kind],
        "requestBody": {"required": True, "content": _json(body)},
        "responses": {
            "200": {"description": "The function ran, or would not be called so.", "content": _json(_ran(function))},
            "400": {"description": "The request is malformed.", **refused},
            "401": {"description": "The credentials are wrong.", **refused},
            "503": {"description": "Nothing happened; try again.", **refused},
            "default": {"description": "Something else is wrong.", **refused},
        },
    }


def _ran(function: FunctionReport) -> Schema:
    success = {"status": {"const": "success"}, "value": schema_of(function.returns, "out"), "logLines": _LOG_LINES}
    failure = {
        "status": {"const": "error"},
        "errorMessage": {"type": "string"},
        "errorData": {"description": "Of a ConvexError."},
        "logLines": _LOG_LINES,
    }
    return {
        "oneOf": [
            _object(success, required=["status", "value"]),
            _object(failure, required=["status", "errorMessage"]),
        ]
    }


def schema_of(validator: Mapping[str, Any], direction: Direction) -> Schema:
    """The JSON Schema of what a validator, in its JSON form, accepts."""
    match validator:
        case {"type": "any"}:
            return {}
        case {"type": "null" | "boolean" | "string" as name}:
            return {"type": name}
        case {"type": "id", "tableName": table}:
            return {"type": "string", "description": f"The id of a document of {table}."}
        case {"type": "literal", "value": value}:
            return _literal(value, direction)
        case {"type": "number" | "bigint" | "bytes" as name}:
            return _spelt(name, direction)
        case {"type": "array", "value": item}:
            return {"type": "array", "items": schema_of(item, direction)}
        case {"type": "union", "value": members}:
            return {"anyOf": [schema_of(member, direction) for member in members]}
        case {"type": "record", "keys": keys, "values": values}:
            names = {"allOf": [_FIELD_NAME, schema_of(keys, direction)]}
            item = schema_of(values["fieldType"], direction)
            return {"type": "object", "propertyNames": names, "additionalProperties": item}
        case {"type": "object", "value": fields}:
            required = [name for name, field in fields.items() if not field["optional"]]
            properties = {name: schema_of(field["fieldType"], direction) for name, field in fields.items()}
            return _object(properties, required=required)
    raise AssertionError(f"there is no validator {validator}")


def _spelt(name: Literal["number", "bigint", "bytes"], direction: Direction) -> Schema:
    """Values for which JSON has nothing of its own."""
    match name:
        case "number":
            special: Schema = {"enum": _SPECIAL_NUMBERS[direction]}
            return {"anyOf": [{"type": "number"}, _wrapper("$float", special) if direction == "in" else special]}
        case "bigint":
            if direction == "out":
                return {"type": "string", "pattern": r"^-?[0-9]{1,19}$"}
            return _wrapper("$integer", {"type": "string", "pattern": _BASE64_OF_8_BYTES})
        case "bytes":
            base64 = {"type": "string", "pattern": _BASE64}
            return _wrapper("$bytes", base64) if direction == "in" else base64
    assert_never(name)


def _literal(value: object, direction: Direction) -> Schema:
    match value:
        case {"$integer": _} if direction == "out":
            return _spelt("bigint", direction)
        case _:
            return {"const": value}


def _wrapper(name: str, content: Schema) -> Schema:
    return _object({name: content}, required=[name])


def _object(properties: Schema, *, required: list[str]) -> Schema:
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _json(schema: Schema) -> Schema:
    return {"application/json": {"schema": schema}}
