"""Reads a document of an issuer over HTTP: on a thread of its own, for a bounded time, of a bounded length.

Nothing but http and https is followed, neither at first nor when redirected. The address is the author's or the
issuer's, never a token's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeAlias
from urllib.parse import urlsplit

from evolute.clock import NS_PER_MS, monotonic_ns
from evolute.limits import Limits

Fetch: TypeAlias = Callable[[str], Awaitable[bytes]]
"""Reads the document at an address. Raises FetchFailed."""

_CHUNK_BYTES = 64 * 1024


class FetchFailed(Exception):
    """Why there is no document. The text begins with a verb: `answered 503`."""


class HttpFetcher:
    """`get` is a Fetch."""

    def __init__(self, limits: Limits) -> None:
        self._bytes_max = limits.issuer_document_bytes_max
        self._ms_max = limits.issuer_fetch_ms_max

    async def get(self, url: str) -> bytes:
        if urlsplit(url).scheme not in ("http", "https"):
            raise FetchFailed("is no http or https address")
        try:
            async with asyncio.timeout(self._ms_max / 1000):
                return await asyncio.to_thread(self._read, url)
        except TimeoutError:
            raise FetchFailed(f"did not answer within {self._ms_max} ms (issuer_fetch_ms_max)") from None

    def _read(self, url: str) -> bytes:
        """On a thread, which ends in time even if the document comes a byte at a time."""
        import urllib.error  # late: most servers never ask an issuer
        import urllib.request
        from http.client import HTTPException

        opener = urllib.request.OpenerDirector()
        for handler in (
            urllib.request.ProxyHandler(),
            urllib.request.HTTPHandler(),
            urllib.request.HTTPSHandler(),
            urllib.request.HTTPRedirectHandler(),
            urllib.request.HTTPErrorProcessor(),
            urllib.request.HTTPDefaultErrorHandler(),
        ):
            opener.add_handler(handler)
        request = urllib.request.Request(url, headers={"Accept": "application/json", "User-Agent": "evolute"})
        try:
            with opener.open(request, timeout=self._ms_max / 1000) as answer:
                return self._bounded(answer.read1)
        except urllib.error.HTTPError as error:
            error.close()
            raise FetchFailed(f"answered {error.code}") from None
        except TimeoutError:
            raise FetchFailed(f"did not answer within {self._ms_max} ms (issuer_fetch_ms_max)") from None
        except (OSError, HTTPException, ValueError) as error:
            raise FetchFailed(f"cannot be read: {error}") from None

    def _bounded(self, read: Callable[[int], bytes]) -> bytes:
        document, until_ns = bytearray(), monotonic_ns() + self._ms_max * NS_PER_MS
        while chunk := read(_CHUNK_BYTES):
            document += chunk
            if monotonic_ns() > until_ns:
                raise TimeoutError
            if len(document) > self._bytes_max:
                raise FetchFailed(f"is longer than {self._bytes_max} bytes (issuer_document_bytes_max)")
        return bytes(document)
