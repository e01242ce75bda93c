"""What a worker loads: one reading of the functions folder (`registry.loader.Deployment`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Sources(Protocol):
    """Source files by their path within the folder, and the hash that names them all."""

    @property
    def hash(self) -> str: ...
    @property
    def package(self) -> str: ...
    @property
    def root(self) -> str: ...
    @property
    def sources(self) -> Mapping[str, bytes]: ...
