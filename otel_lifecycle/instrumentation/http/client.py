"""Whether the client is still there: servers know it before they tell the application."""

from __future__ import annotations

from asyncio import Queue
from typing import Any


def has_left(server: Any) -> bool:
    """Whether the client has left, without waiting and without taking a message; False if unknown.

    Args:
        server: What the method `receive` of a request belongs to: uvicorn's knows it, Hypercorn's
            is a queue of messages.
    """
    try:
        if type(server) is not Queue:  # pyright: ignore[reportUnknownArgumentType]
            return getattr(server, "disconnected", False) is True
        waiting: Any = getattr(server, "_queue", ())  # pyright: ignore[reportUnknownArgumentType]
        return any(message.get("type") == "http.disconnect" for message in waiting)
    except Exception:  # a property of another server
        return False
