"""An engine that does what the request says, with the same bytes each time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.types import Receive, Scope, Send

USAGE = {
    "prompt_tokens": 5,
    "completion_tokens": 7,
    "prompt_tokens_details": {"cached_tokens": 3},
}
EVENT = b'data: {"choices":[{"index":0,"text":"word ","finish_reason":null}]}\n\n'
DONE = b"data: [DONE]\n\n"
GIGANTIC = 4 << 20
LARGE = 900_000


class ScriptedEngine:
    """An ASGI application; the field `does` of a request selects the fault.

    Attributes:
        called_by: Trace id and span id in the `traceparent` of each request.
        heard: What the client has of its answer so far; None: nobody tells.
    """

    def __init__(self) -> None:
        self.called_by: list[tuple[str, str]] = []
        self.heard: bytes | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] != "http":
            return
        self._remember(dict(scope["headers"]).get(b"traceparent", b"").decode())
        request = json.loads(await _body(receive))
        does = request.get("does", "")
        if does == "hang":
            while (await receive())["type"] != "http.disconnect":
                pass
        elif does.startswith("http_"):
            await _send_whole(send, b'{"error":"scripted"}', int(does.removeprefix("http_")))
        elif request.get("stream"):
            await _send_stream(send, receive, does, self._until_heard)
        else:
            await _send_whole(send, whole(does))

    async def _until_heard(self, content: bytes) -> None:
        """Wait until the client has this: a router may lose what it has not read by the end."""
        if self.heard is None:
            await asyncio.sleep(0.5)
        while self.heard is not None and not self.heard.endswith(content):
            await asyncio.sleep(0.01)

    def _remember(self, traceparent: str) -> None:
        if traceparent:
            _, trace_id, span_id, _ = traceparent.split("-")
            self.called_by.append((trace_id, span_id))


def whole(does: str) -> bytes:
    """The body of an answer that is not a stream."""
    answer: dict[str, Any] = {"choices": [{"text": "word " * 7}], "usage": USAGE}
    if does == "no_usage":
        del answer["usage"]
    elif does == "gigantic":
        answer["choices"][0]["text"] = "x" * GIGANTIC
    elif does == "large":
        answer["choices"][0]["text"] = "x" * LARGE
    body = json.dumps(answer).encode()
    return body[:-20] if does == "truncate" else body


_BROKEN: dict[str, list[bytes]] = {
    "broken": [b'data: {"choices":[\n\n', b"dat", b'a: {"usage":{"prompt_tokens":\n\n', DONE],
    "binary": [b"data: \xff\xfe\x00\xc3\n\n", b'data: {"usage":{"a":"\xff"}}\n\n', DONE],
    "gigantic": [b'data: {"text":"', b"x" * GIGANTIC, b'"}\n\n', DONE],
    "truncate": [EVENT] * 3,
    "no_usage": [*[EVENT] * 7, DONE],
}


async def _send_stream(
    send: Send, receive: Receive, does: str, until_heard: Callable[[bytes], Awaitable[None]]
) -> None:
    headers = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    if does == "endless":
        gone = asyncio.ensure_future(receive())
        while not gone.done():
            await _send_body(send, EVENT)
            await asyncio.sleep(0.02)
        return
    usage = b"data: " + json.dumps({"choices": [], "usage": USAGE}).encode() + b"\n\n"
    events = _BROKEN.get(does, [*[EVENT] * 7, usage, DONE])
    for index, event in enumerate(events):
        if does == "drop" and index == 3:
            await until_heard(EVENT * 3)
            return  # the server closes the connection of a response left incomplete
        await _send_body(send, event)
        if does == "slow":
            await asyncio.sleep(0.05)
        elif does == "steady":
            await asyncio.sleep(0.002)
    await _send_body(send, b"", more=False)


async def _send_whole(send: Send, body: bytes, status: int = 200) -> None:
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await _send_body(send, body, more=False)


async def _send_body(send: Send, body: bytes, *, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})


async def _body(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body
