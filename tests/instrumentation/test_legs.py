"""Routers that make several calls for a request: the role of each call, and the record."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from tests.examples.cluster import Server
from tests.instrumentation.doubles.call_router import (
    AiohttpCalls,
    Call,
    HttpxCalls,
    make_racing_router,
    make_router,
)
from tests.instrumentation.exchanges import (
    failed,
    legs,
    paired,
    plain,
    prefilled,
    streamed,
    whole_answer,
)
from tests.instrumentation.test_generic import Observed, endpoint_id, unobserved
from tests.matchers import TIMESTAMP
from tests.waiting import until

ID = {"x-request-id": "request-1"}
CHAT = "/v1/chat/completions"
ONE = {"max_tokens": 1, "stream": False}
PARTS = [
    {"type": "text", "text": "what is this?"},
    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
]
IMAGE_ALONE = {**ONE, "messages": [{"role": "user", "content": PARTS[1:]}]}
PAIR_INFO = {"disaggregate_info": {"prefill_ip": "127.0.0.1", "decode_ip": "127.0.0.1"}}
ROOM = {"bootstrap_host": "127.0.0.1", "bootstrap_room": 7}
GUARD = {"model": "guard", **ONE}
FIRST_WINS = {"first_wins": True}
VLLM = (
    {**ONE, "kv_transfer_params": {"do_remote_decode": True, "do_remote_prefill": False}},
    {"kv_transfer_params": {"do_remote_prefill": True, "remote_block_ids": [1, 2]}},
)
MARKS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "vllm": VLLM,
    "lmcache": ({**ONE, "kv_transfer_params": {"ret_first_tok": True}}, {}),
    "lmcache mp": (ONE, {}),
    "lmdeploy": (
        {**ONE, "with_cache": True, "preserve_cache": True, "migration_request": None},
        {"migration_request": {"remote_block_ids": [1]}, "with_cache": False},
    ),
    "tensorrt-llm": (
        {"disaggregated_params": {"request_type": "context_only"}, "stream": False},
        {"disaggregated_params": {"request_type": "generation_only", "ctx_request_id": 1}},
    ),
    "mlc": ({"kv_addr_info": "AAAA", "begin": 0, "stream": False}, {"begin": 9}),
    "fastdeploy, one by one": (PAIR_INFO, PAIR_INFO),
}


class Engine:
    """An engine whose answer identifies it.

    Attributes:
        status: Status of its answers.
        starts: It answers when this is set.
        goes_on: Its streams go on when this is set.
        cached: Prompt tokens that it reports as cached.
        is_broken: Whether it answers 200 with an error.
    """

    def __init__(self, name: str, *, cached: int = 0) -> None:
        self.name = name
        self.cached = cached
        self.status = 200
        self.starts, self.goes_on = threading.Event(), threading.Event()
        self.starts.set()
        self.goes_on.set()
        self.is_broken = False
        self.server = Server(unobserved(self))

    @property
    def url(self) -> str:
        """Its URL."""
        return self.server.url

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve any path."""
        if scope["type"] == "http":
            body = await Request(scope, receive).body()
            asked = msgspec.msgpack.decode(body) if body[:1] > b"\x7f" else json.loads(body)
            await until(self.starts)
            await self.answer(asked)(scope, receive, send)

    def answer(self, asked: dict[str, Any]) -> Response:
        """Answer a request."""
        if self.status >= 400 or self.is_broken:
            return JSONResponse({"error": "engine"}, self.status)
        usage = {
            "prompt_tokens": 30,
            "completion_tokens": 8,
            "prompt_tokens_details": {"cached_tokens": self.cached},
        }
        whole = {"id": f"chatcmpl-{self.name}", "usage": usage}
        if asked.get("stream"):
            delta = {"index": 0, "delta": {"content": self.name}, "finish_reason": None}
            last = {"index": 0, "delta": {}, "finish_reason": "stop"}
            events = [{"choices": [delta]}, {**whole, "choices": [last]}]
            told = [f"data: {json.dumps({'id': whole['id'], **event})}\n\n" for event in events]
            pieces = self.slowly([*told, "data: [DONE]\n\n"])
            return StreamingResponse(pieces, media_type="text/event-stream")
        message = {"role": "assistant", "content": self.name}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return JSONResponse({**whole, "choices": [choice]})

    async def slowly(self, pieces: list[str]) -> AsyncIterator[str]:
        """Yield one piece after the other."""
        for piece in pieces:
            yield piece
            await asyncio.sleep(0)
            await until(self.goes_on)


