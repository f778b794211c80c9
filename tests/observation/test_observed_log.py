"""The log of a real Envoy with a real picker, of which every request is checked."""

from __future__ import annotations

from typing import Any

import msgspec

from otel_lifecycle.model.record import LifecycleRecord
from tests.observation.entries import OBSERVED, Joined


def records() -> dict[str, dict[str, Any]]:
    """The records of the log, as they are written, by request."""
    joined = Joined().take(OBSERVED.read_bytes().splitlines())
    joined.joiner.expire(at_end=True)
    assert joined.joiner.counts.records == len(joined.records) == 16
    assert joined.joiner.open_requests == 0
    return {record.request_id: msgspec.to_builtins(record) for record in joined.records}


def facts(record: dict[str, Any]) -> tuple[Any, ...]:
    """What differs between the requests."""
    return (
        record["outcome"],
        record["error"] and record["error"]["type"],
        record["streaming"],
        record["inputTokenLength"],
        record["outputLength"],
        record["attempt"],
        record["actual"]["ttftMillis"],
        record["actual"]["e2eMillis"],
    )


def test_facts_of_each_request() -> None:
    """Outcome, error, tokens, attempts and latencies, counted from the first byte sent upstream."""
    reset = "upstream_reset_after_response_started"
    refused = "upstream_reset_before_response_started"

    assert {name: facts(record) for name, record in records().items()} == {
        "Z-pd1": ("completed", None, True, 908, 8, 1, 24.792, 78.106),
        "Z-pd2": ("completed", None, True, 908, 8, 1, 22.101, 69.265),
        "Z-ok": ("completed", None, True, 15, 8, 1, 26.0, 75.316),
        "Z-nostream": ("completed", None, False, 11, 8, 1, None, 65.346),
        "Z-nousage": ("completed", None, True, None, None, 1, 28.497, 73.646),
        "Z-e500": ("error", "http_500", True, None, None, 3, None, 1.358),
        "Z-reset": ("error", reset, True, None, None, 1, 22.444, None),
        "Z-trunc": ("error", reset, True, None, None, 1, 22.735, None),
        "Z-nohdr": ("error", refused, True, None, None, 3, None, 3.652),
        "Z-once": ("completed", None, True, 15, 8, 2, 21.217, 64.063),
        "Z-discon": ("client_disconnect", None, True, None, None, 1, 22.304, None),
        "Z-disconearly": ("client_disconnect", None, True, None, None, 1, None, None),
        "Z-badjson": ("rejected", "http_400", None, None, None, 1, None, 2.354),
        "Z-nomodel": ("rejected", "http_400", True, None, None, 1, None, 1.965),
        "Z-exp100": ("completed", None, True, 15, 8, 1, 20.746, 69.595),
        "Z-tps0": ("completed", None, True, 15, 8, 1, 22.877, 71.371),
    }


def test_whole_record_of_a_pair() -> None:
    """Every field of a request with prefill and decode; nothing of its load is known."""
    record = records()["Z-pd1"]
    inputs = record.pop("predictionInputs")
    missing = record.pop("missingFeatureReasons")

    assert record == {
        "schemaVersion": 1,
        "requestId": "Z-pd1",
        "model": "m",
        "operation": "",
        "provider": "",
        "outcome": "completed",
        "finishReason": None,
        "engineFinishReason": None,
        "streaming": True,
        "receivedAt": "2026-11-29T16:44:44.260860000Z",
        "startedAt": "2026-11-29T16:44:44.280263000Z",
        "firstByteAt": "2026-11-29T16:44:44.305055000Z",
        "firstChunkAt": "2026-11-29T16:44:44.305055000Z",
        "completedAt": "2026-11-29T16:44:44.358369000Z",
        "inputTokenLength": 908,
        "inputTokenSource": "reported",
        "outputLength": 8,
        "cachedTokens": 16,
        "selectedEndpoint": "addr://127.0.0.1:9101",
        "servedEndpoint": "addr://127.0.0.1:9101",
        "trackedEndpoints": ["addr://127.0.0.1:9107", "addr://127.0.0.1:9101"],
        "candidates": 2,
        "policy": "",
        "decision": {
            "reason": "",
            "filtered": None,
            "picks": [
                {
                    "role": "decode",
                    "chosenRank": 1,
                    "margin": 0.0,
                    "regretMillis": None,
                    "candidates": [
                        {"id": "addr://127.0.0.1:9101", "score": 1.0},
                        {"id": "addr://127.0.0.1:9102", "score": 1.0},
                    ],
                }
            ],
        },
        "engineRequestId": "cmpl-e0-1",
        "attempt": 1,
        "rerouted": [],
        "dispatchInflight": None,
        "prefixCacheScore": None,
        "prediction": {"ttftMillis": None, "tpotMillis": None},
        "predictionMode": "",
        "selectedRoute": {
            role: {"id": f"addr://127.0.0.1:{port}", "address": "127.0.0.1", "port": port}
            for role, port in (("leader", "9101"), ("prefill", "9107"), ("decode", "9101"))
        },
        "routeMismatch": False,
        "endpointDeleted": [],
        "error": None,
        "actual": {
            "ttftMillis": 24.792,
            "tpotMillis": 53.314 / 7,
            "e2eMillis": 78.106,
            "prefillMillis": None,
            "queueMillis": 19.403,
        },
        "predictionError": {
            "ttftMillis": None,
            "tpotMillis": None,
            "ttftRatio": None,
            "tpotRatio": None,
        },
        "traceId": "38069ebd5b958a71d90443a5fd12e3c5",
        "spanId": "1afe4cd70706bd0b",
        "parentSpanId": "9f4bf2f0271ee976",
        "traceFlags": 1,
        "traceState": "",
        "spanKind": "internal",
        "resource": {},
    }
    assert [(each["podType"], each["inflightTokens"]) for each in inputs] == [
        ("prefill", None),
        ("decode", None),
    ]
    reasons = {(each["podType"], each["feature"]): each["reason"] for each in missing}
    assert reasons["decode", "inflightTokens"] == "inflight_missing"


def test_traces() -> None:
    """Each span is a child of Envoy's, sampled as the client or Envoy decided."""
    found = records()

    assert found["Z-exp100"]["traceId"] == "0af7651916cd43dd8448eb211c80319c"
    assert (found["Z-tps0"]["traceFlags"], found["Z-exp100"]["traceFlags"]) == (0, 1)
    assert len({record["spanId"] for record in found.values()}) == 16


def test_records_are_readable() -> None:
    """What is written is a record of this version."""
    for record in records().values():
        msgspec.convert(record, LifecycleRecord)
