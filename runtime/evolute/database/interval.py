"""A half-open interval of keys, the unit in which reads are remembered.

Keys are bytes in bytewise order. Nothing lies between `key` and `key + b"\\0"`, so a point is an interval too:

    point(b"k")    b"k" <= key < b"k\\0"    what a get has read, whether or not the key was there
    a scan         start <= key < end      what a scan has gone over, the gaps between its rows included
"""

from __future__ import annotations

from typing import NamedTuple


class Interval(NamedTuple):
    """Every key with `start <= key < end`; empty if `end <= start`."""

    start: bytes
    end: bytes


def point(key: bytes) -> Interval:
    """The interval that holds `key` and nothing else."""
    return Interval(key, key + b"\0")
