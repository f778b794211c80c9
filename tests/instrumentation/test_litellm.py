"""LiteLLM's router in a program without a server, on a double with its signatures."""

from __future__ import annotations

import asyncio
import gc
import importlib
import logging
import sys
from collections.abc import Callable, Coroutine, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
from opentelemetry.trace import SpanKind

from otel_lifecycle.instrumentation.litellm import LiteLLMInstrumentor
from tests.instrumentation.exchanges import (
    ANY_ID,
    disconnected,
    failed,
    picks,
    plain,
    streamed,
    whole_answer,
)
from tests.instrumentation.test_asked import KEY, hashed
from tests.instrumentation.test_generic import Observed, closed_port, endpoint_id

DOUBLE = Path(__file__).parent / "doubles" / "litellm"
MESSAGES = [{"role": "user", "content": "hello " * 20}]
ASKED = {"stream": True, "stream_options": {"include_usage": True}, "max_tokens": 8}
KNOWN = {
    "requestId": ANY_ID,
    "operation": "chat",
    "policy": "simple-shuffle",
    "candidates": 1,
    "inputTokenLength": 32,
}
# Values that the engine did not report are estimated.
CUT = {**KNOWN, "inputTokenLength": 30}


@pytest.fixture(scope="module")
def double() -> Iterator[Any]:
    """LiteLLM's double under the real one's name."""
    sys.path.insert(0, str(DOUBLE))
    modules = imported_double()
    sys.modules.update(modules)
    yield modules["litellm"]
    sys.path.remove(str(DOUBLE))
    for name in modules:
        del sys.modules[name]


@cache
def imported_double() -> dict[str, Any]:
    """Import the double after instrumenting, which does not import it; return its modules.

    Once: what waits for an import is told of the first one alone.
    """
    instrumentor = LiteLLMInstrumentor()
    instrumentor.instrument()
    assert "litellm" not in sys.modules
    module = importlib.import_module("litellm")
    assert hasattr(module.Router.acompletion, "__wrapped__")
    instrumentor.uninstrument()
    names = [name for name in sys.modules if name.split(".")[0] == "litellm"]
    return {name: sys.modules[name] for name in names}


class Program(Observed):
    """A program that calls LiteLLM's router."""

    def __init__(self, path: Path, litellm: Any, **options: Any) -> None:
        super().__init__(path)
        litellm.callbacks = []
        self.litellm = litellm
        self.adapter = LiteLLMInstrumentor()
        self.adapter.instrument(
            tracer_provider=self.telemetry.tracer_provider,
            meter_provider=self.telemetry.meter_provider,
            store_name=str(path),
            persistence_output_path=str(path),
            **options,
        )

    def router(self, *urls: str, prices: Any = None, **settings: Any) -> Any:
        """A router with one group of deployments."""
        deployments = [
            {
                "model_name": "m",
                "litellm_params": {"api_base": url, **extra},
                "model_info": {"id": f"id-{place}"},
            }
            for place, (url, extra) in enumerate(zip(urls, prices or [{}] * len(urls), strict=True))
        ]
        return self.litellm.Router(deployments, **settings)

    def stop(self) -> None:
        """Stop everything."""
        super().stop()
        self.adapter.uninstrument()


@pytest.fixture
def program(tmp_path: Path, double: Any) -> Iterator[Program]:
    """A program without engines."""
    program = Program(tmp_path / "records.jsonl", double)
    yield program
    program.stop()


def test_stream(program: Program) -> None:
    """A stream of the router is followed to its end, and looks the same to the program."""
    engine = program.add_engine("engine")
    router = program.router(engine.url, closed_port())

    async def main() -> list[Any]:
        stream = await router.acompletion("m", MESSAGES, **ASKED)
        assert isinstance(stream, program.litellm.router.CustomStreamWrapper)
        assert stream.model == "m"
        return [chunk async for chunk in stream]

    chunks = asyncio.run(main())

    (span,) = program.telemetry.spans
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert (span.name, span.kind, span.parent) == ("route m", SpanKind.SERVER, None)
    assert plain(program.record()) == streamed(engine.url, **{**KNOWN, "candidates": 2})


