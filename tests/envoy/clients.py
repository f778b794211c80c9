"""Clients of an Envoy, and what they see of their requests."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.envoy.picker import ASK_ENDPOINT, ASK_PREFILL, ASK_REFUSAL
from tests.waiting import PATIENCE_SECONDS


@dataclass
class Seen:
    """One request as its client saw it; times are Unix nanoseconds.

    Attributes:
        sent_ns: Just before it was sent.
        status: Of the response; 0: there was none.
        first_ns: When the first bytes of the body came.
        ended_ns: When it was over.
        usage: The usage in the response.
        left: Whether the client left.
    """

    sent_ns: int = 0
    status: int = 0
    first_ns: int | None = None
    ended_ns: int = 0
    usage: dict[str, Any] = field(default_factory=dict[str, Any])
    left: bool = False


@dataclass(frozen=True)
class Ask:
    """What a client asks for.

    Attributes:
        name: The request's id.
        endpoint: Where the picker is to send it.
        prefill: The prefill endpoint it is to choose.
        refusal: Status that the picker is to refuse it with.
        stream: Whether as a stream.
        tokens: Tokens of the answer.
        leave: After how many chunks the client leaves; None: never. 0: when the engine has it.
        content: The body instead of a valid one.
        more_headers: Headers beside those that the picker reads.
    """

    name: str
    endpoint: str
    prefill: str = ""
    refusal: int = 0
    stream: bool = True
    tokens: int = 4
    leave: int | None = None
    content: bytes | None = None
    more_headers: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def headers(self) -> dict[str, str]:
        asked = {"x-request-id": self.name, ASK_ENDPOINT: self.endpoint}
        if self.prefill:
            asked[ASK_PREFILL] = self.prefill
        if self.refusal:
            asked[ASK_REFUSAL] = str(self.refusal)
        return {**asked, **self.more_headers, "content-type": "application/json"}

    @property
    def body(self) -> bytes:
        request: dict[str, Any] = {"model": "m", "prompt": "hi " * 20, "max_tokens": self.tokens}
        if self.stream:
            request |= {"stream": True, "stream_options": {"include_usage": True}}
        return json.dumps(request).encode()


def run(port: int, asks: Iterable[Ask], at_once: int = 32) -> dict[str, Seen]:
    """Sends requests, some at once; returns what their clients saw, by id."""
    return asyncio.run(_run(port, list(asks), at_once))


async def _run(port: int, asks: list[Ask], at_once: int) -> dict[str, Seen]:
    seen = {ask.name: Seen() for ask in asks}
    waiting = iter(asks)
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{port}", limits=limits, timeout=PATIENCE_SECONDS
    ) as client:

        async def work() -> None:
            for ask in waiting:
                await _send(client, ask, seen[ask.name])

        await asyncio.gather(*(work() for _ in range(at_once)))
    return seen


async def _send(client: httpx.AsyncClient, ask: Ask, seen: Seen) -> None:
    asking = asyncio.ensure_future(_ask(client, ask, seen))
    if ask.leave == 0:
        while not (asking.done() or await _has_reached_engine(client, ask)):
            await asyncio.sleep(0.1)
        seen.left = asking.cancel()
    with suppress(asyncio.CancelledError):
        await asking
    seen.ended_ns = time.time_ns()


async def _has_reached_engine(client: httpx.AsyncClient, ask: Ask) -> bool:
    """Whether the engine has a request."""
    told = await client.get(f"http://{ask.endpoint}/debug/traceparents")
    return f'"{ask.name}"' in told.text


async def _ask(client: httpx.AsyncClient, ask: Ask, seen: Seen) -> None:
    seen.sent_ns = time.time_ns()
    body = ask.body if ask.content is None else ask.content
    answer = b""
    try:
        async with client.stream(
            "POST", "/v1/completions", content=body, headers=ask.headers
        ) as response:
            seen.status = response.status_code
            chunks = 0
            async for chunk in response.aiter_raw():
                seen.first_ns = seen.first_ns or time.time_ns()
                answer += chunk
                chunks += 1
                if ask.leave is not None and chunks >= ask.leave:
                    seen.left = True
                    break
    except httpx.RemoteProtocolError:  # broken off by Envoy
        pass
    if seen.status == 200 and not seen.left:
        seen.usage = _usage(answer)


def _usage(answer: bytes) -> dict[str, Any]:
    start = answer.rfind(b'"usage"')
    if start < 0:
        return {}
    return json.JSONDecoder().raw_decode(answer[answer.index(b"{", start) :].decode())[0]
