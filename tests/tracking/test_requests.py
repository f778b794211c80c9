"""Every course of a request: its complete span, its complete record, and its load."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased

from otel_lifecycle import (
    EndpointEvent,
    EndpointEventType,
    FinishReason,
    LatencyPrediction,
    Load,
    RequestCompletion,
    RequestStart,
    Route,
)
from otel_lifecycle.model import MissingReason
from otel_lifecycle.model.features import MissingFeature
from tests.conftest import Bench
from tests.matchers import SAMPLED_OUT
from tests.routes import NOW, aggregated, bare, disaggregated, endpoint, known, start
from tests.tracking.expected import (
    FIRST_CHUNK,
    REQUEST_ATTRIBUTES,
    STREAMED_ATTRIBUTES,
    STREAMED_RECORD,
    answer,
    completion,
    identity_attributes,
    known_attributes,
    latency,
    load_attributes,
    prediction_input,
    record,
    result_attributes,
    selected_attributes,
    snapshot,
    span,
    timestamp,
)

AGGREGATED_ATTRIBUTES = {
    **REQUEST_ATTRIBUTES,
    "llm_router.route.type": "aggregated",
    **selected_attributes("qwen-0"),
    **known_attributes("leader", "qwen-0"),
}


def lines(bench: Bench) -> list[dict[str, Any]]:
    """The lines of the record file."""
    assert bench.tracker.flush(timeout=30)
    return [json.loads(line) for line in bench.path.read_text("utf-8").splitlines()]


def after(bench: Bench, milliseconds: float, error: Exception) -> Exception:
    """Raise an error after some time."""
    bench.clock.advance(milliseconds)
    return error


def assert_idle(bench: Bench) -> None:
    """Assert that nothing is in flight, also in the gauges."""
    assert bench.tracker.store.active_requests == 0
    assert set(bench.tracker.store.loads().values()) <= {Load()}
    metrics = bench.telemetry.metrics()
    for name in ("llm_router.inflight.requests", "llm_router.inflight.tokens"):
        assert set(metrics.get(name, {}).values()) <= {0}


def test_aggregated(bench: Bench) -> None:
    """A stream to one endpoint adds to its load until the end."""
    tracker = bench.tracker

    with tracker.track(start()) as tracked:
        assert tracker.load(endpoint("qwen-0")) == Load(tokens=512, requests=1)
        bench.clock.advance(250)
        tracked.chunk()
        bench.clock.advance(1_000)
        tracked.chunk()
        assert tracker.load(endpoint("qwen-0")) == Load(tokens=512, requests=1)
        bench.clock.advance(1_540)
        tracked.complete(output_tokens=128, cached_tokens=200)

    assert bench.spans == [
        span(
            {**AGGREGATED_ATTRIBUTES, **STREAMED_ATTRIBUTES},
            [FIRST_CHUNK, completion("completed", **{"gen_ai.usage.output_tokens": 128})],
            [0, 250, 2790, 2790],
        )
    ]
    assert lines(bench) == [record(**STREAMED_RECORD)]
    assert_idle(bench)


def test_prefill_decode(bench: Bench) -> None:
    """A PD request adds to the prefill's load until its first chunk, to the decode's to its end.

    The leader is only identified.
    """
    tracker = bench.tracker

    with tracker.track(start(route=disaggregated())) as tracked:
        assert tracker.store.loads() == {
            "pod://llm/prefill-0": Load(512, 1),
            "pod://llm/decode-0": Load(512, 1),
        }
        bench.clock.advance(250)
        tracked.chunk()
        assert tracker.store.loads() == {
            "pod://llm/prefill-0": Load(),
            "pod://llm/decode-0": Load(512, 1),
        }
        bench.clock.advance(2_540)
        tracked.complete(output_tokens=128, cached_tokens=200, served_endpoint=endpoint("leader-0"))

    assert bench.spans == [
        span(
            {
                **REQUEST_ATTRIBUTES,
                "llm_router.route.type": "prefill_decode",
                **selected_attributes("leader-0"),
                **identity_attributes("leader", "leader-0"),
                **known_attributes("prefill", "prefill-0"),
                **known_attributes("decode", "decode-0"),
                **STREAMED_ATTRIBUTES,
            },
            [
                FIRST_CHUNK,
                completion(
                    "completed",
                    **{
                        "gen_ai.usage.output_tokens": 128,
                        "llm_router.route.served.id": "pod://llm/leader-0",
                    },
                ),
            ],
            [0, 250, 2790, 2790],
        )
    ]
    assert lines(bench) == [
        record(
            **STREAMED_RECORD,
            selectedEndpoint="pod://llm/leader-0",
            servedEndpoint="pod://llm/leader-0",
            trackedEndpoints=["pod://llm/prefill-0", "pod://llm/decode-0"],
            predictionInputs=[
                prediction_input("prefill", "prefill-0"),
                prediction_input("decode", "decode-0"),
            ],
            selectedRoute={
                "leader": {
                    "id": "pod://llm/leader-0",
                    "address": "leader-0.local",
                    "port": "8000",
                },
                "prefill": snapshot("prefill-0"),
                "decode": snapshot("decode-0"),
            },
        )
    ]
    assert_idle(bench)


def test_prefill_is_decode(bench: Bench) -> None:
    """One endpoint for prefill and decode is counted once, until the end."""
    route = Route(bare("leader-0"), bare("both-0"), bare("both-0"))

    with bench.tracker.track(start(route=route)) as tracked:
        tracked.chunk()
        assert bench.tracker.store.loads() == {"pod://llm/both-0": Load(512, 1)}
        tracked.complete()

    assert bench.records[0].tracked_endpoints == ["pod://llm/both-0"]
    assert bench.spans[0]["attributes"]["llm_router.route.shared"] is True
    assert_idle(bench)


@pytest.mark.parametrize(
    ("release", "after_first_chunk"),
    [
        ("prefill", {"pod://llm/prefill-0": Load(), "pod://llm/decode-0": Load(512, 1)}),
        ("all", {"pod://llm/prefill-0": Load(), "pod://llm/decode-0": Load()}),
        ("none", {"pod://llm/prefill-0": Load(512, 1), "pod://llm/decode-0": Load(512, 1)}),
    ],
)
def test_release_on_first_chunk(
    make_bench: Callable[..., Bench], release: str, after_first_chunk: dict[str, Load]
) -> None:
    """A setting decides which load the first chunk releases; the end releases the rest."""
    bench = make_bench(release_on_first_chunk=release)

    with bench.tracker.track(start(route=disaggregated())) as tracked:
        tracked.chunk()
        assert bench.tracker.store.loads() == after_first_chunk
        tracked.complete()

    assert_idle(bench)


@pytest.mark.parametrize(
    ("output_tokens", "tpot_ms"),
    [(None, None), (0, None), (1, None), (2, 2540.0), (3, 1270.0), (128, 20.0)],
)
def test_time_per_output_token(
    bench: Bench, output_tokens: int | None, tpot_ms: float | None
) -> None:
    """The tokens after the first share the time after the first; below two there is none."""
    answer(bench, bench.tracker.track(start()), output_tokens=output_tokens)

    assert [finished["actual"] for finished in lines(bench)] == [
        latency(2790.0, ttftMillis=250.0, tpotMillis=tpot_ms)
    ]
    attributes = bench.spans[0]["attributes"]
    assert attributes.get("llm_router.response.time_per_output_token") == (
        None if tpot_ms is None else tpot_ms / 1000
    )


@pytest.mark.parametrize(("ttft_ms", "ratio"), [(0.0, None), (0.5, -3.0), (1.0, -1.0), (4.0, 0.5)])
def test_prediction_error_of_fast_answers(
    bench: Bench, ttft_ms: float, ratio: float | None
) -> None:
    """The ratio is to the measured value, however small; to 0 there is none."""
    request = RequestStart("request-1", aggregated(), prediction=LatencyPrediction(ttft_ms=2.0))

    tracked = bench.tracker.track(request)
    bench.clock.advance(ttft_ms)
    tracked.chunk()
    tracked.complete()

    assert [finished["predictionError"] for finished in lines(bench)] == [
        {
            "ttftMillis": ttft_ms - 2.0,
            "tpotMillis": None,
            "ttftRatio": ratio,
            "tpotRatio": None,
        }
    ]


def test_not_streaming(bench: Bench) -> None:
    """A response that is not a stream has no first chunk and no TTFT, whatever is called."""
    request = RequestStart("request-1", aggregated(), "Qwen/Qwen3-8B", streaming=False)

    with bench.tracker.track(request) as tracked:
        bench.clock.advance(250)
        tracked.chunk()
        bench.clock.advance(2_540)
        tracked.complete(output_tokens=128)

    assert bench.spans[0]["events"] == [
        completion("completed", **{"gen_ai.usage.output_tokens": 128})
    ]
    finished = lines(bench)[0]
    assert (finished["streaming"], finished["firstChunkAt"], finished["actual"]) == (
        False,
        None,
        latency(2790.0),
    )


def test_error_before_the_first_chunk(bench: Bench) -> None:
    """An exception leaves the block unchanged, and only its type is recorded."""
    error = TimeoutError("secret")

    with pytest.raises(TimeoutError) as raised, bench.tracker.track(start()):
        raise after(bench, 3_000, error)

    assert raised.value is error
    assert bench.spans == [
        span(
            {
                **AGGREGATED_ATTRIBUTES,
                **result_attributes("error", 3.0),
                "error.type": "TimeoutError",
            },
            [completion("error")],
            [0, 3_000, 3_000],
            status="ERROR",
        )
    ]
    assert lines(bench) == [record(3000.0, outcome="error", error={"type": "TimeoutError"})]
    assert_idle(bench)


def test_error_after_the_first_chunk(bench: Bench) -> None:
    """A stream that breaks has a TTFT, but no TPOT and no prediction error of it."""
    with bench.tracker.track(start()) as tracked:
        bench.clock.advance(100)
        tracked.chunk()
        bench.clock.advance(400)
        tracked.fail("stream_truncated")

    assert bench.spans == [
        span(
            {
                **AGGREGATED_ATTRIBUTES,
                "gen_ai.response.time_to_first_chunk": 0.1,
                "llm_router.prediction.time_to_first_token.error": -0.11,
                **result_attributes("error", 0.5),
                "error.type": "stream_truncated",
            },
            [FIRST_CHUNK, completion("error")],
            [0, 100, 500, 500],
            status="ERROR",
        )
    ]
    assert lines(bench) == [
        record(
            500.0,
            outcome="error",
            error={"type": "stream_truncated"},
            firstChunkAt=timestamp(100),
            actual=latency(500.0, ttftMillis=100.0),
            predictionError={
                "ttftMillis": -110.0,
                "tpotMillis": None,
                "ttftRatio": -1.1,
                "tpotRatio": None,
            },
        )
    ]
    assert_idle(bench)


@pytest.mark.parametrize("chunks", [0, 1])
def test_client_disconnect(bench: Bench, chunks: int) -> None:
    """A cancelled task is a disconnect, not an error; before any chunk there is no TTFT."""

    async def serve() -> None:
        async with bench.tracker.track(start()) as tracked:
            bench.clock.advance(100)
            for _ in range(chunks):
                tracked.chunk()
            bench.clock.advance(400)
            await asyncio.sleep(60)

    async def main() -> None:
        task = asyncio.create_task(serve())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())

    streamed = (
        {
            "gen_ai.response.time_to_first_chunk": 0.1,
            "llm_router.prediction.time_to_first_token.error": -0.11,
        }
        if chunks
        else {}
    )
    assert bench.spans == [
        span(
            {**AGGREGATED_ATTRIBUTES, **streamed, **result_attributes("client_disconnect", 0.5)},
            [*[FIRST_CHUNK][:chunks], completion("client_disconnect")],
            [0, *[100][:chunks], 500, 500],
        )
    ]
    finished = lines(bench)[0]
    assert (finished["outcome"], finished["error"]) == ("client_disconnect", None)
    assert finished["firstChunkAt"] == (timestamp(100) if chunks else None)
    assert_idle(bench)


def test_reroute(bench: Bench) -> None:
    """A retry moves load, route and attempt to the new endpoint, on the same span."""
    tracker = bench.tracker

    with tracker.track(start(route=disaggregated())) as tracked:
        bench.clock.advance(100)
        tracked.reroute(
            aggregated(),
            reason="connect_error",
            prefix_cache_score=0.42,
            prediction=LatencyPrediction(210.0, 18.5),
        )
        assert tracker.store.loads() == {
            "pod://llm/prefill-0": Load(),
            "pod://llm/decode-0": Load(),
            "pod://llm/qwen-0": Load(512, 1),
        }
        bench.clock.advance(150)
        tracked.chunk()
        bench.clock.advance(2_540)
        tracked.complete(output_tokens=128, cached_tokens=200)

    rerouted = {
        "llm_router.route.from.id": "pod://llm/prefill-0+pod://llm/decode-0",
        "llm_router.route.to.id": "pod://llm/qwen-0",
        "llm_router.route.reason": "connect_error",
    }
    assert bench.spans == [
        span(
            {
                **AGGREGATED_ATTRIBUTES,
                "llm_router.route.leader.metrics.age": 0.6,
                "llm_router.route.leader.npu.age": 0.6,
                "llm_router.route.attempt": 2,
                **STREAMED_ATTRIBUTES,
            },
            [
                ("llm_router.rerouted", rerouted),
                FIRST_CHUNK,
                completion("completed", **{"gen_ai.usage.output_tokens": 128}),
            ],
            [0, 100, 250, 2790, 2790],
        )
    ]
    assert lines(bench) == [
        record(
            **STREAMED_RECORD,
            attempt=2,
            rerouted=[
                {
                    "at": timestamp(100),
                    "from": "pod://llm/prefill-0+pod://llm/decode-0",
                    "to": "pod://llm/qwen-0",
                    "reason": "connect_error",
                }
            ],
        )
    ]
    assert_idle(bench)


def test_rerouted_again_and_again(bench: Bench) -> None:
    """A router that retries for minutes does not make an endless record."""
    with bench.tracker.track(start(route=aggregated("qwen-0"))) as tracked:
        for number in range(1_000):
            tracked.first_byte()
            bench.clock.advance(1)
            tracked.reroute(aggregated("qwen-0"), reason=f"attempt {number}")
        tracked.first_byte()
        tracked.complete()

    (record,) = bench.records
    assert [change.reason for change in record.rerouted] == [
        f"attempt {number}" for number in range(936, 1_000)
    ]
    assert record.attempt == 1_001
    assert record.first_byte_at == record.completed_at  # of the last route


def test_duplicate_id(bench: Bench) -> None:
    """A second start of an id supersedes the first request, whose handle is then stale."""
    tracker = bench.tracker
    first = tracker.track(start())
    bench.clock.advance(1_000)
    second = tracker.track(start())

    first.chunk()
    first.complete(output_tokens=1)
    assert tracker.load(endpoint("qwen-0")) == Load(512, 1)
    bench.clock.advance(2_000)
    second.complete(output_tokens=128, cached_tokens=200)

    known_since = {"startedAt": timestamp(1_000), "completedAt": timestamp(3_000)}
    assert lines(bench) == [
        record(1000.0, outcome="superseded"),
        record(2000.0, outputLength=128, cachedTokens=200, **known_since),
    ]
    assert [found["attributes"]["llm_router.outcome"] for found in bench.spans] == [
        "superseded",
        "completed",
    ]
    assert tracker.store.ignored == {"duplicate_start": 1, "already_finished": 1}
    assert_idle(bench)


def test_endpoint_deleted_in_flight_and_added_again(bench: Bench) -> None:
    """A delete drops the counter, a re-added endpoint starts at 0, no load is negative."""
    tracker = bench.tracker
    decode = endpoint("decode-0")

    with tracker.track(start(route=disaggregated())) as tracked:
        tracker.extract_endpoint(EndpointEvent(EndpointEventType.DELETE, decode))
        assert "pod://llm/decode-0" not in tracker.store.loads()
        tracker.extract_endpoint(EndpointEvent(EndpointEventType.ADD_OR_UPDATE, decode))
        assert tracker.load(decode) == Load()
        tracked.chunk()
        tracked.complete()

    assert tracker.load(decode) == Load()
    finished = lines(bench)[0]
    assert (finished["outcome"], finished["endpointDeleted"]) == ("completed", ["decode"])
    assert bench.spans[0]["attributes"]["llm_router.route.deleted_roles"] == ["decode"]
    assert_idle(bench)


def test_nothing_known(bench: Bench) -> None:
    """Unknown values are null, with a reason, and never 0."""
    request = RequestStart("request-1", Route(bare("qwen-0")))

    with bench.tracker.track(request) as tracked:
        bench.clock.advance(250)
        tracked.chunk()
        bench.clock.advance(2_540)
        tracked.complete()

    missing = {
        "inputTokenLength": "input_tokens_missing",
        "prefixCacheScore": "prefix_cache_missing",
        "numRequestWaiting": "metrics_missing",
        "numRequestRunning": "metrics_missing",
        "kvCacheUsage": "metrics_missing",
        "hbmUtilization": "npu_missing",
        "aiCoreUtilization": "npu_missing",
        "bandwidthUtilization": "npu_missing",
    }
    assert bench.spans == [
        span(
            {
                "llm_router.request.id": "request-1",
                "gen_ai.request.stream": True,
                "llm_router.route.type": "aggregated",
                "llm_router.route.attempt": 1,
                "llm_router.dispatch.inflight.requests": 0,
                "llm_router.dispatch.inflight.tokens": 0,
                **selected_attributes("qwen-0"),
                **identity_attributes("leader", "qwen-0"),
                **load_attributes("leader"),
                "llm_router.prediction.missing_features": list(missing),
                "llm_router.prediction.missing_reasons": list(missing.values()),
                "gen_ai.response.time_to_first_chunk": 0.25,
                **result_attributes("completed", 2.79),
            },
            [FIRST_CHUNK, completion("completed")],
            [0, 250, 2790, 2790],
            name="route",
        )
    ]
    unknown = dict.fromkeys(missing)
    assert lines(bench) == [
        record(
            2790.0,
            model="",
            operation="",
            provider="",
            firstChunkAt=timestamp(250),
            inputTokenLength=None,
            inputTokenSource="unknown",
            candidates=None,
            policy="",
            prefixCacheScore=None,
            prediction={"ttftMillis": None, "tpotMillis": None},
            predictionMode="",
            predictionInputs=[prediction_input("", "qwen-0", **unknown)],
            missingFeatureReasons=[
                {"podType": "", "feature": feature, "reason": reason}
                for feature, reason in missing.items()
            ],
            selectedRoute={
                "leader": {
                    "id": "pod://llm/qwen-0",
                    "address": "qwen-0.local",
                    "port": "8000",
                    "inflight": {"tokens": 0, "requests": 0},
                    "prefillTokens": 0,
                }
            },
            actual=latency(2790.0, ttftMillis=250.0),
        )
    ]


def test_sampled_out(make_bench: Callable[..., Bench]) -> None:
    """An unsampled request is not exported, but its record is complete."""
    bench = make_bench(ParentBased(ALWAYS_OFF))

    answer(bench, bench.tracker.track(start()))

    assert bench.spans == []
    assert lines(bench) == [record(**STREAMED_RECORD, traceFlags=SAMPLED_OUT)]
    metrics = bench.telemetry.metrics()
    assert sum(metrics["llm_router.requests"].values()) == 1


def test_served_elsewhere(bench: Bench) -> None:
    """The serving endpoint is recorded if it differs from the selected one."""
    with bench.tracker.track(start()) as tracked:
        tracked.complete(served_endpoint=endpoint("qwen-1"))

    finished = lines(bench)[0]
    assert (finished["selectedEndpoint"], finished["servedEndpoint"]) == (
        "pod://llm/qwen-0",
        "pod://llm/qwen-1",
    )
    assert bench.spans[0]["attributes"]["llm_router.route.served.id"] == "pod://llm/qwen-1"
    assert_idle(bench)


@pytest.mark.parametrize(
    ("given", "reason", "word", "invalid"),
    [
        ("length", "length", "length", 0),
        ("end_turn", "stop", "end_turn", 0),
        ("SAFETY", "content_filter", "SAFETY", 0),
        (FinishReason.ABORT, "abort", "abort", 0),
        ("a word of its own", "other", "a word of its own", 0),
        ("", None, None, 0),
        ("x" * 600, "other", "x" * 512, 1),
        (42.5, None, None, 1),
        (b"stop", "stop", "stop", 1),
    ],
    ids=[
        "known",
        "dialect",
        "capitals",
        "enum",
        "unknown",
        "empty",
        "too long",
        "no text",
        "bytes",
    ],
)
def test_finish_reason(
    bench: Bench, given: Any, reason: str | None, word: str | None, invalid: int
) -> None:
    """The finish reason is one of a few, with the engine's own word as bounded text beside it."""
    bench.tracker.track(start()).complete(output_tokens=128, finish_reason=given)

    (line,) = lines(bench)
    (whole,) = bench.spans
    assert line == record(outputLength=128, finishReason=reason, engineFinishReason=word)
    assert whole["attributes"].get("llm_router.finish_reason") == reason
    assert whole["attributes"].get("llm_router.engine.finish_reason") == word
    assert bench.tracker.store.ignored["invalid_value"] == invalid


