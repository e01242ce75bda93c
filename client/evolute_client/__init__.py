"""The Python client of evolute: calls functions, and is told when what a query returned has changed.

    async with Client("http://127.0.0.1:3210") as client:
        await client.mutation("messages:send", channel=channel, body="hi")
        async for messages in client.subscribe("messages:list_recent", channel=channel):
            ...

`SyncClient` is the same without asyncio, `HttpClient` is for single calls without a connection.
"""

from evolute.errors import ConvexError
from evolute.values.value import Int64
from evolute_client.async_client import Client
from evolute_client.authentication import AuthState
from evolute_client.errors import ClientClosed, ConnectionLost, FunctionError, RequestRefused
from evolute_client.http_client import HttpClient
from evolute_client.local_store import LocalStore, OptimisticUpdate, QueryEntry
from evolute_client.page_list import PageStatus
from evolute_client.paginated import PaginatedQuery
from evolute_client.subscription import Subscription
from evolute_client.sync_client import SyncClient
from evolute_client.sync_stream import SyncPaginatedQuery, SyncStream
from evolute_client.token_keeper import TokenFetcher
from evolute_client.watch import Watch

__all__ = [
    "AuthState",
    "Client",
    "ClientClosed",
    "ConnectionLost",
    "ConvexError",
    "FunctionError",
    "HttpClient",
    "Int64",
    "LocalStore",
    "OptimisticUpdate",
    "PageStatus",
    "PaginatedQuery",
    "QueryEntry",
    "RequestRefused",
    "Subscription",
    "SyncClient",
    "SyncPaginatedQuery",
    "SyncStream",
    "TokenFetcher",
    "Watch",
]
