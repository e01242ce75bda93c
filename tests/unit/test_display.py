"""Values as messages show them."""

from __future__ import annotations

import math

import pytest

from evolute.values.display import display
from evolute.values.value import UNDEFINED, Int64


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (3, "3.0"),
        (-0.0, "-0.0"),
        (math.nan, "nan"),
        (Int64(3), "3"),
        ('say "hi"\n', '"say \\"hi\\"\\n"'),
        (b"xy", 'b"eHk="'),
        ([], "[]"),
        ([1, ["a"]], '[1.0, ["a"]]'),
        ({"b": None, "a": {"c": 1}}, "{a: {c: 1.0}, b: null}"),
        (UNDEFINED, "undefined"),
        ((1, 2), "(1, 2)"),
        (10**400, "inf"),
        ("\ud800", '"?"'),
    ],
)
def test_display(value: object, text: str) -> None:
    assert display(value) == text


@pytest.mark.parametrize("value", ["x" * 10**7, [1] * 10**6, {"x" * 10**5: 1}, [["a" * 5000] * 9] * 9])
def test_what_is_long_is_cut(value: object) -> None:
    text = display(value)
    assert 8000 < len(text) < 8300
    assert text.endswith("…")