class Called(Observed):
    """A router that makes programmed calls, with its engines."""

    def __init__(self, path: Path, client: Any) -> None:
        super().__init__(path)
        self._calls = client
        self.engines: list[Engine] = []

    def engine(self, name: str, **settings: Any) -> Engine:
        """Add an engine."""
        engine = Engine(name, **settings)
        self.engines.append(engine)
        return engine

    def ask(self, *steps: list[Call], how: Any = None, **fields: Any) -> dict[str, Any]:
        """Serve the router, send it one request, and return the record."""
        return self.record_of(make_router(self._calls, *steps, **(how or {})), **fields)

    def race(self, *calls: Call, winner: int) -> dict[str, Any]:
        """The same through a router that starts to read several streams."""
        chosen = self.engines[0].goes_on
        app = make_racing_router(self._calls, *calls, winner=winner, chosen=chosen)
        return self.record_of(app, stream=True)

    def record_of(self, app: Any, **fields: Any) -> dict[str, Any]:
        """Serve a router, send it one request, and return the record."""
        self.serve(app)
        self.post(
            path=CHAT,
            headers=ID,
            **{"prompt": None, "messages": [{"role": "user", "content": PARTS}], **fields},
        )
        return plain(self.record())

    def stop(self) -> None:
        """Stop everything."""
        super().stop()
        for engine in self.engines:
            engine.server.stop()


@pytest.fixture(params=[HttpxCalls, AiohttpCalls])
def called(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Called]:
    """A router that calls through each library in turn."""
    called = Called(tmp_path / "records.jsonl", request.param())
    yield called
    called.stop()


@pytest.fixture
def pair(called: Called) -> tuple[Engine, Engine]:
    """A prefill engine, and a decode engine that counts received tokens as cached."""
    return called.engine("prefill", cached=7), called.engine("decode", cached=29)


def whole(**changes: Any) -> dict[str, Any]:
    """The common fields of all complete answers here."""
    return {"operation": "chat", "finishReason": "stop", **whole_answer(), **changes}


def stopped(error: str, **changes: Any) -> dict[str, Any]:
    """The common fields of failures."""
    known = {"operation": "chat", "inputTokenLength": 3, "streaming": False}
    return {**failed(error), **known, **changes}


def at_once(first: Call, second: Call) -> list[list[Call]]:
    """Both calls concurrently."""
    return [[first, second]]


def one_by_one(first: Call, second: Call) -> list[list[Call]]:
    """The second call after the first."""
    return [[first], [second]]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("marks", MARKS)
def test_pair(called: Called, pair: tuple[Engine, Engine], marks: str, stream: bool) -> None:
    """Each mark makes a pair: one attempt, the prefill's cached tokens, both calls as legs."""
    prefill, decode = pair
    calls = [Call(engine.url, changes) for engine, changes in zip(pair, MARKS[marks], strict=True)]
    record = called.ask(*one_by_one(*calls), stream=stream)

    told = {"operation": "chat", "finishReason": "stop", "cachedTokens": 7}
    if not stream:
        told |= whole(cachedTokens=7)
    elif marks.startswith("fastdeploy"):  # whose prefill streams too
        told |= {"cachedTokens": 7}
    assert record == paired(prefill.url, decode.url, **told)


@pytest.mark.parametrize("marks", [VLLM, (PAIR_INFO, PAIR_INFO), (ROOM, ROOM)])
def test_pair_at_once(called: Called, pair: tuple[Engine, Engine], marks: Any) -> None:
    """Two concurrent calls with the marks of a pair are one attempt."""
    calls = [Call(engine.url, changes) for engine, changes in zip(pair, marks, strict=True)]
    record = called.ask(*at_once(*calls))

    assert record == paired(pair[0].url, pair[1].url, **whole(cachedTokens=7))


