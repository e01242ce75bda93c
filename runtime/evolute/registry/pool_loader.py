"""Reads what `pools.py` declares, and checks that the functions name no other pools."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any, Final

from evolute.registry.definition import Function
from evolute.registry.job_options import DEFAULT_POOL, Pool
from evolute.values.function_path import is_name

POOLS_FILE: Final = "pools.py"


def read(
    modules: Mapping[str, ModuleType],
    sources: Iterable[str],
    functions: Iterable[Function[..., Any]],
    faults: list[str],
) -> dict[str, Pool]:
    """The pools of a deployment whose modules, by path, have been imported. What is wrong is added to `faults`."""
    if POOLS_FILE in sources and POOLS_FILE not in modules:
        return {}  # it is broken, which has been said; whether a function's pool is there cannot be known
    pools = _declared(modules[POOLS_FILE], faults) if POOLS_FILE in modules else {}
    for function in functions:
        if function.pool is not None and function.pool not in {*pools, DEFAULT_POOL}:
            faults.append(
                f"{function.file}:{function.line} {function.name} is of the pool {function.pool!r}, which {POOLS_FILE} "
                f'does not declare: write `pools = {{"{function.pool}": Pool(concurrency=4)}}` there'
            )
    return pools


def _declared(module: ModuleType, faults: list[str]) -> dict[str, Pool]:
    declared = getattr(module, "pools", None)
    if not isinstance(declared, dict):
        faults.append(f"{POOLS_FILE}: it has no pools; write `pools = {{name: Pool(concurrency=…)}}`")
        return {}
    pools: dict[str, Pool] = {}
    for name, pool in declared.items():
        if not isinstance(name, str) or not is_name(name):
            faults.append(f"{POOLS_FILE}: the name of a pool is ASCII letters, digits and `_`, not {name!r}")
        elif not isinstance(pool, Pool):
            faults.append(f"{POOLS_FILE}: the pool {name!r} is a Pool(…), not {pool!r}")
            pools[name] = Pool(concurrency=1)  # so that the functions of it are not at fault too
        else:
            pools[name] = pool
    return pools
