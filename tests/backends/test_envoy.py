"""A request behind Envoy is one trace in Jaeger, with the spans of all that it passed."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

import pytest
from opentelemetry import propagate
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from tests.backends.programs import GRPC, Backends, Jaeger
from tests.backends.spans import PlainSpan, plain_spans
from tests.cli.command import Command
from tests.envoy.clients import Ask, run
from tests.envoy.picker import Picker
from tests.envoy.programs import Engine, Envoy
from tests.envoy.test_following import is_listening, picked, send
from tests.ports import free_port
from tests.waiting import eventually

pytestmark = pytest.mark.backends


def send_engines(jaeger: Jaeger, engine: Engine) -> None:
    """Sends the span that vLLM would make of the request: below what it was told."""
    with urllib.request.urlopen(f"http://{engine.address}/debug/traceparents") as response:
        (told,) = json.load(response)["traceparents"]
    provider = TracerProvider(resource=Resource({"service.name": "vllm"}))
    exporter = OTLPSpanExporter(endpoint=jaeger.grpc, insecure=True)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    above = propagate.extract({"traceparent": told["traceparent"]})
    provider.get_tracer("vllm").start_span("llm_request", above).end()
    provider.shutdown()


def roots(spans: list[PlainSpan]) -> list[PlainSpan]:
    """The spans whose caller is not among them."""
    known = {span["span_id"] for span in spans}
    return [span for span in spans if span["parent_span_id"] not in known]


def test_one_trace(backends: Backends, tmp_path: Path) -> None:
    """Jaeger's answer for one trace has Envoy, picker, our span and the engine's."""
    jaeger = backends.jaeger()
    port = free_port()
    engine = Engine(tmp_path)
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{jaeger.grpc}",
        "OTEL_EXPORTER_OTLP_PROTOCOL": GRPC,
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_SERVICE_NAME": "router",
    }
    with Picker() as picker:
        envoy = Envoy(tmp_path, "1.38", picker, collector_port=int(jaeger.grpc.split(":")[1]))
        output = tmp_path / "records.jsonl"
        observing = Command(
            *("observe", "--envoy-log", envoy.log, "--otlp", str(port), "--output", output),
            environment=environment,
        )
        try:
            eventually(lambda: is_listening(port), what="the observer listens")
            run(envoy.port, [Ask("traced", engine.address)])
            decision = picked("traced", picker.traceparents["traced"])
            name = decision.resource_spans[0].resource.attributes.add(key="service.name")
            name.value.string_value = "picker"
            send(port, decision)
            send_engines(jaeger, engine)

            def told() -> list[PlainSpan]:
                return plain_spans(jaeger.traces("router"))

            services = {"envoy", "picker", "router", "vllm"}

            def is_whole() -> bool:
                return {span["resource"]["service.name"] for span in told()} == services and (
                    len(roots(told())) == 1
                )

            eventually(is_whole, what="Jaeger has all spans")
            spans = told()
        finally:
            observing.close()
            envoy.close()
            engine.close()

    by_id = {span["span_id"]: span for span in spans}
    assert len({span["trace_id"] for span in spans}) == 1
    (root,) = roots(spans)
    assert root["resource"]["service.name"] == "envoy"
    above = {
        span["name"]: by_id[span["parent_span_id"]]["resource"]["service.name"]
        for span in spans
        if span is not root
    }
    assert above["route m"] == above["gateway.request"] == above["llm_request"] == "envoy"
    assert above["gateway.request_orchestration"] == "picker"
    (ours,) = (span for span in spans if span["name"] == "route m")
    assert ours["attributes"]["llm_router.request.id"] == "traced"
    assert ours["attributes"]["llm_router.route.leader.id"] == f"addr://{engine.address}"
