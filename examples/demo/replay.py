"""Sends planned requests over HTTP, each at its time, and notes each result."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from enum import Enum

import httpx
import msgspec

from demo.workload import PlannedRequest

PATIENCE_SECONDS = 0.05  # of a client that leaves before the first chunk
TIMEOUT_SECONDS = 60.0  # between two chunks; never reached in a healthy demo

_DONE = b"data: [DONE]"


class Answer(str, Enum):
    """How a request ended for its client."""

    COMPLETE = "complete"
    LEFT = "client left"
    REFUSED = "refused"
    BROKEN = "broken off"


async def replay(
    base_url: str,
    model: str,
    requests: Sequence[PlannedRequest],
    on_sent: Callable[[float], None],
    on_answer: Callable[[Answer], None],
) -> Counter[Answer]:
    """Send all requests, however many are in flight, and wait for their answers.

    Args:
        base_url: URL of the router.
        model: The requested model.
        requests: The requests, by time.
        on_sent: Called as each request is sent, with how many seconds late it is.
        on_answer: Called after each request has ended.

    Returns:
        The number of requests by their end.
    """
    loop = asyncio.get_running_loop()
    start = loop.time()
    answers: Counter[Answer] = Counter()
    # One connection per request: the router may close a kept one just when it is used
    # again, and then the request never arrives.
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    timeout = httpx.Timeout(TIMEOUT_SECONDS)

    async def one(request: PlannedRequest) -> None:
        await asyncio.sleep(request.at - (loop.time() - start))
        on_sent(loop.time() - start - request.at)
        answer = await _send(client, model, request)
        answers[answer] += 1
        on_answer(answer)

    async with httpx.AsyncClient(
        base_url=base_url, limits=limits, timeout=timeout, trust_env=False
    ) as client:
        await asyncio.gather(*map(one, requests))
    return answers


async def _send(client: httpx.AsyncClient, model: str, request: PlannedRequest) -> Answer:
    body: dict[str, object] = {
        "model": model,
        **request.prompt.fields(),
        "max_tokens": request.output_tokens,
        "stream": request.stream,
    }
    if request.stream:
        body["stream_options"] = {"include_usage": True}
    timeout = client.timeout
    if request.leave_after_chunks == 0:
        timeout = httpx.Timeout(TIMEOUT_SECONDS, read=PATIENCE_SECONDS)
    try:
        async with client.stream(
            "POST",
            request.prompt.path,
            content=msgspec.json.encode(body),
            headers={"content-type": "application/json", "x-request-id": request.request_id},
            timeout=timeout,
        ) as response:
            if response.is_error:
                return Answer.REFUSED
            return await _read(response, request)
    except httpx.ReadTimeout:
        return Answer.LEFT if request.leave_after_chunks == 0 else Answer.BROKEN
    except httpx.TransportError:
        return Answer.BROKEN


async def _read(response: httpx.Response, request: PlannedRequest) -> Answer:
    tail = b""
    chunks = 0
    async for chunk in response.aiter_raw():
        chunks += 1
        if request.leave_after_chunks is not None and chunks >= request.leave_after_chunks:
            return Answer.LEFT
        tail = (tail + chunk)[-2 * len(_DONE) :]
    return Answer.COMPLETE if _DONE in tail or not request.stream else Answer.BROKEN
