"""An engine with programmed answers."""

from __future__ import annotations

import asyncio
import threading

from starlette.types import Receive, Scope, Send

from tests.waiting import until

EVENT = b'data: {"choices":[{"index":0,"text":"word","finish_reason":null}]}\n\n'
LAST = b'data: {"choices":[{"index":0,"text":"","finish_reason":"stop"}]}\n\n'
DONE = b"data: [DONE]\n\n"


class Engine:
    """An engine with programmed answers.

    Attributes:
        status: Status of the answer.
        headers: Headers of the answer.
        pieces: Bytes are sent, events are waited for, None breaks the connection.
        called: How often it was called.
    """

    def __init__(self) -> None:
        self.status = 200
        self.headers: list[tuple[bytes, bytes]] = [(b"content-type", b"text/plain")]
        self.pieces: list[bytes | threading.Event | None] = [EVENT, LAST, DONE]
        self.called = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve any path."""
        if scope["type"] != "http":
            return
        self.called += 1
        start = {"status": self.status, "headers": self.headers}
        await send({"type": "http.response.start", **start})
        for piece in self.pieces:
            if piece is None:
                return
            if isinstance(piece, threading.Event):
                await until(piece)
            else:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                await asyncio.sleep(0.01)  # a chunk of its own
        await send({"type": "http.response.body"})
