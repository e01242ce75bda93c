"""What the executor runs functions on: the pool of worker processes, or `evolute.testing`'s own process."""

from __future__ import annotations

from collections.abc import Awaitable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from evolute.execution.pending_request import Callbacks
from evolute.execution.request import Call, FunctionOutcome, RequestKind
from evolute.registry.registry import RegistryReport


class Runners(Protocol):
    """`run` and `run_action` raise what `Pool` says; `report` is of the active deployment."""

    @property
    def report(self) -> RegistryReport: ...

    def run(
        self, kind: RequestKind, calls: tuple[Call, ...], *, urgent: bool = False, fresh: bool = False, deaths: int = 0
    ) -> Awaitable[FunctionOutcome]:
        """The run is on its way when this returns, and need not be awaited."""

    async def run_action(self, call: Call, callbacks: Callbacks, *, nested: bool = False) -> FunctionOutcome: ...

    def action_room(self, path: str) -> AbstractAsyncContextManager[int | None]: ...