def test_packed(called: Called, pair: tuple[Engine, Engine]) -> None:
    """MessagePack bodies of TensorRT-LLM's newest router have the same marks."""
    calls = [
        Call(engine.url, changes, packed=True)
        for engine, changes in zip(pair, MARKS["tensorrt-llm"], strict=True)
    ]
    record = called.ask(*one_by_one(*calls))

    assert record == paired(pair[0].url, pair[1].url, **whole(cachedTokens=7))


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
def test_large(called: Called, pair: tuple[Engine, Engine]) -> None:
    """Marks are found in bodies of any size."""
    calls = [
        Call(engine.url, {"pad": "x" * (2 << 20), **changes})
        for engine, changes in zip(pair, VLLM, strict=True)
    ]
    record = called.ask(*one_by_one(*calls))

    assert record == paired(pair[0].url, pair[1].url, **whole(cachedTokens=7))


def test_one_token_asked(called: Called, pair: tuple[Engine, Engine]) -> None:
    """If the client asks for one token, the second call shows what the first was."""
    calls = [Call(engine.url, {"max_tokens": 1}) for engine in pair]
    record = called.ask(*one_by_one(*calls), max_tokens=1)

    assert record == paired(pair[0].url, pair[1].url, **whole(cachedTokens=7))


def test_prefill_out_of_sight(called: Called, pair: tuple[Engine, Engine]) -> None:
    """A decode whose prefill another request calls: its count of cached tokens is not reported."""
    decode = pair[1]
    record = called.ask([Call(decode.url, VLLM[1])])

    assert record == streamed(decode.url, **whole(cachedTokens=None))


def test_decode_is_prepared(called: Called, pair: tuple[Engine, Engine]) -> None:
    """MLC asks the decode engine for addresses first: a side call, and no part of the pair."""
    prefill, decode = pair
    prepare = Call(decode.url, {"stream": False})
    calls = [Call(engine.url, changes) for engine, changes in zip(pair, MARKS["mlc"], strict=True)]
    record = called.ask([prepare], *one_by_one(*calls))

    told = legs(
        ("side", decode.url, "completed"),
        ("prefill", prefill.url, "completed"),
        ("decode", decode.url, "completed"),
    )
    assert record == paired(prefill.url, decode.url, **whole(cachedTokens=7, **told))


def test_encoder_before_it(called: Called, pair: tuple[Engine, Engine]) -> None:
    """The same after a call for one token without a mark: that one was for an encoder."""
    encoder, decode = pair
    record = called.ask([Call(encoder.url, ONE)], [Call(decode.url, VLLM[1])])

    told = legs(("encode", encoder.url, "completed"), ("leader", decode.url, "completed"))
    assert record == streamed(decode.url, **whole(cachedTokens=None, **told))


@pytest.mark.parametrize("marks", MARKS)
def test_prefill_fails(called: Called, pair: tuple[Engine, Engine], marks: str) -> None:
    """A failed prefill is the prefill of a pair, and its status is the error."""
    prefill = pair[0]
    prefill.status = 503
    calls = [Call(engine.url, changes) for engine, changes in zip(pair, MARKS[marks], strict=True)]
    record = called.ask(*one_by_one(*calls))

    assert record == prefilled(prefill.url, **stopped("http_503"))


def test_prefill_fails_at_once(called: Called, pair: tuple[Engine, Engine]) -> None:
    """The same for concurrent calls: the pair is known, and no answer counts."""
    prefill, decode = pair
    prefill.status = 503
    record = called.ask(*at_once(Call(prefill.url, PAIR_INFO), Call(decode.url, PAIR_INFO)))

    told = legs(("prefill", prefill.url, "error"), ("decode", decode.url, "completed"))
    assert record == paired(
        prefill.url, decode.url, prefilled=False, **{**stopped("http_502"), **told}
    )


@pytest.mark.parametrize("marks", MARKS)
def test_decode_fails(called: Called, pair: tuple[Engine, Engine], marks: str) -> None:
    """A failed decode leaves the route unchanged."""
    prefill, decode = pair
    decode.status = 500
    calls = [Call(engine.url, changes) for engine, changes in zip(pair, MARKS[marks], strict=True)]
    record = called.ask(*one_by_one(*calls))

    told = legs(("prefill", prefill.url, "completed"), ("decode", decode.url, "error"))
    assert record == paired(prefill.url, decode.url, **{**stopped("http_502"), **told})


