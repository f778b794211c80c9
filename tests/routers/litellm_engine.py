"""A fake engine; the requested model selects the fault."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

WORDS = "abcde"
USAGE = {
    "prompt_tokens": 7,
    "completion_tokens": 5,
    "total_tokens": 12,
    "prompt_tokens_details": {"cached_tokens": 4},
}


class FakeEngine:
    """Serves chat completions, and remembers the trace context and more of each call.

    Attributes:
        traceparents: The trace contexts, in the order of the calls.
        asked_for_usage: The trace contexts of streams that had to report their usage.
    """

    def __init__(self) -> None:
        self.traceparents: list[str] = []
        self.asked_for_usage: set[str] = set()
        path = "/v1/chat/completions"
        self.app = Starlette(routes=[Route(path, self._chat, methods=["POST"])])

    async def _chat(self, request: Request) -> Response:
        call = await request.json()
        traceparent = request.headers.get("traceparent", "")
        self.traceparents.append(traceparent)
        if _wants_usage(call):
            self.asked_for_usage.add(traceparent)
        kind = call["model"]
        if kind == "error":
            return JSONResponse({"error": {"message": "broken"}}, 500)
        if kind == "limited":
            return JSONResponse({"error": {"message": "too many"}}, 429)
        if kind == "hang":
            await asyncio.sleep(600)
        if call.get("stream"):
            return StreamingResponse(_stream(call), media_type="text/event-stream")
        message = {"role": "assistant", "content": WORDS}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return JSONResponse(_object("chat.completion", choices=[choice], usage=USAGE))


async def _stream(call: dict[str, Any]) -> AsyncIterator[bytes]:
    kind = call["model"]
    for word in WORDS:
        if kind == "drop" and word == "d":
            await asyncio.sleep(3)  # data in transit may be lost when a connection breaks
            raise ConnectionAbortedError
        yield _event(choices=[_choice({"role": "assistant", "content": word})])
        await asyncio.sleep(1 if kind == "slow" else 0.001)  # time enough to leave
    if kind == "cut":
        return
    yield _event(choices=[_choice({}, "stop")])
    if _wants_usage(call):
        yield _event(choices=[], usage=USAGE)
    yield b"data: [DONE]\n\n"


def _wants_usage(call: dict[str, Any]) -> bool:
    return bool((call.get("stream_options") or {}).get("include_usage"))


def _choice(delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "finish_reason": finish_reason}


def _event(**fields: Any) -> bytes:
    return b"data: %s\n\n" % json.dumps(_object("chat.completion.chunk", **fields)).encode()


def _object(kind: str, **fields: Any) -> dict[str, Any]:
    return {"id": "chatcmpl-1", "object": kind, "created": 1, "model": "m", **fields}
