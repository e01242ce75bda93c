"""Subscribe, send, see it arrive, and see a message vanish by a scheduled job.

evolute dev                                       in one terminal, from the root of the repository
uv run python examples/quickstart/main.py         in another; a server elsewhere is given as an argument
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from evolute_client import Client, ConnectionLost, ConvexError, FunctionError

ADDRESS = "http://127.0.0.1:3210"
CHANNEL = "quickstart"
CONNECT_S_MAX = 3.0
PUSH_S_MAX = 15.0
VANISH_AFTER_MS = 1500


async def main(address: str) -> None:
    async with Client(address) as client:
        await client.wait_connected(timeout_s=CONNECT_S_MAX)
        channel = await open_channel(client)
        async with asyncio.timeout(PUSH_S_MAX), client.subscribe("messages:list_recent", channel=channel) as pushes:
            before = await anext(pushes)
            print(f"#{CHANNEL} has {len(before)} recent messages")

            hello = await client.mutation("messages:send", channel=channel, body="Hello from Python!")
            messages = await wait_until(pushes, hello, shown=True)
            print(f"sent one, and the server pushed it: {messages[0]['body']!r}")

            whisper = await client.mutation(
                "messages:send", channel=channel, body="I vanish soon.", vanish_after_ms=VANISH_AFTER_MS
            )
            await wait_until(pushes, whisper, shown=True)
            print(f"sent one that vanishes after {VANISH_AFTER_MS / 1000} s; waiting for the scheduler …")
            await wait_until(pushes, whisper, shown=False)
            print("it is gone, and nobody asked: the scheduled mutation's commit was pushed like any other")


async def open_channel(client: Client) -> str:
    """The id of the channel, which the first run creates."""
    for channel in await client.query("channels:list_all"):
        if channel["name"] == CHANNEL:
            return str(channel["_id"])
    return str(await client.mutation("channels:create", name=CHANNEL))


async def wait_until(pushes: Any, message: str, *, shown: bool) -> Any:
    """The first pushed result that shows the message, or does not."""
    async for messages in pushes:
        if any(row["_id"] == message for row in messages) == shown:
            return messages
    raise ConnectionLost("the subscription ended")


if __name__ == "__main__":
    address = sys.argv[1] if len(sys.argv) > 1 else ADDRESS
    try:
        asyncio.run(main(address))
    except ConnectionLost as error:
        sys.exit(f"{error}. Is the server running? Start it with: evolute dev")
    except TimeoutError:
        sys.exit(f"The server at {address} pushed nothing within {PUSH_S_MAX:.0f} s.")
    except (ConvexError, FunctionError) as error:
        sys.exit(f"The server at {address} does not serve the demo app of functions/: {error}")