@pytest.mark.parametrize(
    ("word", "reason"), [("STOP", "tool_calls"), ("MAX_TOKENS", "length"), (None, None)]
)
def test_tool_calls(bench: Bench, word: str | None, reason: str | None) -> None:
    """An answer that stops for tools says so, in dialects that have no word for that."""
    completion = RequestCompletion(output_tokens=128, finish_reason=word, calls_tools=True)
    bench.tracker.track(start()).end(completion)

    (line,) = lines(bench)
    assert line == record(outputLength=128, finishReason=reason, engineFinishReason=word)


@pytest.mark.parametrize("asked_for", [True, False])
def test_first_byte(make_bench: Callable[..., Bench], asked_for: bool) -> None:
    """The first byte is in the record, and on the span if the settings ask for it."""
    bench = make_bench(first_byte_attribute=asked_for)

    with bench.tracker.track(start()) as tracked:
        bench.clock.advance(125)
        tracked.first_byte()
        bench.clock.advance(125)
        tracked.first_byte()
        tracked.chunk()
        bench.clock.advance(2_540)
        tracked.complete(output_tokens=128, cached_tokens=200)

    (whole,) = bench.spans
    attributes = {"llm_router.response.time_to_first_byte": 0.125} if asked_for else {}
    assert whole["attributes"] == {**AGGREGATED_ATTRIBUTES, **STREAMED_ATTRIBUTES, **attributes}
    assert lines(bench) == [record(**STREAMED_RECORD, firstByteAt=timestamp(125))]


