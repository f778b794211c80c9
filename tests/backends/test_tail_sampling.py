"""The gateway keeps what it promises to keep, and a share of the rest."""

from __future__ import annotations

import random
import time
from dataclasses import replace
from math import sqrt
from typing import Any

import msgspec
import pytest
from demo.environment import SERVICE_NAME
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

from otel_lifecycle import LatencyPrediction, LifecycleRecord, Outcome
from otel_lifecycle.model.latency import ActualLatency, PredictionError
from otel_lifecycle.model.record import ErrorInfo, Reroute
from otel_lifecycle.model.timestamps import format_timestamp
from otel_lifecycle.telemetry.spans import span_from_record
from tests.backends.programs import GRPC, Backends, Collector, Jaeger
from tests.backends.routers import AGGREGATED, Routers, requests
from tests.backends.spans import plain_spans
from tests.waiting import eventually

pytestmark = pytest.mark.backends

# A few seconds less than in a fleet.
SOON = "processors: {tail_sampling: {decision_wait: 10s, decision_wait_after_root_received: 1s}}"

TTFT_SLO, TPOT_SLO, TTFT_ERROR, TPOT_ERROR = 1.0, 0.1, 0.5, 0.02
THRESHOLDS = {
    "SLO_TTFT_SECONDS": str(TTFT_SLO),
    "SLO_TPOT_SECONDS": str(TPOT_SLO),
    "TTFT_ERROR_SECONDS": str(TTFT_ERROR),
    "TPOT_ERROR_SECONDS": str(TPOT_ERROR),
}

NOW_NS = time.time_ns()

_random = random.Random(0)


def gateway(
    backends: Backends, jaeger: Jaeger, percentage: int, name: str = "gateway"
) -> Collector:
    """A gateway that decides quickly."""
    soon = backends.folder / "soon.yaml"
    soon.write_text(SOON)
    return backends.collector(
        "gateway/config.yaml",
        soon,
        name=name,
        TRACES_ENDPOINT=jaeger.grpc,
        SAMPLING_PERCENTAGE=str(percentage),
        **THRESHOLDS,
    )


def agent_of(backends: Backends, gateways: list[Collector]) -> Collector:
    """An agent in front of gateways, which have different ports on one machine."""
    resolver = {"dns": None, "static": {"hostnames": [gateway.grpc for gateway in gateways]}}
    overlay = backends.folder / "gateways.yaml"
    overlay.write_bytes(
        msgspec.json.encode({"exporters": {"load_balancing": {"resolver": resolver}}})
    )
    return backends.collector("agent/config.yaml", overlay, name="agent", GATEWAY_HOST="127.0.0.1")


def promised(record: LifecycleRecord) -> bool:
    """Return whether a request, by its record, is always kept."""
    actual, error = record.actual, record.prediction_error
    return (
        record.outcome is not Outcome.COMPLETED
        or record.error is not None
        or bool(record.rerouted)
        or (actual.ttft_ms or 0) > TTFT_SLO * 1000
        or (actual.tpot_ms or 0) > TPOT_SLO * 1000
        or abs(error.ttft_ms or 0) > TTFT_ERROR * 1000
        or abs(error.tpot_ms or 0) > TPOT_ERROR * 1000
    )


def kept(jaeger: Jaeger) -> list[str]:
    """Return the requests in Jaeger."""
    return sorted(
        span["attributes"]["llm_router.request.id"]
        for span in plain_spans(jaeger.traces(SERVICE_NAME))
    )


def test_a_router_behind_two_gateways(backends: Backends, routers: Routers) -> None:
    """Without a share of the rest, exactly the promised requests are kept."""
    jaeger = backends.jaeger()
    gateways = [gateway(backends, jaeger, 0, f"gateway-{number}") for number in (1, 2)]
    agent = agent_of(backends, gateways)
    router = routers.start(
        AGGREGATED,
        **agent.exporting(GRPC),
    )
    router.send(requests(30, prefix="before-"))
    router.crash(router.engines[-1])
    once = requests(30, seed=1, prefix="after-")
    router.send([*once, replace(once[0], at=once[0].at + 0.01)])

    records = router.records(61)
    expected = sorted(record.request_id for record in records if promised(record))
    eventually(lambda: kept(jaeger) == expected, what=f"{expected}; kept: {kept(jaeger)}")

    assert {record.outcome for record in records} >= {Outcome.COMPLETED, Outcome.SUPERSEDED}
    assert 0 < len(expected) < len(records)
    assert all(gateway.metric("otelcol_receiver_accepted_spans") > 0 for gateway in gateways)


