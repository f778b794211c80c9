"""With phase spans, Jaeger shows both endpoints of a stream."""

from __future__ import annotations

import pytest
from demo.environment import SERVICE_NAME

from otel_lifecycle.telemetry.phases import phases
from tests.backends.programs import GRPC, Backends
from tests.backends.routers import DISAGGREGATED, Routers, requests
from tests.backends.spans import PlainSpan, plain_spans
from tests.waiting import eventually

pytestmark = pytest.mark.backends


def test_phases(backends: Backends, routers: Routers) -> None:
    """Each stream's span has its two phases, with the times in the record, and no more."""
    jaeger = backends.jaeger()
    collector = backends.collector("local/collector.yaml", TRACES_ENDPOINT=jaeger.grpc)
    router = routers.start(
        DISAGGREGATED, OTEL_LIFECYCLE_PHASE_SPANS="true", **collector.exporting(GRPC)
    )
    records = router.records(router.send(requests(20)).total())
    expected = sorted(
        (record.trace_id, record.span_id, *phase) for record in records for phase in phases(record)
    )

    def told() -> list[PlainSpan]:
        spans = plain_spans(jaeger.traces(SERVICE_NAME))
        return [span for span in spans if span["name"] in ("prefill", "decode")]

    eventually(lambda: len(told()) >= len(expected), what=f"{len(expected)} phases in Jaeger")

    fields = ("trace_id", "parent_span_id", "name", "start", "end", "attributes")
    assert sorted(tuple(span[field] for field in fields) for span in told()) == expected
    found = [phase.attributes for record in records for phase in phases(record)]
    assert {attributes["llm_router.endpoint.id"] for attributes in found} == {
        "pod://demo/prefill-0",
        "pod://demo/decode-0",
    }