@pytest.mark.parametrize("with_text", [False, True], ids=["image alone", "whole request"])
def test_encoder(called: Called, pair: tuple[Engine, Engine], with_text: bool) -> None:
    """Encoders that receive the images first are legs, but not part of the pair."""
    encoders = [called.engine("encoder-0"), called.engine("encoder-1")]
    changes = ONE if with_text else IMAGE_ALONE
    asked = encoders[:1] if with_text else encoders
    steps = [
        [Call(engine.url, changes) for engine in asked],
        *one_by_one(*[Call(one.url, mark) for one, mark in zip(pair, VLLM, strict=True)]),
    ]
    record = called.ask(*steps)

    told = legs(
        *[("encode", engine.url, "completed") for engine in asked],
        ("prefill", pair[0].url, "completed"),
        ("decode", pair[1].url, "completed"),
    )
    assert record == paired(pair[0].url, pair[1].url, **whole(cachedTokens=7, **told))


def test_encoder_of_one_engine(called: Called) -> None:
    """After encoders a single engine may do the rest."""
    encoder, engine = called.engine("encoder"), called.engine("engine", cached=5)
    record = called.ask(*one_by_one(Call(encoder.url, IMAGE_ALONE), Call(engine.url)))

    told = legs(("encode", encoder.url, "completed"), ("leader", engine.url, "completed"))
    assert record == streamed(engine.url, **whole(cachedTokens=5, **told))


def test_encoder_fails(called: Called) -> None:
    """If the request gets no further than its encoder, that is the route."""
    encoder, engine = called.engine("encoder"), called.engine("engine")
    encoder.status = 500
    record = called.ask(*one_by_one(Call(encoder.url, IMAGE_ALONE), Call(engine.url)))

    assert record == streamed(encoder.url, **stopped("http_502"))


@pytest.mark.parametrize("winner", [0, 1])
def test_hedge(called: Called, winner: int) -> None:
    """Of two equal calls, the one whose answer went to the client served."""
    engines = [called.engine("engine-0"), called.engine("engine-1")]
    engines[1 - winner].starts.clear()
    record = called.ask([Call(engine.url) for engine in engines], how=FIRST_WINS)

    outcomes = ["cancelled", "cancelled"]
    outcomes[winner] = "completed"
    told = legs(
        ("leader", engines[0].url, outcomes[0]),
        ("hedge", engines[1].url, outcomes[1]),
    )
    served = endpoint_id(engines[winner].server)
    assert record == streamed(engines[0].url, **whole(servedEndpoint=served, **told))


def test_hedge_saves(called: Called) -> None:
    """A hedge that answers after the first call has failed is not a retry."""
    broken, engine = called.engine("broken"), called.engine("engine")
    broken.status, engine.starts = 500, threading.Event()
    calls = [Call(broken.url, answered=engine.starts), Call(engine.url)]
    record = called.ask(calls, how=FIRST_WINS)

    told = legs(("leader", broken.url, "error"), ("hedge", engine.url, "completed"))
    served = endpoint_id(engine.server)
    assert record == streamed(broken.url, **whole(servedEndpoint=served, **told))


@pytest.mark.parametrize("winner", [0, 1])
def test_hedged_streams(called: Called, winner: int) -> None:
    """A stream that the router closes early is `cancelled`."""
    engines = [called.engine("engine-0"), called.engine("engine-1")]
    engines[0].goes_on = engines[1].goes_on = threading.Event()
    record = called.race(*[Call(engine.url) for engine in engines], winner=winner)

    outcomes = ["cancelled", "cancelled"]
    outcomes[winner] = "completed"
    told = legs(
        ("leader", engines[0].url, outcomes[0]),
        ("hedge", engines[1].url, outcomes[1]),
    )
    served = endpoint_id(engines[winner].server)
    assert record == streamed(
        engines[0].url,
        operation="chat",
        finishReason="stop",
        servedEndpoint=served,
        **told,
    )


