"""`tests/wire_vectors.json`: what is said on the wire, letter by letter, beside what it means.

Our server and our client must agree with it and so with each other: what one side writes is the text, what the other
reads is the message. It was written from the protocol's specification, also for whoever writes a client of their own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orjson
import pytest

from evolute.errors import MalformedMessage
from evolute.limits import Limits
from evolute.protocol import codec, messages

VECTORS = json.loads((Path(__file__).parents[1] / "wire_vectors.json").read_text())
LIMITS = Limits()


def message_of(tree: Any) -> Any:
    """`{"Ping": {}}` is `Ping()`; `{"json": …}` are the bytes of a value."""
    match tree:
        case {"json": value} if len(tree) == 1:
            return orjson.dumps(value)
        case dict():
            ((name, fields),) = tree.items()
            return getattr(messages, name)(**{field: message_of(value) for field, value in fields.items()})
        case list():
            return tuple(message_of(item) for item in tree)
        case _:
            return tree


def spelt(text: Any) -> str:
    """Tells `1` from `1.0`, as PyPI's client does."""
    return json.dumps(text, sort_keys=True)


def vectors(name: str) -> pytest.MarkDecorator:
    found = VECTORS[name]
    return pytest.mark.parametrize("vector", found, ids=[one.get("what", one["text"]) for one in found])


def test_every_message_is_there() -> None:
    kinds = {"client": messages.ClientMessage, "server": messages.ServerMessage}
    for name, union in kinds.items():
        shown = {next(iter(vector["message"])) for vector in VECTORS[name]}
        assert shown == {kind.__name__ for kind in union.__args__}


@vectors("client")
def test_what_clients_say(vector: Any) -> None:
    message = message_of(vector["message"])
    assert spelt(json.loads(codec.encode_client(message))) == spelt(vector["text"])
    for text in (vector["text"], *vector.get("also", ())):
        assert codec.decode_client(json.dumps(text), LIMITS) == message


@vectors("server")
def test_what_servers_say(vector: Any) -> None:
    message = message_of(vector["message"])
    assert spelt(json.loads(codec.encode_server(message))) == spelt(vector["text"])
    for text in (vector["text"], *vector.get("also", ())):
        assert codec.decode_server(json.dumps(text)) == message


@vectors("refused_by_servers")
def test_what_servers_refuse(vector: Any) -> None:
    with pytest.raises(MalformedMessage) as refused:
        codec.decode_client(vector["text"], LIMITS)
    assert vector["says"] in str(refused.value)


@vectors("refused_by_clients")
def test_what_clients_refuse(vector: Any) -> None:
    with pytest.raises(MalformedMessage) as refused:
        codec.decode_server(vector["text"])
    assert vector["says"] in str(refused.value)


@vectors("faults")
def test_what_is_the_fault_of_one_call(vector: Any) -> None:
    message = codec.decode_client(json.dumps(vector["text"]), LIMITS)
    assert isinstance(message, messages.Mutation | messages.Action)
    assert message.fault is not None
    assert vector["says"] in message.fault
