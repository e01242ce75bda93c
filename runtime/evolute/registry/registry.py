"""Everything a deployment offers: the functions themselves in a worker, what it reports of them in the server.

The worker's `Registry` holds Python objects and never leaves it; `report()` is plain data that crosses the channel and
becomes the server's `RegistryReport`. The server therefore knows every function and table without importing user code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from evolute.errors import FunctionNotFound
from evolute.registry import auth_providers
from evolute.registry.auth_providers import AuthProvider
from evolute.registry.crons import CronDefinition
from evolute.registry.definition import Function, FunctionDefinition, Kind, Visibility
from evolute.registry.job_options import Pool
from evolute.values.function_path import canonical_path, missing_text
from evolute.values.schema import Schema

# What crosses the channel: strings, numbers, lists and dicts only.
ReportWire = dict[str, Any]


class Registry:
    """The loaded functions of one deployment by canonical path, its schema, crons, pools and auth providers.

    Never changes once it is loaded."""

    def __init__(
        self,
        deployment: str,
        package: str,
        functions: Mapping[str, FunctionDefinition],
        schema: Schema,
        crons: Sequence[CronDefinition] = (),
        pools: Mapping[str, Pool] | None = None,
    ) -> None:
        self.deployment = deployment
        self.package = package
        self.functions = functions
        self.schema = schema
        self.crons = crons
        self.pools: Mapping[str, Pool] = pools or {}
        self.auth_providers: Sequence[AuthProvider] = ()
        self._by_function: dict[Function[..., Any], FunctionDefinition] = {}
        for definition in functions.values():
            self._by_function.setdefault(definition.function, definition)

    def resolve(self, reference: Function[..., Any] | str) -> FunctionDefinition:
        """The function that an object or a path names, public or not. Raises FunctionNotFound.

        An object that was imported a second time (a test's own import of the module) is known by its module and name.
        """
        if isinstance(reference, str):
            path = canonical_path(reference)
        elif not isinstance(reference, Function):
            raise FunctionNotFound(
                f"{reference!r} is not a function reference: give a decorated function, or 'module:function'"
            )
        elif reference in self._by_function:
            return self._by_function[reference]
        else:
            path = module_path(reference.module, self.package) + ":" + reference.name
        definition = self.functions.get(path)
        if definition is None:
            raise FunctionNotFound(missing_text(path))
        return definition

    def report(self) -> ReportWire:
        """Plain data for `RegistryReport.from_wire`."""
        functions = [
            {
                "path": definition.path,
                "kind": definition.kind,
                "visibility": definition.visibility,
                "blocking": definition.blocking,
                "file": definition.function.file,
                "line": definition.function.line,
                "arguments": definition.arguments_json(),
                "returns": definition.returns.to_json(),
            }
            for definition in self.functions.values()
        ]
        return {
            "deployment": self.deployment,
            "functions": functions,
            "schema": self.schema.to_wire(),
            "crons": [asdict(cron) for cron in self.crons],
            "pools": {name: asdict(pool) for name, pool in self.pools.items()},
            "auth_providers": [auth_providers.to_wire(provider) for provider in self.auth_providers],
        }


@dataclass(frozen=True)
class FunctionReport:
    """One function as the server knows it; validators in their JSON form (E1). `blocking` is an action's that is a
    plain `def`."""

    path: str
    kind: Kind
    visibility: Visibility
    file: str
    line: int
    arguments: Mapping[str, Any]
    returns: Mapping[str, Any]
    blocking: bool = False


@dataclass(frozen=True)
class RegistryReport:
    """A deployment as the server knows it: its functions by canonical path, the schema in wire form, its crons,
    pools and auth providers."""

    deployment: str
    functions: Mapping[str, FunctionReport]
    schema_wire: Mapping[str, Any]
    crons: Sequence[CronDefinition] = ()
    pools: Mapping[str, Pool] = field(default_factory=dict)
    auth_providers: tuple[AuthProvider, ...] = ()

    @staticmethod
    def from_wire(wire: ReportWire) -> RegistryReport:
        functions = {function["path"]: FunctionReport(**function) for function in wire["functions"]}
        crons = [CronDefinition(**cron) for cron in wire["crons"]]
        pools = {name: Pool(**pool) for name, pool in wire["pools"].items()}
        providers = tuple(auth_providers.from_wire(provider) for provider in wire["auth_providers"])
        return RegistryReport(wire["deployment"], functions, wire["schema"], crons, pools, providers)

    def find(self, path: str) -> FunctionReport | None:
        """By any spelling of the path. Raises FunctionNotFound for one that cannot be a path."""
        return self.functions.get(canonical_path(path))

    def is_blocking(self, path: str) -> bool:
        """Whether it is an action with a process of its own. A worker that has loaded other code may not agree."""
        try:
            function = self.find(path)
        except FunctionNotFound:
            return False
        return function is not None and function.blocking


def module_path(module: str, package: str) -> str:
    """`functions.admin.users` is `admin/users` in paths."""
    return module.removeprefix(package + ".").replace(".", "/")