@pytest.mark.parametrize("told_again", [True, False])
def test_first_byte_of_the_last_route(bench: Bench, told_again: bool) -> None:
    """A reroute discards the earlier first byte; extending the route does not."""
    with bench.tracker.track(start()) as tracked:
        bench.clock.advance(125)
        tracked.first_byte()
        tracked.reroute(aggregated("qwen-1"), reason="http_503")
        bench.clock.advance(125)
        if told_again:
            tracked.first_byte()
        tracked.extend(aggregated("qwen-2"))
        tracked.complete()

    (line,) = lines(bench)
    assert line["firstByteAt"] == (timestamp(250) if told_again else None)


def test_dispatch_load_excludes_the_request(bench: Bench) -> None:
    """A request's snapshot excludes its own load and includes earlier ones."""
    first = bench.tracker.track(start("request-1"))
    second = bench.tracker.track(start("request-2"))
    first.complete()
    second.complete()

    assert [
        (finished["dispatchInflight"], finished["predictionInputs"][0]["inflightTokens"])
        for finished in lines(bench)
    ] == [({"tokens": 0, "requests": 0}, 0), ({"tokens": 512, "requests": 1}, 512)]


def test_spans_of_one_endpoint_have_their_own_load(bench: Bench) -> None:
    """Requests that share an endpoint's state do not share its load at their dispatch."""
    route = aggregated()
    handles = [bench.tracker.track(start(f"request-{n}", route)) for n in range(3)]
    for handle in handles:
        handle.complete()

    loads = [
        span["attributes"]["llm_router.route.leader.inflight.requests"] for span in bench.spans
    ]
    assert loads == [0, 1, 2]