@pytest.mark.parametrize("blocking", [False, True])
def test_whole_answer(program: Program, blocking: bool) -> None:
    """A complete answer ends the request; for blocking calls candidates are unknown."""
    engine = program.add_engine("engine")
    router = program.router(engine.url)
    if blocking:
        answer = router.completion("m", MESSAGES, max_tokens=8)
    else:
        answer = asyncio.run(router.acompletion(model="m", messages=MESSAGES, max_tokens=8))

    assert answer["usage"]["completion_tokens"] == 8
    assert plain(program.record()) == streamed(
        engine.url,
        **{**KNOWN, **whole_answer(), "firstByteAt": None, "candidates": None if blocking else 1},
    )


def test_blocking_stream(program: Program) -> None:
    """A stream of a blocking call is followed too."""
    engine = program.add_engine("engine")
    chunks = list(program.router(engine.url).completion("m", MESSAGES, **ASKED))

    assert chunks
    assert plain(program.record()) == streamed(engine.url, **{**KNOWN, "candidates": None})


def test_labels(tmp_path: Path, double: Any) -> None:
    """What the settings name is read in the arguments, as if they were the fields of a body."""
    settings = "user=body:user;plain,tenant=body:metadata.tenant,team=x-team;plain"
    program = Program(
        tmp_path / "records.jsonl", double, labels=settings, labels_key=KEY, slo="ttft=1h"
    )
    try:
        engine = program.add_engine("engine")
        metadata = {"tenant": "acme", "user_api_key": "sk-of-nobody"}
        list(
            program.router(engine.url).completion(
                "m", MESSAGES, user="alice", metadata=metadata, **ASKED
            )
        )
        record = plain(program.record())
    finally:
        program.stop()

    assert record == streamed(
        engine.url,
        **{
            **KNOWN,
            "candidates": None,
            "labels": {"user": "alice", "tenant": hashed("acme")},
            "slo": {"ttft": {"targetMillis": 3_600_000.0, "met": True}},
        },
    )


def test_labels_of_hostile_arguments(tmp_path: Path, double: Any) -> None:
    """A mapping that raises does not harm the call, and a value of another kind is no label."""

    class Hostile(dict[str, Any]):
        def get(self, *_: Any) -> Any:
            raise RuntimeError("not for you")

    settings = "user=body:user,user=body:metadata.user;plain,deep=body:metadata.user.name;plain"
    program = Program(tmp_path / "records.jsonl", double, labels=settings)
    try:
        router = program.router(program.add_engine("engine").url)
        assert list(router.completion("m", MESSAGES, metadata=Hostile(user="bob"), **ASKED))
        metadata = {"user": "alice"}
        list(router.completion("m", MESSAGES, user={"a": 1}, metadata=metadata, **ASKED))
        record = program.record()
    finally:
        program.stop()

    assert record.labels == {"user": "alice"}


def test_retry(program: Program) -> None:
    """Each further attempt of the router belongs to the same request."""
    engine, nobody = program.add_engine("engine"), closed_port()
    router = program.router(nobody, engine.url, num_retries=1)
    asyncio.run(router.atext_completion("m", prompt="hello " * 20, max_tokens=8))

    record = program.record()
    assert (record.operation, record.attempt, record.candidates) == ("text_completion", 2, 2)
    assert [
        (change.from_endpoint, change.to_endpoint, change.reason) for change in record.rerouted
    ] == [
        (f"addr://{nobody.removeprefix('http://')}", endpoint_id(engine), "httpx.ConnectError"),
    ]