def test_hedges_that_both_answer(called: Called) -> None:
    """If all calls have answered, the client's answer shows which one served."""
    engines = [called.engine("engine-0"), called.engine("engine-1")]
    engines[1].starts = threading.Event()
    calls = [Call(engines[0].url, answered=engines[1].starts), Call(engines[1].url)]
    record = called.ask(calls)  # the last one counts

    told = legs(
        ("leader", engines[0].url, "completed"),
        ("hedge", engines[1].url, "completed"),
    )
    served = endpoint_id(engines[1].server)
    assert record == streamed(engines[0].url, **whole(servedEndpoint=served, **told))


@pytest.mark.parametrize("alias", [False, True], ids=["same model", "another name"])
@pytest.mark.parametrize("steps", [one_by_one, at_once])
def test_guard_before(called: Called, steps: Any, alias: bool) -> None:
    """A guard called before or beside the engine is not part of the route."""
    guard, engine = called.engine("guard"), called.engine("engine", cached=5)
    changes = {"model": "real"} if alias else {}
    record = called.ask(*steps(Call(guard.url, GUARD), Call(engine.url, changes)))

    told = legs(("side", guard.url, "completed"), ("leader", engine.url, "completed"))
    assert record == streamed(engine.url, **whole(cachedTokens=5, **told))


@pytest.mark.parametrize("steps", [one_by_one, at_once])
@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/moderations"])
def test_other_operation(called: Called, path: str, steps: Any) -> None:
    """An embedding on the way to an answer is not part of the route, whatever its model."""
    other, engine = called.engine("other"), called.engine("engine", cached=5)
    record = called.ask(*steps(Call(other.url, path=path), Call(engine.url)))

    told = legs(("side", other.url, "completed"), ("leader", engine.url, "completed"))
    assert record == streamed(engine.url, **whole(cachedTokens=5, **told))


def test_guard_after(called: Called) -> None:
    """A guard that checks the answer is not a retry, and did not serve the request."""
    guard, engine = called.engine("guard"), called.engine("engine", cached=5)
    record = called.ask(*one_by_one(Call(engine.url), Call(guard.url, GUARD)), how={"tells": 0})

    told = legs(("leader", engine.url, "completed"), ("side", guard.url, "completed"))
    assert record == streamed(engine.url, **whole(cachedTokens=5, **told))


@pytest.mark.parametrize("model", ["m", "better"])
def test_cascade(called: Called, model: str) -> None:
    """Of two complete answers the one sent to the client served; the other is no attempt."""
    first, second = called.engine("first"), called.engine("second", cached=5)
    record = called.ask(*one_by_one(Call(first.url), Call(second.url, {"model": model})))

    told = legs(("side", first.url, "completed"), ("leader", second.url, "completed"))
    assert record == streamed(second.url, **whole(cachedTokens=5, **told))


@pytest.mark.parametrize("model", ["m", "fallback"])
def test_retry(called: Called, model: str) -> None:
    """A call after a failed one is another attempt, whatever its model; both are legs."""
    broken, engine = called.engine("broken"), called.engine("engine", cached=5)
    broken.status = 503
    calls = (Call(broken.url), Call(engine.url, {"model": model}))
    record = called.ask(*one_by_one(*calls), how={"retries": True})

    change = {
        "at": TIMESTAMP,
        "from": endpoint_id(broken.server),
        "to": endpoint_id(engine.server),
        "reason": "http_503",
    }
    told = legs(("leader", broken.url, "error"), ("leader", engine.url, "completed"))
    assert record == streamed(
        engine.url, **whole(cachedTokens=5, attempt=2, rerouted=[change], **told)
    )


def test_retry_of_an_answer(called: Called) -> None:
    """A call after an answer of status 200 with an error is a retry too."""
    broken, engine = called.engine("broken"), called.engine("engine", cached=5)
    broken.is_broken = True
    record = called.ask(*one_by_one(Call(broken.url), Call(engine.url)))

    change = {
        "at": TIMESTAMP,
        "from": endpoint_id(broken.server),
        "to": endpoint_id(engine.server),
        "reason": "retry",
    }
    told = legs(("leader", broken.url, "error"), ("leader", engine.url, "completed"))
    assert record == streamed(
        engine.url, **whole(cachedTokens=5, attempt=2, rerouted=[change], **told)
    )


def test_single_call(called: Called) -> None:
    """A single call is shown only by the route."""
    engine = called.engine("engine", cached=5)

    assert called.ask([Call(engine.url)]) == streamed(engine.url, **whole(cachedTokens=5))