def test_ranks_of_one_pod(bench: Bench) -> None:
    """Data-parallel ranks share the pod's id and never a counter."""
    ranks = [endpoint("qwen-0", name=f"qwen-0-rank-{rank}") for rank in range(2)]
    route = Route(known("qwen-0").__class__(ranks[0]))

    with bench.tracker.track(start(route=route)) as tracked:
        assert [bench.tracker.load(rank).requests for rank in ranks] == [1, 0]
        assert bench.tracker.store.loads() == {
            "pod://llm/qwen-0#qwen-0-rank-0": Load(512, 1),
        }
        tracked.complete()

    assert lines(bench)[0]["selectedEndpoint"] == "pod://llm/qwen-0"
    assert_idle(bench)


def test_prefix_cache_hit_rate(bench: Bench) -> None:
    """The hit rate of the engine's prefix cache is in the record and on the span."""
    route = aggregated()
    assert route.leader.metrics is not None
    metrics = msgspec.structs.replace(route.leader.metrics, prefix_cache_hit_rate=0.62)
    route = Route(msgspec.structs.replace(route.leader, metrics=metrics))
    bench.tracker.track(start(route=route)).complete()

    (line,), (span,) = lines(bench), bench.spans
    assert line["selectedRoute"]["leader"]["metrics"]["prefixCacheHitRate"] == 0.62
    assert span["attributes"]["llm_router.route.leader.prefix_cache.hit_rate"] == 0.62


