"""Between which accounts a transfer goes: pairs, drawn before the measurement, of two different accounts each."""

from __future__ import annotations

import itertools
import random
from bisect import bisect_left
from collections.abc import Callable, Iterator

PAIRS = 50_000
SEED = 20

Pairs = list[tuple[int, int]]


def uniform(accounts: int) -> Pairs:
    chance = random.Random(SEED)
    return _pairs(lambda: chance.randrange(accounts))


def zipf(accounts: int, alpha: float) -> Pairs:
    """Account n is as likely as 1 / (n + 1) ** alpha; all are, at alpha 0."""
    if alpha == 0:
        return uniform(accounts)
    sums = list(itertools.accumulate((number + 1) ** -alpha for number in range(accounts)))
    chance = random.Random(SEED)
    return _pairs(lambda: bisect_left(sums, chance.random() * sums[-1]))


def _pairs(pick: Callable[[], int]) -> Pairs:
    return list(itertools.islice(_unequal(pick), PAIRS))


def _unequal(pick: Callable[[], int]) -> Iterator[tuple[int, int]]:
    while True:
        source, target = pick(), pick()
        if source != target:
            yield source, target
