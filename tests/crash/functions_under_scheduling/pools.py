"""A pool with little room, and one that starts few jobs a second."""

from __future__ import annotations

from evolute import Pool

pools = {"narrow": Pool(concurrency=2), "slow": Pool(concurrency=8, per_second=40)}