@pytest.mark.parametrize(
    ("module", "handler", "known", "expected"),
    [
        (
            "lowest_latency",
            "LowestLatencyLoggingHandler",
            {"id-1": 0.5},
            [(0.0, {"latency": 0.0}), (-0.5, {"latency": -0.5})],
        ),
        (
            "lowest_tpm_rpm_v2",
            "LowestTPMLoggingHandler_v2",
            {"id-0": 3, "id-1": 7},
            [(-3.0, {"tpm": -3.0}), (-7.0, {"tpm": -7.0, "rpm": -2.0})],
        ),
        (
            "least_busy",
            "LeastBusyLoggingHandler",
            {"id-1": 4},
            [(0.0, {"requests": 0.0}), (-4.0, {"requests": -4.0})],
        ),
        (
            "lowest_cost",
            "LowestCostLoggingHandler",
            {},
            [(-3.5, {"cost": -3.5}), (-5.25, {"cost": -5.25})],
        ),
    ],
)
def test_strategies(
    program: Program, module: str, handler: str, known: dict[str, Any], expected: Any
) -> None:
    """What a strategy compares becomes the score of each deployment: the lowest is best."""
    engine, other = program.add_engine("engine"), closed_port()
    strategy = importlib.import_module(f"litellm.router_strategy.{module}")
    prices = [{"input_cost_per_token": 1.5, "output_cost_per_token": 2.0}, {"model": "listed"}]
    router = program.router(
        engine.url, other, strategy=getattr(strategy, handler)(known), prices=prices
    )
    asyncio.run(router.acompletion("m", MESSAGES, max_tokens=8))

    record = program.record()
    (pick,) = picks(record)
    assert (record.policy, record.candidates, pick["chosenRank"]) == (handler, 2, 1)
    assert [(one["score"], one["scores"]) for one in pick["candidates"]] == expected
    assert pick["candidates"][0]["id"] == endpoint_id(engine)


def test_reason_of_a_group(program: Program) -> None:
    """Why an automatic router chose the group is the reason of the decision."""
    engine = program.add_engine("engine")
    router = program.router(engine.url, closed_port(), cause="keyword_rule")
    asyncio.run(router.acompletion("m", MESSAGES, max_tokens=8))

    record = program.record()
    assert record.decision is not msgspec.UNSET
    assert record.decision.reason == "keyword_rule"
    (pick,) = picks(record)
    assert [one.get("score") for one in pick["candidates"]] == [None, None]


def test_cloud_providers(program: Program) -> None:
    """A deployment without an address has no endpoint: there is only a number of candidates."""
    engine = program.add_engine("engine")
    busy = importlib.import_module("litellm.router_strategy.least_busy")
    strategy = busy.LeastBusyLoggingHandler({"id-1": 1})
    router = program.router(engine.url, "", strategy=strategy)
    asyncio.run(router.acompletion("m", MESSAGES, max_tokens=8))

    record = program.record()
    assert (record.candidates, record.decision) == (2, msgspec.UNSET)


def test_cut_stream_with_a_made_up_end(program: Program) -> None:
    """The engine's answer counts, not the end and the zeros that the router adds."""
    engine = program.add_engine("engine")
    program.cluster.break_engine("engine", "truncate")
    router = program.router(engine.url)

    async def main() -> list[Any]:
        return [chunk async for chunk in await router.acompletion("m", MESSAGES, **ASKED)]

    assert asyncio.run(main())[-1]["choices"][0]["finish_reason"] == "stop"
    assert plain(program.record()) == streamed(
        engine.url, **{**CUT, **failed("stream_truncated", first_chunk=True)}
    )


def test_engine_error(program: Program) -> None:
    """The router's error reaches the program unchanged; the record has the engine's status."""
    engine = program.add_engine("engine")
    program.cluster.break_engine("engine", "http_500")
    with pytest.raises(program.litellm.router.RouterError):
        asyncio.run(program.router(engine.url).acompletion("m", MESSAGES, **ASKED))

    assert plain(program.record()) == streamed(engine.url, **{**CUT, **failed("http_500")})


