"""Spans that a picker sends, and that are passed on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub

from otel_lifecycle.observation.otlp.server import OtlpServer
from otel_lifecycle.observation.otlp.traces import TRACES, OtlpTraces
from otel_lifecycle.observation.picker.spans import PickerSpans
from otel_lifecycle.records.shipping import Sender
from tests.observation.picked import export, spans
from tests.records.shipping.collectors import (
    BAD_REQUEST,
    GRPC,
    HTTP_PROTOBUF,
    Collector,
    Reply,
)

TRACE = "38069ebd5b958a71d90443a5fd12e3c5"


@pytest.fixture
def serve() -> Iterator[Callable[[OtlpTraces], TraceServiceStub]]:
    """Serves what takes spans, and returns what sends them."""
    with ExitStack() as stack:

        def serve(traces: OtlpTraces) -> TraceServiceStub:
            server = OtlpServer("127.0.0.1:0", {TRACES: traces.export})
            stack.callback(server.close)
            stack.callback(traces.close)
            channel = grpc.insecure_channel(f"127.0.0.1:{server.port}")
            return TraceServiceStub(stack.enter_context(channel))

        yield serve


@pytest.mark.parametrize("protocol", [GRPC, HTTP_PROTOBUF])
def test_passed_on(
    protocol: str,
    serve: Callable[[OtlpTraces], TraceServiceStub],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The collector has each export as it was sent, and the picker has the collector's answer."""
    sent = export(spans())
    sent.resource_spans[0].resource.attributes.add(key="service.name").value.string_value = "picker"
    replies = [Reply(message="one is odd", rejected=1), BAD_REQUEST]
    with Collector(protocol, lambda _: replies.pop(0)) as collector:
        for name, value in collector.environment.items():
            monkeypatch.setenv(name, value)
        known = PickerSpans()
        stub = serve(OtlpTraces(known, Sender()))
        answer = stub.Export(sent, timeout=30)
        with pytest.raises(grpc.RpcError) as refused:
            stub.Export(sent, timeout=30)

    assert [each.SerializeToString() for each in collector.exports] == [sent.SerializeToString()]
    assert answer.partial_success.rejected_spans == 1
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert known.told("Z-pd1", TRACE)[0].is_complete


def test_no_collector(
    serve: Callable[[OtlpTraces], TraceServiceStub], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A collector that is down is the picker's to wait for; without one the spans are read."""
    known = PickerSpans()
    serve(OtlpTraces(known, None)).Export(export(spans()), timeout=30)
    assert known.told("Z-pd1", TRACE)[0].reason == "prefill-decode"

    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    with pytest.raises(grpc.RpcError) as refused:
        serve(OtlpTraces(known, Sender())).Export(export(spans()), timeout=30)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


def test_others(serve: Callable[[OtlpTraces], TraceServiceStub]) -> None:
    """What is no export of spans is refused; spans of others are of no interest."""
    known = PickerSpans()
    stub = serve(OtlpTraces(known, None))
    other = ExportTraceServiceRequest()
    other.resource_spans.add().scope_spans.add().spans.add(name="GET /")
    stub.Export(other, timeout=30)

    assert not known.has_any


def test_no_protobuf() -> None:
    """Bytes that are no protobuf are refused."""
    traces = OtlpTraces(PickerSpans(), None)
    server = OtlpServer("127.0.0.1:0", {TRACES: traces.export})
    try:
        with (
            grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel,
            pytest.raises(grpc.RpcError) as refused,
        ):
            channel.unary_unary(f"/{TRACES}/Export")(b"\xff\xff", timeout=30)
    finally:
        server.close()

    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
