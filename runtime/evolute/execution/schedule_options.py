"""`ctx.scheduler.options(…)`: how a job is run, checked where it is asked for and written down as plain data.

what options() was given  ►  what the function's decorator says  ►  JobOptions, which go into the job's row
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evolute.errors import FunctionNotFound, InvalidSchedule
from evolute.registry.definition import Function, FunctionDefinition
from evolute.registry.job_options import DEFAULT_POOL, KEY_CHARACTERS_MAX, Retry
from evolute.registry.registry import Registry
from evolute.system import jobs
from evolute.system.jobs import JobOptions
from evolute.values.containers import ObjectOf


@dataclass(frozen=True, slots=True)
class Options:
    """What `options` was given. Equal defaults mean: as the function says."""

    key: str | None = None
    keep: bool = False
    pool: str | None = None
    retry: Retry | None = None
    on_complete: str | None = None

    def of(self, definition: FunctionDefinition) -> JobOptions:
        """The options of one job of `definition`. Raises InvalidSchedule."""
        function = definition.function
        if self is NO_OPTIONS and function.retry is None and function.pool is None:
            return jobs.NO_OPTIONS
        retry = self.retry or function.retry
        if self.retry is not None and definition.kind != "action":
            raise InvalidSchedule(
                f"`retry` is for actions, and {definition.path} is a mutation: "
                "a mutation happens exactly once, and an error it raises would be raised again"
            )
        return JobOptions(
            key=self.key,
            keep=self.keep,
            pool=self.pool or function.pool or DEFAULT_POOL,
            retry=None if retry is None else retry.to_row(),
            on_complete=self.on_complete,
        )


NO_OPTIONS = Options()


def options_of(registry: Registry, given: Mapping[str, object]) -> Options:
    """The keyword arguments of `options`, checked. Raises InvalidSchedule, TypeError for a name that it has not."""
    named = _named(**given)
    key, policy, pool, retry = named["key"], named["key_policy"], named["pool"], named["retry"]
    known = sorted({*registry.pools, DEFAULT_POOL})
    if key is not None and not (isinstance(key, str) and 0 < len(key) <= KEY_CHARACTERS_MAX):
        raise InvalidSchedule(f"`key` is a string of 1 to {KEY_CHARACTERS_MAX} characters, not {key!r:.300}")
    if policy not in ("replace", "keep"):
        raise InvalidSchedule(f'`key_policy` is "replace" or "keep", not {policy!r}')
    if pool is not None and (not isinstance(pool, str) or pool not in known):
        raise InvalidSchedule(f"There is no pool {pool!r}; functions/pools.py has {', '.join(known)}")
    if retry is not None and not isinstance(retry, Retry):
        raise InvalidSchedule(f"`retry` is a Retry(…), not {retry!r}")
    return Options(key, policy == "keep", pool, retry, _completion(registry, named["on_complete"]))


def _named(
    *,
    key: object = None,
    key_policy: object = "replace",
    pool: object = None,
    retry: object = None,
    on_complete: object = None,
) -> dict[str, Any]:
    return {"key": key, "key_policy": key_policy, "pool": pool, "retry": retry, "on_complete": on_complete}


def _completion(registry: Registry, reference: object) -> str | None:
    if reference is None:
        return None
    if not isinstance(reference, Function | str):
        raise InvalidSchedule(f"`on_complete` is a mutation, or 'module:function', not {reference!r}")
    try:
        definition = registry.resolve(reference)
    except FunctionNotFound:
        raise InvalidSchedule(f"`on_complete` names {reference!r}, which this deployment does not have") from None
    if definition.kind != "mutation":
        raise InvalidSchedule(f"`on_complete` is a mutation, but {definition.path} is defined as a {definition.kind}")
    completion_parameter(definition)
    return definition.path


def completion_parameter(definition: FunctionDefinition) -> str:
    """The argument that receives the JobOutcome. Raises InvalidSchedule if there is not exactly one to fill."""
    arguments = definition.arguments
    if not isinstance(arguments, ObjectOf):
        raise InvalidSchedule(
            f"`on_complete` runs {definition.path}(ctx, job: JobOutcome), but its args are {arguments.describe()}"
        )
    fields = arguments.fields
    required = [name for name, field in fields.items() if not field.optional]
    if len(required) == 1:
        return required[0]
    if not required and "job" in fields:
        return "job"
    raise InvalidSchedule(
        f"`on_complete` runs {definition.path}(ctx, job: JobOutcome), but it takes {required or 'no arguments'}"
    )
