"""Names of functions: every spelling that clients use comes to one."""

from __future__ import annotations

import pytest

from evolute.errors import FunctionNotFound
from evolute.values.function_path import canonical_path, missing_text


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("messages:list", "messages:list"),
        ("messages.js:list", "messages:list"),
        ("messages.py:list", "messages:list"),
        ("messages", "messages:default"),
        ("messages.js", "messages:default"),
        ("messages:default", "messages:default"),
        ("a/b_2:c", "a/b_2:c"),
        ("a/b.js:c", "a/b:c"),
        ("_system/cli/tables:list", "_system/cli/tables:list"),
    ],
)
def test_spellings(text: str, path: str) -> None:
    assert canonical_path(text) == path
    assert canonical_path(path) == path


@pytest.mark.parametrize(
    "text", ["", ":", "a:", ":b", "a:b:c", "/a:b", "a//b:c", "a.b:c", "a b:c", "a:b\n", "../a:b", "a.js.js:b"]
)
def test_what_names_no_function_is_told_like_a_missing_one(text: str) -> None:
    with pytest.raises(FunctionNotFound) as error:
        canonical_path(text)
    assert str(error.value) == f"Could not find public function for '{text}'."


def test_a_long_name_is_cut_in_the_message() -> None:
    with pytest.raises(FunctionNotFound):
        canonical_path("a" * 100_000)
    assert len(missing_text("a" * 100_000)) < 1100
