"""Complete records of requests that the generic layer follows, as plain values."""

from __future__ import annotations

from typing import Any

import msgspec

from otel_lifecycle import LifecycleRecord
from tests.matchers import MEASURED, SAMPLED, SPAN_ID, TIMESTAMP, TRACE_ID, Matching
from tests.tracking.expected import latency

ANY_ID = Matching("[0-9a-f-]{32,36}")
_UNKNOWN_OF_NPU = ("hbmUtilization", "aiCoreUtilization", "bandwidthUtilization")
_METRICS_FEATURES = {
    "numRequestWaiting": "waitingQueueSize",
    "numRequestRunning": "runningRequestsSize",
    "kvCacheUsage": "kvCacheUsagePercent",
}


def plain(record: LifecycleRecord) -> dict[str, Any]:
    """Return a record as plain values, without the derived parts and the decisions."""
    values: dict[str, Any] = msgspec.to_builtins(record)
    for decided in (values, *values["rerouted"]):
        decided.pop("decision", None)
    for derived in (
        "engineFinishReason",
        "engineRequestId",
        "predictionInputs",
        "missingFeatureReasons",
        "resource",
    ):
        del values[derived]
    return values


def picks(record: LifecycleRecord) -> list[dict[str, Any]]:
    """Return the picks of a record's decision as plain values, without the load, which is 0."""
    assert record.decision is not msgspec.UNSET
    found: list[dict[str, Any]] = msgspec.to_builtins(record.decision)["picks"]
    for pick in found:
        for one in pick["candidates"]:
            assert one.pop("inflight") == {"tokens": 0, "requests": 0}
    return found


def pick(
    role: str, *candidates: Any, rank: int | None = None, margin: float | None = None
) -> dict[str, Any]:
    """The choice among these URLs, best first, each with what is known of it."""
    return {
        "role": role,
        "chosenRank": rank,
        "margin": margin,
        "regretMillis": None,
        "candidates": [{"id": endpoint(url)["id"], **known} for url, known in candidates],
    }


def endpoint(url: str, **known: Any) -> dict[str, Any]:
    """An endpoint of a route with nothing else in flight."""
    address, _, port = url.removeprefix("http://").partition(":")
    return {
        "id": f"addr://{address}:{port}",
        "address": address,
        "port": port,
        "inflight": {"tokens": 0, "requests": 0},
        "prefillTokens": 0,
        **known,
    }


def prefilled(url: str, **changes: Any) -> dict[str, Any]:
    """The same for a pair whose decode was never chosen."""
    route = {"leader": identity(url), "prefill": endpoint(url)}
    return streamed(url, **{"selectedRoute": route, **changes})


def identity(url: str) -> dict[str, Any]:
    """The leader of a PD route."""
    snapshot = endpoint(url)
    del snapshot["inflight"], snapshot["prefillTokens"]
    return snapshot


def metrics(running: int, waiting: int, kv_cache: float | None) -> dict[str, Any]:
    """An engine's metrics, as far as the production stack's router scrapes them."""
    return {
        "runningRequestsSize": running,
        "waitingQueueSize": waiting,
        "kvCacheUsagePercent": kv_cache,
        "kvCacheMaxTokenCapacity": None,
        "cacheBlockSize": None,
        "cacheNumBlocks": None,
        "activeModels": {},
        "waitingModels": {},
        "maxActiveModels": None,
        "prefixCacheHitRate": None,
        "updateTime": None,
    }


def streamed(selected: str | dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A complete stream of eight tokens through an aggregated route."""
    leader = endpoint(selected) if isinstance(selected, str) else selected
    whole = {
        "schemaVersion": 1,
        "requestId": "request-1",
        "model": "m",
        "operation": "text_completion",
        "provider": "",
        "outcome": "completed",
        "finishReason": "length",
        "streaming": True,
        "receivedAt": TIMESTAMP,
        "startedAt": TIMESTAMP,
        "firstByteAt": TIMESTAMP,
        "firstChunkAt": TIMESTAMP,
        "completedAt": TIMESTAMP,
        "inputTokenLength": 30,
        "inputTokenSource": "reported",
        "outputLength": 8,
        "cachedTokens": 0,
        "selectedEndpoint": leader["id"],
        "servedEndpoint": leader["id"],
        "trackedEndpoints": [leader["id"]],
        "candidates": None,
        "policy": "",
        "attempt": 1,
        "rerouted": [],
        "dispatchInflight": {"tokens": 0, "requests": 0},
        "prefixCacheScore": None,
        "prediction": {"ttftMillis": None, "tpotMillis": None},
        "predictionMode": "",
        "selectedRoute": {"leader": leader},
        "routeMismatch": False,
        "endpointDeleted": [],
        "error": None,
        "actual": measured(ttftMillis=MEASURED, tpotMillis=MEASURED),
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
    }
    assert set(changes) <= {*whole, "legs", "labels", "slo"}
    return {**whole, **changes}


def measured(**known: Any) -> dict[str, Any]:
    """The latencies of a request whose arrival is known, as it is where the server is ours."""
    return latency(MEASURED, queueMillis=MEASURED, **known)


def leg(role: str, url: str, outcome: str | None = "completed") -> dict[str, Any]:
    """A call of the router that has ended."""
    return {
        "role": role,
        "endpoint": endpoint(url)["id"],
        "startedAt": TIMESTAMP,
        "endedAt": TIMESTAMP,
        "outcome": outcome,
    }


def legs(*calls: tuple[str, str, str]) -> dict[str, Any]:
    """Several calls, with role, URL and outcome of each."""
    return {"legs": tuple(leg(*call) for call in calls)}


def paired(
    prefill: str | dict[str, Any],
    decode: str | dict[str, Any],
    *,
    prefilled: bool = True,
    **changes: Any,
) -> dict[str, Any]:
    """The same through a PD route; the leader is the decode endpoint."""
    pair = [endpoint(one) if isinstance(one, str) else one for one in (prefill, decode)]
    leader = {name: pair[1][name] for name in ("id", "address", "port")}
    route = {"leader": leader, "prefill": pair[0], "decode": pair[1]}
    whole = streamed(
        pair[1],
        **{
            "trackedEndpoints": [one["id"] for one in pair],
            "selectedRoute": route,
            "legs": tuple(
                {**leg(role, ""), "endpoint": one["id"]}
                for role, one in zip(("prefill", "decode"), pair, strict=True)
            ),
            **changes,
        },
    )
    if whole["legs"] is None:  # there was one call
        del whole["legs"]
    if prefilled:
        whole["actual"] = {**whole["actual"], "prefillMillis": MEASURED}
    return whole


def failed(error: str, *, first_chunk: bool = False) -> dict[str, Any]:
    """The changes for an error."""
    return {**_cut(first_chunk), "outcome": "error", "error": {"type": error}}


def disconnected() -> dict[str, Any]:
    """The changes for a client that leaves after the first chunk."""
    return {**_cut(first_chunk=True), "outcome": "client_disconnect"}


def _cut(first_chunk: bool) -> dict[str, Any]:
    ttft = MEASURED if first_chunk else None
    return {
        "finishReason": None,
        "firstByteAt": TIMESTAMP if first_chunk else None,
        "firstChunkAt": TIMESTAMP if first_chunk else None,
        "inputTokenSource": "estimated",
        "outputLength": None,
        "cachedTokens": None,
        "servedEndpoint": None,
        "actual": measured(ttftMillis=ttft),
    }


def whole_answer() -> dict[str, Any]:
    """The changes for a response that is not a stream."""
    return {
        "streaming": False,
        "firstChunkAt": None,
        "actual": measured(),
    }