def test_nothing_to_choose_from(program: Program) -> None:
    """A call that reaches no engine is rejected."""
    with pytest.raises(program.litellm.router.RouterError):
        asyncio.run(program.router().acompletion("m", MESSAGES))

    record = program.record()
    assert record.error is not None
    assert (record.outcome.value, record.error.type, record.selected_route) == (
        "rejected",
        "litellm.router.RouterError",
        None,
    )


def _leave(stream: Any) -> Coroutine[Any, Any, None]:
    async def leave() -> None:
        await stream.aclose()

    return leave()


def _forget(_: Any) -> Coroutine[Any, Any, None]:
    return asyncio.sleep(0)


@pytest.mark.parametrize(
    ("end", "outcome"), [(_leave, "client_disconnect"), (_forget, "abandoned")]
)
def test_rest_is_not_read(
    program: Program, end: Callable[[Any], Coroutine[Any, Any, None]], outcome: str
) -> None:
    """A stream that the program closes or drops ends once, and gives back its load."""
    engine = program.add_engine("engine", time_scale=1.0)
    router = program.router(engine.url)

    async def main() -> None:
        # More than there is time for: what has come is read at once.
        stream = await router.acompletion("m", MESSAGES, **{**ASKED, "max_tokens": 4_000})
        async for _ in stream:
            break
        await end(stream)
        response = stream.response
        del stream
        gc.collect()
        await response.aclose()

    asyncio.run(main())

    assert plain(program.record()) == streamed(
        engine.url, **{**CUT, **disconnected(), "outcome": outcome}
    )


def test_cancelled(program: Program) -> None:
    """A task cancelled while the engine hangs is a disconnect before the first chunk."""
    engine = program.add_engine("engine")
    program.cluster.break_engine("engine", "hang")
    router = program.router(engine.url)
    tracker = program.adapter.tracker
    assert tracker is not None

    async def main() -> None:
        task = asyncio.create_task(router.acompletion("m", MESSAGES, **ASKED))
        while not tracker.store.active_requests:
            await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())

    record = program.record()
    assert (record.outcome.value, record.first_chunk_at) == ("client_disconnect", None)


def test_program_replaces_the_callbacks(program: Program) -> None:
    """A program may set its own callbacks; ours is added again."""
    engine = program.add_engine("engine")
    router = program.router(engine.url)
    own = program.litellm.integrations.custom_logger.CustomLogger()
    program.litellm.callbacks = [own]
    for _ in range(2):
        asyncio.run(router.acompletion("m", MESSAGES, max_tokens=8))

    assert [record.candidates for record in program.records(2)] == [1, 1]
    assert program.litellm.callbacks[0] is own
    assert len(program.litellm.callbacks) == 2


def test_uninstrumented(program: Program) -> None:
    """Neither callback nor wrappers remain, and calls work."""
    engine = program.add_engine("engine")
    router = program.router(engine.url)
    program.adapter.uninstrument()

    assert program.litellm.callbacks == []
    assert not hasattr(program.litellm.Router.acompletion, "__wrapped__")
    assert asyncio.run(router.acompletion("m", MESSAGES, max_tokens=8))["usage"]
    assert program.telemetry.spans == []


def test_moved_hooks(
    program: Program, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A version without a hook causes one warning, and everything else works."""
    logger = program.litellm.integrations.custom_logger.CustomLogger
    monkeypatch.delattr(logger, "async_filter_deployments")
    engine = program.add_engine("engine")
    with caplog.at_level(logging.WARNING, "otel_lifecycle"):
        router = program.router(engine.url)
        router.completion("m", MESSAGES, max_tokens=8)

    assert program.record().output_length == 8
    assert [record.message for record in caplog.records] == [
        "litellm.integrations.custom_logger.CustomLogger.async_filter_deployments does not exist: "
        "candidates stay unknown"
    ]
