"""Does what the state machine wants about tokens: asks the application for one, and in time for the next.

One keeper belongs to one token fetcher; with the fetcher it is cancelled, and so what an old fetcher still gives goes
nowhere.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from evolute_client.authentication import FetchToken, RefreshAfter
from evolute_client.connection import Sleep
from evolute_client.opened import LOGGER
from evolute_client.state_machine import StateMachine, Update

TokenFetcher: TypeAlias = Callable[[bool], str | None] | Callable[[bool], Awaitable[str | None]]
"""`fetch_token(force_refresh)`: a token (a JWT), or None if nobody is logged in. With `force_refresh` the one that it
gave before is of no more use, or soon will be."""


class TokenKeeper:
    def __init__(
        self, fetch_token: TokenFetcher, state: StateMachine, sleep: Sleep, deliver: Callable[[Update], None]
    ) -> None:
        self._fetch_token = fetch_token
        self._state = state
        self._sleep = sleep
        self._deliver = deliver
        self._changed = asyncio.Event()
        self._doing: FetchToken | RefreshAfter | None = None

    def wake(self) -> None:
        """The state machine may want something else."""
        if self._state.wanted is not self._doing:
            self._changed.set()

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            self._changed.clear()
            self._doing = self._state.wanted
            match self._doing:
                case FetchToken(force):
                    self._deliver(await self._fetched(force))
                case RefreshAfter(delay_s):
                    if await self._has_slept(delay_s) and self._state.wanted is self._doing:
                        self._state.refresh_due()
                case None:
                    await self._changed.wait()

    async def _fetched(self, force: bool) -> Update:
        try:
            given = self._fetch_token(force)
            token = await given if inspect.isawaitable(given) else given
            if token is not None and not isinstance(token, str):
                raise TypeError(f"a token fetcher gives a str or None, but this one gave a {type(token).__name__}")
        except Exception as error:  # the application's own: it is told by `auth_state` and in the log
            LOGGER.exception("the token fetcher failed")
            return self._state.fetch_failed(f"{type(error).__name__}: {error}")
        return self._state.token_fetched(token)

    async def _has_slept(self, delay_s: float) -> bool:
        """Whether all that time has gone by, and nothing else was wanted before."""
        sleeping, waking = asyncio.ensure_future(self._sleep(delay_s)), asyncio.ensure_future(self._changed.wait())
        try:
            await asyncio.wait({sleeping, waking}, return_when=asyncio.FIRST_COMPLETED)
            return sleeping.done()
        finally:
            sleeping.cancel()
            waking.cancel()
            await asyncio.gather(sleeping, waking, return_exceptions=True)