def test_old_npu_state(bench: Bench) -> None:
    """An NPU state older than metrics may be is not used, whatever its status."""
    route = aggregated()
    old = NOW - timedelta(minutes=1)
    assert route.leader.npu is not None
    npu = msgspec.structs.replace(route.leader.npu, observation_time=old)
    route = Route(msgspec.structs.replace(route.leader, npu=npu))
    bench.tracker.track(start(route=route)).complete()

    (record,) = bench.records
    assert record.missing_feature_reasons == [
        MissingFeature("", feature, MissingReason.NPU_STALE)
        for feature in ("hbmUtilization", "aiCoreUtilization", "bandwidthUtilization")
    ]
    (features,) = record.prediction_inputs
    assert (features.hbm_utilization, features.kv_cache_usage) == (None, 0.31)


@pytest.mark.parametrize(
    ("source", "length"), [("tokenized", 512), ("estimated", 700), (None, 700)]
)
def test_reported_length(bench: Bench, source: str | None, length: int) -> None:
    """The engine's count of the prompt replaces an estimate, but not in the load."""
    request = RequestStart(
        "request-1",
        aggregated(),
        input_tokens=512 if source else None,
        input_token_source=source,
        prefix_cache_score=0.5,
    )
    bench.tracker.track(request).complete(input_tokens=700)

    (finished,) = lines(bench)
    assert finished["inputTokenLength"] == length
    assert finished["predictionInputs"][0]["inputTokenLength"] == length
    assert finished["missingFeatureReasons"] == []
    assert finished["inputTokenSource"] == ("tokenized" if length == 512 else "reported")


def test_reroute_after_the_first_chunk(bench: Bench) -> None:
    """A request rerouted after its first chunk adds no prefill load."""
    again = Route(bare("leader-0"), bare("prefill-1"), bare("decode-1"))
    with bench.tracker.track(start(route=disaggregated())) as tracked:
        tracked.chunk()
        tracked.reroute(again, reason="connection_lost")
        assert bench.tracker.load(endpoint("prefill-1")) == Load()
        assert bench.tracker.load(endpoint("decode-1")) == Load(512, 1)
        tracked.complete()

    assert_idle(bench)


def test_reroute_after_the_first_chunk_to_one_endpoint(bench: Bench) -> None:
    """If one endpoint does both, it carries the load of the decode."""
    both = Route(bare("leader-0"), bare("both-0"), bare("both-0"))
    with bench.tracker.track(start(route=disaggregated())) as tracked:
        tracked.chunk()
        tracked.reroute(both, reason="connection_lost")
        assert bench.tracker.load(endpoint("both-0")) == Load(512, 1)
        tracked.complete()

    assert_idle(bench)
