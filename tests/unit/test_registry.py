from __future__ import annotations

import marshal
from typing import Any

import pytest

from evolute.errors import FunctionNotFound
from evolute.registry.contexts import MutationCtx, QueryCtx
from evolute.registry.decorators import internal_mutation, query
from evolute.registry.definition import Function, define
from evolute.registry.registry import Registry, RegistryReport, module_path
from evolute.values.schema import define_schema, define_table
from evolute.values.value import Document


class Channel(Document):
    name: str


SCHEMA = define_schema(channels=define_table(Channel).index("by_name", ["name"]))


@query
def find(ctx: QueryCtx, name: str) -> Channel | None: ...


@internal_mutation
def rename(ctx: MutationCtx, name: str = "x") -> None: ...


def registry(**functions: Function[..., Any]) -> Registry:
    paths = {f"{__name__.replace('.', '/')}:{name}": function for name, function in functions.items()}
    definitions = {path: define(function, path, SCHEMA) for path, function in paths.items()}
    return Registry("d1", "functions", definitions, SCHEMA)


HERE = __name__.replace(".", "/")


def test_a_reference_is_the_object_or_any_spelling_of_the_path() -> None:
    found = registry(find=find, default=rename)

    assert found.resolve(find).function is find
    assert found.resolve(f"{HERE}:find").function is find
    assert found.resolve(f"{HERE}.py:find").function is find
    assert found.resolve(HERE).function is rename
    assert found.resolve(rename).path == f"{HERE}:default"


def test_an_object_of_another_import_of_the_same_module_is_known_by_its_name() -> None:
    found = registry(find=find)
    again = query(find.python)

    assert found.resolve(again).function is find


def test_what_is_not_there_is_not_found() -> None:
    found = registry(find=find)

    for reference in ("nothing:find", f"{HERE}:gone", "a:b:c", "", rename):
        with pytest.raises(FunctionNotFound, match="Could not find public function for"):
            found.resolve(reference)


def test_the_report_crosses_the_channel_as_plain_data() -> None:
    wire = marshal.loads(marshal.dumps(registry(find=find, rename=rename).report()))
    report = RegistryReport.from_wire(wire)

    assert report.deployment == "d1"
    assert report.schema_wire["channels"]["indexes"] == {"by_name": ["name"]}
    found = report.find(f"{HERE}.js:find")
    assert found is not None
    assert (found.kind, found.visibility, found.file, found.line) == ("query", "public", __file__, find.line)
    assert found.arguments["value"]["name"]["fieldType"] == {"type": "string"}
    assert report.functions[f"{HERE}:rename"].visibility == "internal"
    assert report.find("nothing:at_all") is None


def test_modules_in_folders_have_slashes() -> None:
    assert module_path("functions.admin.users", "functions") == "admin/users"
