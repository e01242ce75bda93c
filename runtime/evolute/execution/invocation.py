"""One function, called: found, checked, run with its own context, its result checked. Nested calls come here too.

    visibility, existence ─► kind ─► argument size ─► argument validation ─► the function ─► result validation

A nested mutation is a savepoint of the same transaction: if it raises, its writes are undone, and the caller may catch
the exception and go on. Reads stay in the read set, because control flow depended on them (semantics C7, J2).
"""

from __future__ import annotations

from collections.abc import Mapping

from evolute.database.query import Query
from evolute.errors import FunctionFault, FunctionNotFound, InvalidQuery, InvalidValue, LimitReached, WrongKind
from evolute.execution.arguments import check_size, encode_arguments, encode_settled
from evolute.execution.context import Attempt, MutationContext, QueryContext, Reference
from evolute.execution.context_query import ContextQuery
from evolute.execution.request import Call, Kind
from evolute.execution.scope import Scope
from evolute.limits import Limits
from evolute.registry.definition import FunctionDefinition
from evolute.registry.registry import Registry
from evolute.values import wire_codec
from evolute.values.function_path import canonical_path, missing_text
from evolute.values.value import Value

QUERY_RETURNED = (
    "Return value is a Query. Results must be retrieved with `.collect()`, `.take(n)`, `.unique()`, or `.first()`."
)


def find(registry: Registry, call: Call) -> FunctionDefinition:
    """The function that the call may run. Raises FunctionNotFound, WrongKind."""
    path = canonical_path(call.path)
    definition = registry.functions.get(path)
    if definition is None or (call.public_only and definition.visibility != "public"):
        raise FunctionNotFound(missing_text(path))
    if call.kind is not None:
        check_kind(definition, call.kind)
    return definition


def check_kind(definition: FunctionDefinition, kind: Kind) -> None:
    """Raises WrongKind."""
    if definition.kind != kind:
        module, _, name = definition.path.rpartition(":")
        raise WrongKind(
            f"Trying to execute {module}.py:{name} as {kind.capitalize()}, "
            f"but it is defined as {definition.kind.capitalize()}."
        )


class Invocation:
    """Runs functions in one attempt, the outermost and those it calls."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt

    def outermost(self) -> bytes:
        """Runs the attempt's call. Returns the canonical JSON of its result, or raises what ended it."""
        attempt = self._attempt
        definition = find(attempt.registry, attempt.call)
        check_size(definition.path, attempt.call.arguments, attempt.limits)
        returned = self._run(definition, attempt.call.arguments, attempt.call.depth)
        return encode_result(definition, returned, attempt.limits)

    def nested(
        self,
        caller: QueryContext,
        kind: Kind,
        reference: Reference,
        positional: tuple[object, ...],
        named: Mapping[str, object],
    ) -> object:
        """What the function that `caller` runs gets back."""
        attempt = self._attempt
        definition = attempt.registry.resolve(reference)
        if caller.kind == "query" and definition.kind != "query":
            raise WrongKind(f"Cannot call a {definition.kind} function from a query function")
        check_kind(definition, kind)
        depth = caller.depth + 1
        check_depth(depth, attempt.limits)
        arguments = encode_arguments(definition, positional, named, attempt.transaction, attempt.limits)
        savepoint = attempt.transaction.savepoint()
        try:
            returned = self._run(definition, arguments, depth)
            # Through bytes, so that caller and callee share no list or dict.
            copy = wire_codec.decode_canonical(encode_result(definition, returned, attempt.limits))
        except BaseException:
            attempt.transaction.rollback(savepoint)
            raise
        return definition.returns.parse(copy, attempt.transaction)

    def _run(self, definition: FunctionDefinition, arguments: bytes, depth: int) -> Value:
        attempt = self._attempt
        decoded = wire_codec.decode_canonical(arguments)
        assert isinstance(decoded, dict), "arguments are the JSON of an object"
        named = definition.bind(decoded, attempt.transaction)
        scope = Scope(attempt.clock)
        context = (MutationContext if definition.kind == "mutation" else QueryContext)(attempt, self, scope, depth)
        try:
            returned = attempt.clock.user_code(definition.function.python, context, **named)
        except MemoryError as error:
            attempt.transaction.poison(error)
            raise
        finally:
            scope.close()
            if scope.broken_off_by is not None:
                attempt.transaction.poison(_half_done(scope.broken_off_by))
        if isinstance(returned, (ContextQuery, Query)):
            raise InvalidQuery(QUERY_RETURNED)
        return definition.result(returned, attempt.transaction)


def _half_done(error: BaseException) -> BaseException:
    if isinstance(error, MemoryError):
        return error
    return FunctionFault(
        "Uncaught RecursionError: the stack gave out inside `ctx`. What was being done there may be half done, so "
        "nothing is committed, although the function went on."
    )


def check_depth(depth: int, limits: Limits) -> None:
    """Raises LimitReached."""
    if depth > limits.call_depth_max:
        raise LimitReached(
            f"Function call depth limit exceeded (limit: {limits.call_depth_max}; the setting is call_depth_max). "
            "Do you have an infinite loop in your app?"
        )


def encode_result(definition: FunctionDefinition, value: Value, limits: Limits) -> bytes:
    """Raises InvalidValue for what is no value, LimitReached if it is too large."""
    try:
        data = encode_settled(value, limits)
    except InvalidValue as error:
        raise InvalidValue(f"Function {definition.path} returned what is not a value: {error}") from None
    if len(data) > limits.result_bytes_max:
        raise LimitReached(
            f"Function {definition.path} return value is too large (actual: {len(data)} bytes, "
            f"limit: {limits.result_bytes_max} bytes; the setting is result_bytes_max)"
        )
    return data
