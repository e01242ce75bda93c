"""A document's bytes: what a function gives, made into what is stored, and back.

    fields given ──► + _id, _creationTime ──► checked ──► canonical JSON ──► the store

The system fields are inside the stored bytes, so a document that is read and returned as it is need not be put
together. A field of a user's document may not begin with an underscore; the runtime's own tables have such fields,
which only the runtime sees, and their rows may be deeper and larger than a user's document, because they hold arguments
and results.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, cast

from evolute.errors import InvalidId, InvalidValue, SystemTableError
from evolute.limits import MIB, Limits
from evolute.values.document_id import decode_id
from evolute.values.value import SYSTEM_FIELDS, Value, size_of, type_name
from evolute.values.wire_codec import decode_canonical, encode

FIRST_USER_TABLE_NUMBER: Final = 10_001

# A row of the runtime puts a value that may be `value_depth_max` deep into a list in a field.
SYSTEM_DEPTH_EXTRA: Final = 2

# No value is larger, by the arithmetic of the limits, than this many times its canonical JSON: a digit counts nine.
SIZE_PER_JSON_BYTE_MAX: Final = 9


def is_user_table(number: int) -> bool:
    return number >= FIRST_USER_TABLE_NUMBER


def encode_document(document: Mapping[str, object], limits: Limits, *, user_table: bool) -> bytes:
    """The bytes to store. Raises InvalidValue for what is not a value, or larger or deeper than a document may be."""
    if user_table:
        data = encode(document, limits, depth_max=limits.document_depth_max, depth_setting="document_depth_max")
    else:
        data = encode(document, limits, depth_max=limits.value_depth_max + SYSTEM_DEPTH_EXTRA)
    if user_table and len(data) * SIZE_PER_JSON_BYTE_MAX > limits.document_bytes_max:
        size, maximum = size_of(document), limits.document_bytes_max
        if size > maximum:
            text = f"{maximum // MIB} MiB" if maximum % MIB == 0 else f"{maximum} bytes"
            raise InvalidValue(
                f"Value is too large ({size} > maximum size {text}). The setting is `document_bytes_max`."
            )
    return data


def decode_document(data: bytes) -> dict[str, Value]:
    """The document of stored bytes, new for each call. A timestamp that is not known yet reads as COMMIT_TS."""
    return cast("dict[str, Value]", decode_canonical(data))


def with_system_fields(
    fields: Mapping[str, object], document_id: str, creation_time: float, *, user_table: bool
) -> dict[str, object]:
    """A new document of these fields. System fields given must be the document's own (semantics D3).

    Raises InvalidId and SystemTableError naming the field.
    """
    given_id = fields.get("_id", document_id)
    if given_id != document_id:
        raise InvalidId(f"Provided document ID \"{document_id}\" doesn't match '_id' field {_shown(given_id)}")
    given_time = fields.get("_creationTime", creation_time)
    if given_time != creation_time or isinstance(given_time, bool):
        raise SystemTableError(
            f"Provided creation time {creation_time} doesn't match '_creationTime' field {_shown(given_time)}; "
            f"leave the field out"
        )
    if user_table:
        for name in fields:
            if str(name)[:1] == "_" and name not in SYSTEM_FIELDS:  # a name that is no str is refused below
                raise SystemTableError(
                    f"Field '{name}' starts with an underscore, which is only allowed for system fields like '_id'"
                )
    return {**fields, "_id": document_id, "_creationTime": creation_time}


def without_system_fields(document: Mapping[str, object]) -> dict[str, object]:
    """What a schema is about."""
    return {name: value for name, value in document.items() if name not in SYSTEM_FIELDS}


def checked_fields(fields: object, method: str) -> Mapping[str, object]:
    """Raises InvalidValue if `fields` is not a mapping."""
    if type(fields) is dict or isinstance(fields, Mapping):
        return fields
    raise InvalidValue(f"Invalid argument `value` for `db.{method}`: expected a dict, but got {type_name(fields)}")


def decoded_id(document_id: object, method: str) -> tuple[int, bytes]:
    """The table number and the internal id of an argument that should be an id. Raises InvalidId."""
    if not isinstance(document_id, str):
        raise InvalidId(
            f"Invalid argument `id` for `db.{method}`, expected string but got "
            f"'{type_name(document_id)}': {document_id!r}"
        )
    try:
        return decode_id(document_id)
    except InvalidId as error:
        raise InvalidId(f"Invalid argument `id` for `db.{method}`: {error}") from None


def _shown(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)
