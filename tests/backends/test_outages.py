"""A collector outage costs the router nothing, and with a queue no span."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from statistics import median

import pytest
from demo.environment import SERVICE_NAME
from demo.workload import PlannedRequest

from otel_lifecycle import LifecycleRecord, Outcome
from otel_lifecycle.model.timestamps import parse_timestamp
from tests.backends.programs import GRPC, Backends, Jaeger
from tests.backends.routers import Router, Routers, requests
from tests.backends.spans import PlainSpan, as_recorded, recorded_spans
from tests.waiting import eventually

pytestmark = pytest.mark.backends

PHASE_SECONDS = 8.0
PHASES = 3


def load(count: int) -> list[PlannedRequest]:
    """Send requests evenly over all phases."""
    planned = requests(count)
    seconds = PHASES * PHASE_SECONDS
    return [replace(request, at=number * seconds / count) for number, request in enumerate(planned)]


def told(jaeger: Jaeger) -> dict[str, PlainSpan]:
    """Return the router's spans by id; after a crash a span may arrive twice."""
    return {span["span_id"]: span for span in as_recorded(jaeger.traces(SERVICE_NAME))}


def check_all_arrive(jaeger: Jaeger, router: Router, count: int) -> None:
    """Wait until Jaeger has the span of every request, and compare them with the records."""
    expected = {span["span_id"]: span for span in recorded_spans(router.records(count))}
    eventually(lambda: len(told(jaeger)) >= len(expected), what=f"{len(expected)} spans in Jaeger")

    assert told(jaeger) == expected


def phases(records: list[LifecycleRecord]) -> list[list[LifecycleRecord]]:
    """Group the records by the phase in which their requests started."""
    first = min(parse_timestamp(record.started_at) for record in records)
    result: list[list[LifecycleRecord]] = [[] for _ in range(PHASES)]
    for record in records:
        seconds = (parse_timestamp(record.started_at) - first) / 1e9
        result[min(PHASES - 1, int(seconds / PHASE_SECONDS))].append(record)
    return result


def time_per_token(records: list[LifecycleRecord]) -> float:
    """Return the median over completed requests, which the engine's pace determines."""
    times = [
        record.actual.tpot_ms
        for record in records
        if record.outcome is Outcome.COMPLETED and record.actual.tpot_ms is not None
    ]
    return median(times)


def test_a_collector_killed_under_load(backends: Backends, routers: Routers) -> None:
    """Requests are not slower, every one has a record, and spans flow again afterwards."""
    jaeger = backends.jaeger()
    collector = backends.collector("local/collector.yaml", TRACES_ENDPOINT=jaeger.grpc)
    router = routers.start(**collector.exporting(GRPC))
    plan = load(150)
    with ThreadPoolExecutor() as pool:
        sending = pool.submit(router.send, plan)
        time.sleep(PHASE_SECONDS)
        collector.kill()
        time.sleep(PHASE_SECONDS)
        collector.start()
        sending.result()

    records = router.records(len(plan))
    before, without, after = (time_per_token(phase) for phase in phases(records))
    last = recorded_spans([max(records, key=lambda record: record.completed_at or "")])[0]

    assert {record.request_id for record in records} == {request.request_id for request in plan}
    assert without / before < 1.5
    assert after / before < 1.5
    eventually(lambda: last["span_id"] in told(jaeger), what="the last span in Jaeger")


def test_nothing_is_lost_behind_a_queue(backends: Backends, routers: Routers) -> None:
    """With a gateway down and an agent killed, Jaeger has every request in the end."""
    jaeger = backends.jaeger()
    gateway = backends.collector(
        "gateway/config.yaml",
        name="gateway",
        TRACES_ENDPOINT=jaeger.grpc,
        SAMPLING_PERCENTAGE="100",
    )
    agent = backends.collector(
        "agent/config.yaml",
        name="agent",
        GATEWAY_HOST="127.0.0.1",
        GATEWAY_PORT=gateway.grpc.rpartition(":")[2],
    )
    # Longer than a busy machine takes to start an agent again: until then the router's SDK retries.
    router = routers.start(OTEL_EXPORTER_OTLP_TIMEOUT="60", **agent.exporting(GRPC))
    plan = load(120)
    with ThreadPoolExecutor() as pool:
        sending = pool.submit(router.send, plan)
        time.sleep(PHASE_SECONDS)
        gateway.stop()
        time.sleep(PHASE_SECONDS)
        agent.kill()
        agent.start()
        sending.result()
        gateway.start()

    check_all_arrive(jaeger, router, len(plan))