def finished(request_id: str, **fields: Any) -> LifecycleRecord:
    """The record of a request, unremarkable by default."""
    record = LifecycleRecord(
        request_id=request_id,
        started_at=format_timestamp(NOW_NS),
        completed_at=format_timestamp(NOW_NS + 10**9),
        prediction=LatencyPrediction(),
        selected_route=None,
        actual=ActualLatency(ttft_ms=50.0, tpot_ms=10.0, e2e_ms=1_000.0),
        prediction_error=PredictionError(ttft_ms=5.0, tpot_ms=-1.0),
        trace_id=f"{_random.getrandbits(128):032x}",
        span_id=f"{_random.getrandbits(64):016x}",
        trace_flags=1,
        resource={"service.name": SERVICE_NAME},
    )
    return msgspec.structs.replace(record, **fields)


KEPT = {
    "error": {"outcome": Outcome.ERROR, "error": ErrorInfo("http_500")},
    **{
        outcome.value: {"outcome": outcome}
        for outcome in Outcome
        if outcome not in (Outcome.COMPLETED, Outcome.ERROR)
    },
    "rerouted": {"rerouted": [Reroute(format_timestamp(NOW_NS), "a", "b", "http_502")]},
    "slow-first-token": {"actual": ActualLatency(ttft_ms=1_001.0, tpot_ms=10.0)},
    "slow-tokens": {"actual": ActualLatency(ttft_ms=50.0, tpot_ms=101.0)},
    "ttft-too-low": {"prediction_error": PredictionError(ttft_ms=501.0)},
    "ttft-too-high": {"prediction_error": PredictionError(ttft_ms=-501.0)},
    "tpot-too-low": {"prediction_error": PredictionError(tpot_ms=21.0)},
    "tpot-too-high": {"prediction_error": PredictionError(tpot_ms=-21.0)},
}
DROPPED = {
    "fast": {},
    "slow-first-token-within": {"actual": ActualLatency(ttft_ms=999.0, tpot_ms=99.0)},
    "predicted-within": {"prediction_error": PredictionError(ttft_ms=-499.0, tpot_ms=19.0)},
    "nothing-known": {"actual": ActualLatency(), "prediction_error": PredictionError()},
}


def send(collector: Collector, records: list[LifecycleRecord]) -> None:
    """Send the spans of records."""
    exporter = OTLPSpanExporter(endpoint=collector.grpc, insecure=True)
    for start in range(0, len(records), 200):
        exporter.export([span_from_record(record) for record in records[start : start + 200]])
    exporter.shutdown()


def test_each_promise(backends: Backends) -> None:
    """Each kind of remarkable request is kept; one just within the limits is not."""
    jaeger = backends.jaeger()
    collector = gateway(backends, jaeger, 0)

    send(collector, [finished(name, **fields) for name, fields in {**KEPT, **DROPPED}.items()])

    eventually(lambda: kept(jaeger) == sorted(KEPT), what=f"{sorted(KEPT)}; kept: {kept(jaeger)}")


def test_a_share_of_the_rest(backends: Backends) -> None:
    """The percentage is as configured, and applies only to requests not kept anyway."""
    jaeger = backends.jaeger()
    collector = gateway(backends, jaeger, 20)
    rest = 2_000

    send(collector, [finished(f"fast-{number}") for number in range(rest)])
    send(collector, [finished("left", outcome=Outcome.CLIENT_DISCONNECT)])
    eventually(lambda: "left" in kept(jaeger), what="the last one in Jaeger")

    def is_settled() -> bool:
        """Whether no more come; several senders of the gateway overtake each other."""
        before = len(kept(jaeger))
        time.sleep(2)
        return len(kept(jaeger)) == before

    eventually(is_settled)
    share = len(kept(jaeger)) - 1
    assert share == pytest.approx(0.2 * rest, abs=6 * sqrt(rest * 0.2 * 0.8))
