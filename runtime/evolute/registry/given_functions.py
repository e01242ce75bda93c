"""A registry of function objects as they are given, without a folder: for the backend of a test."""

from __future__ import annotations

import itertools
from typing import Any

from evolute.errors import DefinitionError
from evolute.registry.cron_loader import read_registrations
from evolute.registry.crons import Crons
from evolute.registry.definition import Function, FunctionDefinition, define
from evolute.registry.registry import Registry
from evolute.values.schema import Schema, define_schema


def registry_of(functions: list[Function[..., Any]], schema: Schema | None, crons: Crons | None) -> Registry:
    """Raises ValueError for what does not go together, DefinitionError for what is wrong with it."""
    registry = _registry_of(functions, schema or define_schema())
    faults: list[str] = []
    registry.crons = read_registrations(crons or Crons(), registry, {}, faults)
    if faults:
        raise DefinitionError("\n".join(faults))
    return registry


def _registry_of(functions: list[Function[..., Any]], schema: Schema) -> Registry:
    """Objects are called by the last part of their module's name: `tests.test_chat` gives `test_chat:send`."""
    definitions: dict[str, FunctionDefinition] = {}
    for function in functions:
        path = f"{function.module.rpartition('.')[2]}:{function.name}"
        if path in definitions:
            raise ValueError(f"two functions are called {path}")
        definitions[path] = define(function, path, schema)
    parts = zip(*(function.module.split(".") for function in functions), strict=False)
    package = ".".join(names[0] for names in itertools.takewhile(lambda names: len(set(names)) == 1, parts))
    return Registry("local", package, definitions, schema)
