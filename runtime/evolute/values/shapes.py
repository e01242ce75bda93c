"""Shapes: what a validator accepts as plain data, and whether one accepts everything that another does.

    v.object({"n": v.number()})  ──►  {"type": "object", "fields": {"n": {"shape": {"type": "number", …}, …}}, …}

The server, which imports no user code, compares with them the schema that is served and one that is to follow: rows
that the old one has checked need not be looked at if the new one accepts whatever the old one did. `accepts_all` says
so only if it is certain. What a class checks beyond the types of its fields (pydantic, msgspec) is never certain.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from evolute.values.containers import ArrayOf, ObjectOf, RecordOf, UnionOf
from evolute.values.row_types import row_type
from evolute.values.validators import AnyValue, IdOf, Literal, Number, Validator
from evolute.values.value import Int64

Shape: TypeAlias = Mapping[str, Any]

ANY: Shape = {"type": "any"}


def shape_of(validator: Validator) -> Shape:
    """Strings, numbers, lists and dicts only."""
    match validator:
        case AnyValue():
            return ANY
        case Number(whole=whole):
            return {"type": "number", "whole": whole}
        case IdOf(table=table):
            return {"type": "id", "table": table}
        case Literal(value=value):
            return {"type": "literal", "of": _kind(value), "value": int(value) if isinstance(value, Int64) else value}
        case ArrayOf(item=item):
            return {"type": "array", "item": shape_of(item)}
        case RecordOf(key=key, item=item):
            return {"type": "record", "key": shape_of(key), "item": shape_of(item)}
        case UnionOf(members=members):
            return {"type": "union", "members": [shape_of(member) for member in members]}
        case ObjectOf(fields=fields, row=row):
            known = None if row is None else row_type(row)
            shapes = {
                name: {"shape": shape_of(field.validator), "optional": field.optional} for name, field in fields.items()
            }
            return {"type": "object", "fields": shapes, "checks": known is not None and known.checks_itself}
    return {"type": str(validator.to_json()["type"])}


def _kind(value: object) -> str:
    for kind, name in ((bool, "boolean"), (Int64, "bigint"), (str, "string")):
        if isinstance(value, kind):
            return name
    return "number"


def accepts_all(new: Shape, old: Shape) -> bool:
    """Whether it is certain that every value of the shape `old` is one of `new`."""
    if new["type"] == "any":
        return True
    if old["type"] == "union":
        return all(accepts_all(new, member) for member in old["members"])
    if new["type"] == "union":
        return any(accepts_all(member, old) for member in new["members"])
    match new["type"], old["type"]:
        case "literal", "literal":
            return (new["of"], new["value"]) == (old["of"], old["value"])
        case "number", "number":
            return old["whole"] or not new["whole"]
        case "number", "literal":
            return old["of"] == "number" and (not new["whole"] or float(old["value"]).is_integer())
        case kind, "literal":
            return bool(kind == old["of"])
        case "string", "id":
            return True
        case "id", "id":
            return new["table"] in (None, old["table"])
        case "array", "array":
            return accepts_all(new["item"], old["item"])
        case "record", "record":
            return accepts_all(new["key"], old["key"]) and accepts_all(new["item"], old["item"])
        case "object", "object":
            return not new["checks"] and _accepts_fields(new["fields"], old["fields"])
    return bool(new["type"] == old["type"] and new["type"] in ("null", "boolean", "bigint", "string", "bytes"))


def _accepts_fields(new: Mapping[str, Any], old: Mapping[str, Any]) -> bool:
    for name, field in new.items():
        if not field["optional"] and (name not in old or old[name]["optional"]):
            return False
    return all(name in new and accepts_all(new[name]["shape"], field["shape"]) for name, field in old.items())
