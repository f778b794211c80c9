"""A router that makes programmed calls, one after the other or concurrently."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import aiohttp
import httpx
import msgspec
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

CHAT = "/v1/chat/completions"


class Call(NamedTuple):
    """One call: its engine, and how its body differs from the client's.

    Attributes:
        answered: Set when the router has the answer.
    """

    url: str
    changes: Mapping[str, Any] = MappingProxyType({})
    path: str = CHAT
    packed: bool = False
    answered: threading.Event | None = None

    def body(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Return the client's body, changed."""
        body = {**asked, **self.changes}
        return {name: value for name, value in body.items() if value is not None}


class Answer(NamedTuple):
    """An engine's answer."""

    status: int
    media_type: str
    body: bytes


class HttpxCalls:
    """Through httpx."""

    async def start(self) -> None:
        self.client = httpx.AsyncClient(timeout=30, trust_env=False)

    async def stop(self) -> None:
        await self.client.aclose()

    async def call(self, call: Call, asked: dict[str, Any]) -> Answer:
        body = call.body(asked)
        content: dict[str, Any] = {"json": body}
        if call.packed:
            content = {"content": msgspec.msgpack.encode(body)}
        response = await self.client.post(call.url + call.path, **content)
        return Answer(response.status_code, response.headers["content-type"], response.content)

    async def open(self, call: Call, asked: dict[str, Any]) -> Any:
        """An answer that is still to be read, by `chunks`, and to be closed."""
        request = self.client.build_request("POST", call.url + call.path, json=call.body(asked))
        return await self.client.send(request, stream=True)

    def chunks(self, response: Any) -> AsyncIterator[bytes]:
        return response.aiter_raw()  # type: ignore[no-any-return]

    async def close(self, response: Any) -> None:
        await response.aclose()


class AiohttpCalls:
    """Through aiohttp, which encodes objects itself."""

    async def start(self) -> None:
        self.session = aiohttp.ClientSession()

    async def stop(self) -> None:
        await self.session.close()

    async def call(self, call: Call, asked: dict[str, Any]) -> Answer:
        body = call.body(asked)
        content = {"data": msgspec.msgpack.encode(body)} if call.packed else {"json": body}
        async with self.session.post(call.url + call.path, **content) as response:
            return Answer(response.status, response.headers["content-type"], await response.read())

    async def open(self, call: Call, asked: dict[str, Any]) -> Any:
        """The same."""
        return await self.session.post(call.url + call.path, json=call.body(asked))

    def chunks(self, response: Any) -> AsyncIterator[bytes]:
        return response.content.iter_any()  # type: ignore[no-any-return]

    async def close(self, response: Any) -> None:
        response.close()


def make_racing_router(client: Any, *calls: Call, winner: int, chosen: threading.Event) -> FastAPI:
    """A router that reads the first chunk of several streams, and continues with one of them.

    Args:
        client: Makes the calls.
        *calls: The calls.
        winner: The one to continue with.
        chosen: Set when the others are closed.
    """
    app = FastAPI()

    async def race(asked: dict[str, Any]) -> AsyncIterator[bytes]:
        await client.start()
        responses = [await client.open(call, asked) for call in calls]
        streams = [client.chunks(response) for response in responses]
        firsts = [await anext(stream) for stream in streams]
        for index, response in enumerate(responses):
            if index != winner:
                await client.close(response)
        chosen.set()
        yield firsts[winner]
        async for chunk in streams[winner]:
            yield chunk
        await client.stop()

    async def route(request: Request) -> Response:
        return StreamingResponse(race(await request.json()), media_type="text/event-stream")

    app.post(CHAT)(route)
    return app


def make_router(
    client: Any,
    *steps: list[Call],
    first_wins: bool = False,
    retries: bool = False,
    tells: int = -1,
) -> FastAPI:
    """A router that makes the calls of each step concurrently, one step after the other.

    Args:
        client: Makes the calls.
        *steps: The calls of each step.
        first_wins: The first good answer counts, and the other calls of the step are cancelled.
        retries: The next step is made only if this one failed.
        tells: The step whose answer goes to the client.
    """
    app = FastAPI()

    async def made(call: Call, asked: dict[str, Any]) -> Answer:
        answer: Answer = await client.call(call, asked)
        if call.answered is not None:
            call.answered.set()
        return answer

    async def route(request: Request) -> Response:
        asked = await request.json()
        await client.start()
        try:
            told: list[Answer] = []
            for step in steps:
                tasks = [asyncio.ensure_future(made(call, asked)) for call in step]
                answers = await (first_good(tasks) if first_wins else asyncio.gather(*tasks))
                told.append(answers[-1])
                is_good = all(answer.status < 400 for answer in answers)
                if is_good and retries:
                    break
                if not is_good and not retries:
                    return JSONResponse({"error": "engine"}, 502)
        finally:
            await client.stop()
        answer = told[tells]
        if answer.media_type.startswith("text/event-stream"):
            return StreamingResponse(iter([answer.body]), media_type=answer.media_type)
        return Response(answer.body, answer.status, media_type=answer.media_type)

    app.post(CHAT)(route)
    return app


async def first_good(tasks: list[asyncio.Task[Answer]]) -> list[Answer]:
    """Return the first answer without an error; cancel the others."""
    waiting = set(tasks)
    answers: list[Answer] = []
    while waiting and not (answers and answers[-1].status < 400):
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        answers += [task.result() for task in done]
    for task in waiting:
        task.cancel()
    return answers[-1:]
