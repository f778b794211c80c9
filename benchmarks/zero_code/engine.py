"""An engine that costs little: `uvicorn benchmarks.zero_code.engine:serve`.

The request's `user` selects how a stream comes: `steady` is event by event, as engines send it;
otherwise all events come at once, and a router may read them as one chunk.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from starlette.types import Receive, Scope, Send

EVENTS = 8
PAUSE_SECONDS = 0.002

_USAGE = {
    "prompt_tokens": 5,
    "completion_tokens": EVENTS,
    "total_tokens": 5 + EVENTS,
    "prompt_tokens_details": {"cached_tokens": 3},
}


def _answer(kind: str, **fields: Any) -> bytes:
    same = {"id": "chatcmpl-9f8c2d7e1b3a4c5d", "object": kind, "created": 1_732_900_000}
    return json.dumps({**same, "model": "m", **fields}).encode()


def _event(delta: dict[str, Any], finish_reason: str | None = None, **fields: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return b"data: " + _answer("chat.completion.chunk", choices=[choice], **fields) + b"\n\n"


_STREAM = [
    *[_event({"role": "assistant", "content": "word "})] * (EVENTS - 1),
    _event({}, "stop", usage=_USAGE),
]
_DONE = b"data: [DONE]\n\n"
_MESSAGE = {"role": "assistant", "content": "word " * EVENTS}
_WHOLE = _answer(
    "chat.completion",
    choices=[{"index": 0, "message": _MESSAGE, "finish_reason": "stop"}],
    usage=_USAGE,
)


async def serve(scope: Scope, receive: Receive, send: Send) -> None:
    """Serve one request; whatever is not a completion gets an empty answer."""
    if scope["type"] != "http":
        return
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    request = json.loads(body) if body else {}
    streams = request.get("stream", False)
    kind = b"text/event-stream" if streams else b"application/json"
    headers = [(b"content-type", kind)]
    if not streams:
        answer = _WHOLE if body else b"{}"
        headers.append((b"content-length", str(len(answer)).encode()))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})
        return
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    if request.get("user") == "steady":
        for event in _STREAM:
            await send({"type": "http.response.body", "body": event, "more_body": True})
            await asyncio.sleep(PAUSE_SECONDS)
        await send({"type": "http.response.body", "body": _DONE})
    else:
        await send({"type": "http.response.body", "body": b"".join(_STREAM) + _DONE})
