"""The span attributes and record parts of the requests in `tests.routes`."""

from __future__ import annotations

from typing import Any

from otel_lifecycle import TrackedRequest
from otel_lifecycle.model.timestamps import format_timestamp
from tests.conftest import Bench
from tests.matchers import SAMPLED, SPAN_ID, TRACE_ID
from tests.routes import NOW_NS

# A stream of 128 tokens, as `answer` times it.
TTFT_MS = 250.0
E2E_MS = 2790.0


def answer(bench: Bench, tracked: TrackedRequest, **usage: Any) -> None:
    """Stream the engine's whole answer: 250 ms to the first chunk, then 20 ms per token."""
    bench.clock.advance(TTFT_MS)
    tracked.chunk()
    bench.clock.advance(E2E_MS - TTFT_MS)
    tracked.complete(**{"output_tokens": 128, "cached_tokens": 200, **usage})


def timestamp(milliseconds: float) -> str:
    """Return the record's text for a time after a bench's clock began."""
    return format_timestamp(NOW_NS + round(milliseconds * 1e6))


REQUEST_ATTRIBUTES = {
    "llm_router.request.id": "request-1",
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "vllm",
    "gen_ai.request.model": "Qwen/Qwen3-8B",
    "gen_ai.request.stream": True,
    "llm_router.request.input_tokens.source": "tokenized",
    "gen_ai.usage.input_tokens": 512,
    "llm_router.route.candidates.count": 8,
    "llm_router.route.policy": "prefix+load",
    "llm_router.route.attempt": 1,
    "llm_router.dispatch.inflight.requests": 0,
    "llm_router.dispatch.inflight.tokens": 0,
    "llm_router.prefix_cache.score": 0.42,
    "llm_router.prediction.mode": "active",
    "llm_router.prediction.time_to_first_token": 0.21,
    "llm_router.prediction.time_per_output_token": 0.0185,
}


def selected_attributes(pod: str) -> dict[str, Any]:
    """Attributes of the selected endpoint."""
    return {
        "server.address": f"{pod}.local",
        "server.port": 8000,
        "k8s.namespace.name": "llm",
        "k8s.pod.name": pod,
    }


def identity_attributes(role: str, pod: str) -> dict[str, Any]:
    """Attributes that identify an endpoint of the route."""
    prefix = f"llm_router.route.{role}"
    return {
        f"{prefix}.id": f"pod://llm/{pod}",
        f"{prefix}.address": f"{pod}.local",
        f"{prefix}.port": "8000",
    }


def load_attributes(
    role: str, requests: int = 0, tokens: int = 0, prefill: int = 0
) -> dict[str, Any]:
    """Attributes of the load of an endpoint."""
    prefix = f"llm_router.route.{role}"
    return {
        f"{prefix}.inflight.requests": requests,
        f"{prefix}.inflight.tokens": tokens,
        f"{prefix}.prefill.tokens": prefill,
    }


def known_attributes(role: str, pod: str) -> dict[str, Any]:
    """All attributes of an endpoint with all values known."""
    prefix = f"llm_router.route.{role}"
    return {
        **identity_attributes(role, pod),
        **load_attributes(role),
        f"{prefix}.request.running": 3,
        f"{prefix}.request.waiting": 1,
        f"{prefix}.kv_cache.utilization": 0.31,
        f"{prefix}.kv_cache.capacity": 524288,
        f"{prefix}.kv_cache.block_size": 128,
        f"{prefix}.kv_cache.block_count": 4096,
        f"{prefix}.lora.max": 4,
        f"{prefix}.lora.active.models": ["lora-a"],
        f"{prefix}.lora.active.counts": [2],
        f"{prefix}.lora.waiting.models": ["lora-b"],
        f"{prefix}.lora.waiting.counts": [1],
        f"{prefix}.metrics.age": 0.5,
        f"{prefix}.npu.status": "fresh",
        f"{prefix}.npu.count": 2,
        f"{prefix}.npu.age": 0.5,
        f"{prefix}.npu.core.utilization.avg": 0.6,
        f"{prefix}.npu.core.utilization.max": 0.63,
        f"{prefix}.npu.memory.utilization.avg": 0.705,
        f"{prefix}.npu.memory.utilization.max": 0.71,
        f"{prefix}.npu.memory_bandwidth.utilization.avg": 0.39,
        f"{prefix}.npu.memory_bandwidth.utilization.max": 0.4,
    }


def result_attributes(outcome: str, duration: float) -> dict[str, Any]:
    """Attributes of the end of a request without a first chunk; seconds."""
    return {"llm_router.outcome": outcome, "llm_router.request.duration": duration}


# Attributes that `answer` adds.
STREAMED_ATTRIBUTES = {
    "gen_ai.usage.output_tokens": 128,
    "gen_ai.usage.cache_read.input_tokens": 200,
    "gen_ai.response.time_to_first_chunk": 0.25,
    "llm_router.response.time_per_output_token": 0.02,
    "llm_router.prediction.time_to_first_token.error": 0.04,
    "llm_router.prediction.time_per_output_token.error": 0.0015,
    **result_attributes("completed", 2.79),
}
FIRST_CHUNK = ("llm_router.first_chunk", {})


def completion(outcome: str, **attributes: Any) -> tuple[str, dict[str, Any]]:
    """The completion event."""
    return ("llm_router.completion", {"llm_router.outcome": outcome, **attributes})


def span(
    attributes: dict[str, Any],
    events: list[tuple[str, dict[str, Any]]],
    at: list[float],
    *,
    name: str = "route Qwen/Qwen3-8B",
    status: str = "UNSET",
    kind: str = "SERVER",
) -> dict[str, Any]:
    """A complete span, with the milliseconds of its start, events and end."""
    return {
        "name": name,
        "kind": kind,
        "status": status,
        "attributes": attributes,
        "events": events,
        "at": at,
    }


