"""A hash of what a query reads, in which order, and of what it leaves out: two cursors with one are of one query.

Table, index with its fields, range, direction and filters count. A filter that is an expression counts as a whole; one
in Python by its code and not by the values that it has closed over: these may well be others at the next page, and the
rows before the cursor stay the same.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from hashlib import blake2b
from types import CodeType
from typing import Final

from evolute.database.catalog import IndexEntry
from evolute.database.cursor import FINGERPRINT_BYTES
from evolute.storage.keyspace import index_prefix
from evolute.values.q import Expression
from evolute.values.wire_codec import encode

_CODES_MAX: Final = 1024


def query_fingerprint(
    table: str, index: IndexEntry, start: bytes, end: bytes, *, reverse: bool, filters: Iterable[Callable[..., object]]
) -> bytes:
    """`start` and `end` are keys of the index. An index that is made anew with the same fields is the same one."""
    prefix_length = len(index_prefix(index.id))
    content = encode(
        [
            table,
            index.name,
            list(index.key_fields),
            start[prefix_length:],
            end[prefix_length:],
            reverse,
            [_filter_hash(each) for each in filters],
        ]
    )
    return blake2b(content, digest_size=FINGERPRINT_BYTES, person=b"query").digest()


def page_fingerprint(query: bytes, cursor: str | None) -> bytes:
    """Of the page of a query that begins at `cursor`."""
    return blake2b((cursor or "").encode(), digest_size=FINGERPRINT_BYTES, key=query, person=b"page").digest()


def _filter_hash(given: Callable[..., object]) -> bytes:
    python = inspect.unwrap(given)
    if isinstance(python, functools.partial):
        return _filter_hash(python.func)
    expression = getattr(python, "__self__", None)
    if isinstance(expression, Expression):
        return repr(expression).encode("utf-8", "surrogatepass")
    code = getattr(python, "__code__", None)  # a method has that of its function
    if isinstance(code, CodeType):
        return _code_hash(code)
    kind = type(python)
    return f"{kind.__module__}.{kind.__qualname__}".encode()


@functools.lru_cache(maxsize=_CODES_MAX)
def _code_hash(code: CodeType) -> bytes:
    return blake2b(_code(code), digest_size=FINGERPRINT_BYTES, person=b"filter").digest()


def _code(code: CodeType) -> bytes:
    """What the code does, whatever its file and its lines are."""
    names = (code.co_names, code.co_freevars)
    return b"".join((code.co_code, repr(names).encode(), *map(_constant, code.co_consts)))


def _constant(constant: object) -> bytes:
    if isinstance(constant, CodeType):
        return _code_hash(constant)
    if isinstance(constant, frozenset):  # whose order differs from process to process
        return b"".join(sorted(map(_constant, constant)))
    if isinstance(constant, tuple):
        return b"".join(map(_constant, constant))
    return repr(constant).encode("utf-8", "surrogatepass") + b"\0"
