"""The admin keys beside the one in the data folder: a row each, with the hash of its secret and never the secret.

A plain SHA-256 is enough. Slow, salted hashes are for what people think up, which can be guessed; a secret here is 32
random bytes, so that nobody finds it by trying, with or without the rows.
"""

from __future__ import annotations

from typing import NamedTuple

from evolute.database.transaction import Transaction
from evolute.errors import BadRequest
from evolute.system.tables import ADMIN_KEYS


class AdminKey(NamedTuple):
    """What is known of a key. `digest` is the SHA-256 of its secret."""

    name: str
    read_only: bool
    digest: bytes
    created_ms: float


def all_keys(transaction: Transaction) -> list[AdminKey]:
    """In the order in which they were made."""
    with transaction.uncounted():
        return [
            AdminKey(row["name"], row["readOnly"], bytes.fromhex(row["hash"]), row["_creationTime"])
            for row in transaction.query(ADMIN_KEYS)
        ]


def add(transaction: Transaction, name: str, digest: bytes, *, read_only: bool, keys_max: int) -> AdminKey:
    """Raises BadRequest for a name that is taken, and if there are too many."""
    keys = all_keys(transaction)
    if any(key.name == name for key in keys):
        raise BadRequest(f"There is an admin key {name!r} already. Revoke it first, or choose another name.")
    if len(keys) >= keys_max:
        raise BadRequest(f"There are {keys_max} admin keys already (admin_keys_max). Revoke one first.")
    with transaction.uncounted():
        transaction.insert(ADMIN_KEYS, {"name": name, "readOnly": read_only, "hash": digest.hex()})
    return next(key for key in all_keys(transaction) if key.name == name)


def remove(transaction: Transaction, name: str) -> None:
    """Raises BadRequest if there is no such key."""
    with transaction.uncounted():
        row = next((row for row in transaction.query(ADMIN_KEYS) if row["name"] == name), None)
    if row is None:
        raise BadRequest(f"There is no admin key {name!r}.")
    transaction.delete(row["_id"])