def snapshot(pod: str) -> dict[str, Any]:
    """The complete snapshot of an endpoint in a record."""
    return {
        "id": f"pod://llm/{pod}",
        "address": f"{pod}.local",
        "port": "8000",
        "metrics": {
            "runningRequestsSize": 3,
            "waitingQueueSize": 1,
            "kvCacheUsagePercent": 0.31,
            "kvCacheMaxTokenCapacity": 524288,
            "cacheBlockSize": 128,
            "cacheNumBlocks": 4096,
            "activeModels": {"lora-a": 2},
            "waitingModels": {"lora-b": 1},
            "maxActiveModels": 4,
            "prefixCacheHitRate": None,
            "updateTime": "2023-11-14T22:13:19.500000Z",
        },
        "inflight": {"tokens": 0, "requests": 0},
        "prefillTokens": 0,
        "npu": {
            "observationTime": "2023-11-14T22:13:19.500000Z",
            "dataStatus": "fresh",
            "deviceCount": 2,
            "aiCoreUtilizationAvg": 60.0,
            "aiCoreUtilizationMax": 63.0,
            "hbmUtilizationAvg": 70.5,
            "hbmUtilizationMax": 71.0,
            "hbmBandwidthUtilizationAvg": 39.0,
            "hbmBandwidthUtilizationMax": 40.0,
            "devices": [
                {
                    "target": f"{pod}.local:8082",
                    "deviceId": "0",
                    "aiCoreUtilization": 57.0,
                    "hbmUtilization": 70.0,
                    "hbmBandwidthUtilization": 38.0,
                },
                {
                    "target": f"{pod}.local:8082",
                    "deviceId": "1",
                    "aiCoreUtilization": 63.0,
                    "hbmUtilization": 71.0,
                    "hbmBandwidthUtilization": 40.0,
                },
            ],
        },
    }


def prediction_input(pod_type: str, pod: str, **changes: Any) -> dict[str, Any]:
    """The features of an endpoint with all values known."""
    return {
        "podType": pod_type,
        "inputTokenLength": 512,
        "prefixCacheScore": 0.42,
        "numRequestWaiting": 1,
        "numRequestRunning": 3,
        "kvCacheUsage": 0.31,
        "inflightTokens": 0,
        "hbmUtilization": 70.5,
        "aiCoreUtilization": 60.0,
        "bandwidthUtilization": 39.0,
        "serverIp": f"{pod}.local",
        "prefillTokens": 0,
        **changes,
    }


def latency(e2e_ms: Any, **known: Any) -> dict[str, Any]:
    """The measured latencies; all but the duration are unknown by default."""
    unknown = dict.fromkeys(("queueMillis", "prefillMillis", "ttftMillis", "tpotMillis"))
    return {**unknown, "e2eMillis": e2e_ms, **known}


def record(e2e_ms: float = 0.0, **changes: Any) -> dict[str, Any]:
    """The complete record of `tests.routes.start()`, ended without a chunk, with `changes`.

    Args:
        e2e_ms: Duration in milliseconds, from the start of the clock.
        **changes: Different fields.
    """
    whole = {
        "schemaVersion": 1,
        "requestId": "request-1",
        "model": "Qwen/Qwen3-8B",
        "operation": "chat",
        "provider": "vllm",
        "outcome": "completed",
        "finishReason": None,
        "engineFinishReason": None,
        "streaming": True,
        "receivedAt": None,
        "startedAt": timestamp(0),
        "firstByteAt": None,
        "firstChunkAt": None,
        "completedAt": timestamp(e2e_ms),
        "inputTokenLength": 512,
        "inputTokenSource": "tokenized",
        "outputLength": None,
        "cachedTokens": None,
        "selectedEndpoint": "pod://llm/qwen-0",
        "servedEndpoint": None,
        "trackedEndpoints": ["pod://llm/qwen-0"],
        "candidates": 8,
        "policy": "prefix+load",
        "engineRequestId": None,
        "attempt": 1,
        "rerouted": [],
        "dispatchInflight": {"tokens": 0, "requests": 0},
        "prefixCacheScore": 0.42,
        "prediction": {"ttftMillis": 210.0, "tpotMillis": 18.5},
        "predictionMode": "active",
        "predictionInputs": [prediction_input("", "qwen-0")],
        "missingFeatureReasons": [],
        "selectedRoute": {"leader": snapshot("qwen-0")},
        "routeMismatch": False,
        "endpointDeleted": [],
        "error": None,
        "actual": latency(e2e_ms),
        "predictionError": {
            "ttftMillis": None,
            "tpotMillis": None,
            "ttftRatio": None,
            "tpotRatio": None,
        },
        "traceId": TRACE_ID,
        "spanId": SPAN_ID,
        "parentSpanId": None,
        "traceFlags": SAMPLED,
        "traceState": "",
        "spanKind": "server",
        "resource": {"service.name": "router", "service.instance.id": "router-0"},
    }
    assert set(changes) <= {*whole, "labels", "slo"}
    return {**whole, **changes}


STREAMED_RECORD: dict[str, Any] = {
    "e2e_ms": E2E_MS,
    "firstChunkAt": timestamp(TTFT_MS),
    "outputLength": 128,
    "cachedTokens": 200,
    "actual": latency(E2E_MS, ttftMillis=TTFT_MS, tpotMillis=20.0),
    "predictionError": {
        "ttftMillis": 40.0,
        "tpotMillis": 1.5,
        "ttftRatio": 0.16,
        "tpotRatio": 0.075,
    },
}
