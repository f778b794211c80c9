"""Stops work for a client that has left."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
from starlette.types import Receive


async def run_until_disconnect(
    receive: Receive, work: Callable[[], Awaitable[None]], on_disconnect: Callable[[], None]
) -> None:
    """Run `work`; on a disconnect, call `on_disconnect` and cancel it."""
    async with anyio.create_task_group() as tasks:

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            on_disconnect()
            tasks.cancel_scope.cancel()

        tasks.start_soon(watch)
        await work()
        tasks.cancel_scope.cancel()
