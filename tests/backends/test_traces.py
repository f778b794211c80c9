"""Jaeger has what a router sends, on every path between them."""

from __future__ import annotations

from pathlib import Path

import pytest
from demo.environment import SERVICE_NAME
from opentelemetry import propagate, trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from otel_lifecycle import LifecycleRecord
from tests.backends.certificates import HOST, make_certificates
from tests.backends.programs import GRPC, HTTP, HTTP_PROTOBUF, Backends, Jaeger
from tests.backends.routers import DISAGGREGATED, Routers, requests
from tests.backends.spans import PlainSpan, as_recorded, plain_spans, recorded_spans
from tests.waiting import eventually

pytestmark = pytest.mark.backends


def assert_told(jaeger: Jaeger, records: list[LifecycleRecord]) -> None:
    """Assert that Jaeger has exactly one span per record, equal in every attribute."""
    expected = recorded_spans(records)

    def told() -> list[PlainSpan]:
        return as_recorded(jaeger.traces(SERVICE_NAME))

    eventually(lambda: len(told()) >= len(expected), what=f"{len(expected)} spans in Jaeger")

    assert told() == expected


@pytest.mark.parametrize("protocol", [GRPC, HTTP_PROTOBUF])
def test_a_fleet(backends: Backends, routers: Routers, protocol: str) -> None:
    """Every request passes router, agent, gateway and Jaeger with all its data."""
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
    router = routers.start(
        DISAGGREGATED,
        OTEL_EXPORTER_OTLP_COMPRESSION="gzip",
        **agent.exporting(protocol),
    )

    answers = router.send(requests(30))

    assert_told(jaeger, router.records(answers.total()))


@pytest.mark.parametrize("mutual", [False, True], ids=["tls", "mtls"])
@pytest.mark.parametrize("protocol", [GRPC, HTTP_PROTOBUF])
def test_tls(
    backends: Backends, routers: Routers, tmp_path: Path, protocol: str, mutual: bool
) -> None:
    """The standard variables for certificates suffice, on both sides of mTLS."""
    certificates = make_certificates(tmp_path, mutual=mutual)
    jaeger = backends.jaeger()
    collector = backends.collector(
        "local/collector.yaml", "tls.yaml", TRACES_ENDPOINT=jaeger.grpc, **certificates.collector
    )
    router = routers.start(
        ("aggregated",), **collector.exporting(protocol, f"https://{HOST}"), **certificates.router
    )

    answers = router.send(requests(10))

    assert_told(jaeger, router.records(answers.total()))


def test_a_trace_across_processes(backends: Backends, routers: Routers) -> None:
    """A request with an inbound trace is a span of that trace, below the caller's."""
    jaeger = backends.jaeger()
    collector = backends.collector("local/collector.yaml", TRACES_ENDPOINT=jaeger.grpc)
    router = routers.start(("aggregated",), **collector.exporting(GRPC))
    provider = TracerProvider(resource=Resource({"service.name": "client"}))
    exporter = OTLPSpanExporter(endpoint=collector.grpc, insecure=True)
    provider.add_span_processor(SimpleSpanProcessor(exporter))

    with provider.get_tracer("client").start_as_current_span("ask", kind=trace.SpanKind.CLIENT):
        headers: dict[str, str] = {}
        propagate.inject(headers)
        body = {"model": "m", "prompt": "Where to?", "max_tokens": 4}
        HTTP.post(f"{router.url}/v1/completions", json=body, headers=headers).raise_for_status()
    provider.shutdown()
    router.records(1)

    eventually(
        lambda: len(plain_spans(jaeger.traces("client"))) == 2, what="both spans in one trace"
    )
    ask, route = plain_spans(jaeger.traces("client"))
    assert (ask["name"], ask["resource"]["service.name"]) == ("ask", "client")
    assert (route["name"], route["resource"]["service.name"]) == ("route m", SERVICE_NAME)
    assert (route["trace_id"], route["parent_span_id"]) == (ask["trace_id"], ask["span_id"])
    assert route["resource"]["telemetry.sdk.language"] == "python"
