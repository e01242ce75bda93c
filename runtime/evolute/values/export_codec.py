"""The `export_json` format of the HTTP API: lossless for whoever tells `3` from `3.0`, and easier on the eye.

Int64                      3
number                     3.0, also a whole one and -0.0
NaN, ±Infinity, bytes      {"$float": …}, {"$bytes": …}, as in the encoded form
"""

from __future__ import annotations

import orjson

from evolute.values.value import Int64
from evolute.values.wire_codec import decode_canonical


def exported(data: bytes) -> bytes:
    """Canonical bytes in this format."""
    return orjson.dumps(_exported(orjson.loads(data)))


def _exported(tree: object) -> object:
    match tree:
        case bool():
            return tree
        case int():
            return float(tree)
        case list():
            return [_exported(item) for item in tree]
        case dict():
            if "$integer" in tree or "$float" in tree:  # a wrapper: no field has such a name
                value = decode_canonical(orjson.dumps(tree))
                return int(value) if isinstance(value, Int64) else value if value == 0.0 else tree
            return {name: _exported(item) for name, item in tree.items()}
        case _:
            return tree
