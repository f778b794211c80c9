"""The exporter behaves as the SDK's does, and sends what that would send."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import entry_points
from io import StringIO
from typing import Any

import pytest
import requests
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    ConsoleSpanExporter,
    SimpleSpanProcessor,
    SpanExporter,
    SpanExportResult,
)
from opentelemetry.trace import SpanContext, SpanKind

from otel_lifecycle.telemetry.otlp.adoption import adopt_all, release_all
from otel_lifecycle.telemetry.otlp.exporter import LifecycleSpanExporter, adopt
from otel_lifecycle.telemetry.otlp.over_http import EncodedBodies
from tests.records.shipping.collectors import (
    ACCEPT,
    BAD_REQUEST,
    GRPC,
    UNAVAILABLE,
    Collector,
)
from tests.telemetry.otlp.messages import exact, stock
from tests.turns import TurnClock

RESOURCE = Resource({"service.name": "router"})
SUCCESS, FAILURE = SpanExportResult.SUCCESS, SpanExportResult.FAILURE


def span(name: str = "POST", **attributes: Any) -> ReadableSpan:
    """A finished span of somebody else."""
    context = SpanContext(1, 2, False)
    return ReadableSpan(
        name, context, None, RESOURCE, attributes, kind=SpanKind.SERVER, start_time=1, end_time=2
    )


BATCH = [span("a", n=1), span("b", n=True), span("c", n=1.0)]


@pytest.mark.parametrize(("is_over", "pauses"), [(False, 0), (True, 3)])
def test_pauses(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, is_over: bool, pauses: int
) -> None:
    """The router's threads get their turn while a batch is encoded."""
    clock = TurnClock(monkeypatch, is_over)
    exporter = LifecycleSpanExporter()

    assert exporter.export(BATCH) is SUCCESS
    assert clock.pauses["MainThread"] == pauses
    exporter.shutdown()


def test_spans(collector: Collector) -> None:
    """A batch arrives as the SDK's exporter would have sent it, message by message."""
    exporter = LifecycleSpanExporter()

    assert [exporter.export(BATCH), exporter.export(BATCH[:1])] == [SUCCESS] * 2
    assert exporter.force_flush()
    exporter.shutdown()
    assert [*map(exact, collector.exports)] == [exact(stock(BATCH)), exact(stock(BATCH[:1]))]


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "none"])
@pytest.mark.parametrize("name", ["OTEL_EXPORTER_OTLP", "OTEL_EXPORTER_OTLP_TRACES"])
def test_variables(
    collector: Collector, name: str, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Headers and compression are those of the standard variables."""
    if encoding == "deflate" and collector.protocol == GRPC:
        pytest.skip("the SDK's exporter over gRPC knows gzip alone")
    if encoding != "none":
        monkeypatch.setenv(f"{name}_COMPRESSION", encoding)
    monkeypatch.setenv(f"{name}_HEADERS", "authorization=Bearer%20token")

    assert LifecycleSpanExporter().export(BATCH) is SUCCESS
    assert exact(collector.exports[0]) == exact(stock(BATCH))
    assert collector.authorization == "Bearer token"
    if collector.protocol != GRPC:
        assert collector.encoding == (None if encoding == "none" else encoding)


def test_unknown_protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    """A protocol that there is no exporter for is named, with those there are."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")

    with pytest.raises(ValueError, match="must be grpc or http/protobuf, got 'http/json'"):
        LifecycleSpanExporter()


def test_entry_point() -> None:
    """The SDK finds it by its name."""
    (found,) = entry_points(group="opentelemetry_traces_exporter", name="otlp_lifecycle")

    assert found.load() is LifecycleSpanExporter
    assert issubclass(LifecycleSpanExporter, SpanExporter)


def test_second_try(collector: Collector) -> None:
    """An error that passes is tried again, with the same spans."""
    replies = iter([UNAVAILABLE, ACCEPT])
    collector.answer = lambda ids: next(replies)

    assert LifecycleSpanExporter().export(BATCH) is SUCCESS
    assert exact(collector.exports[0]) == exact(stock(BATCH))
    assert len(collector.asked) == 2


def test_spans_that_are_refused(collector: Collector, caplog: pytest.LogCaptureFixture) -> None:
    """Spans that a collector does not take from the SDK either are lost, and nothing changes."""
    replies = iter([BAD_REQUEST, BAD_REQUEST, ACCEPT])
    collector.answer = lambda ids: next(replies)
    exporter = LifecycleSpanExporter()

    assert [exporter.export(BATCH) for _ in range(2)] == [FAILURE, SUCCESS]
    assert len(collector.asked) == 3
    assert [message for message in caplog.messages if "encoder" in message] == []


def test_encoding_that_is_refused(
    collector: Collector, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A collector that takes only what the SDK encodes gets that, at once and from then on."""
    collector.answer = lambda ids: BAD_REQUEST if len(collector.asked) == 1 else ACCEPT
    exporter = LifecycleSpanExporter()
    first = exporter.export(BATCH)

    def encode(spans: object) -> bytes:
        raise AssertionError("not encoded here any more")

    monkeypatch.setattr("otel_lifecycle.telemetry.otlp.exporter.encode_request", encode)
    second = exporter.export(BATCH)

    assert [first, second] == [SUCCESS] * 2
    assert [*map(exact, collector.exports)] == [exact(stock(BATCH))] * 2
    (line,) = [message for message in caplog.messages if "encoder" in message]
    assert line.endswith("the SDK's encoder is used from now on")


def test_span_that_cannot_be_encoded(
    collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    """It is left out, and all others arrive; the SDK's exporter would lose the batch."""
    exporter = LifecycleSpanExporter()
    broken = span("half a character: \ud800")
    for _ in range(2):
        assert exporter.export([*BATCH, broken]) is SUCCESS

    assert [*map(exact, collector.exports)] == [exact(stock(BATCH))] * 2
    assert caplog.messages == [
        "a span cannot be encoded and is left out: UnicodeEncodeError",
    ]


def test_threads(collector: Collector) -> None:
    """Exports at the same time do not mix up their spans."""
    provider = TracerProvider(resource=RESOURCE, shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(LifecycleSpanExporter()))
    tracer = provider.get_tracer("tracer")
    names = [f"span-{number}" for number in range(60)]
    with ThreadPoolExecutor(6) as threads:
        for name in names:
            threads.submit(lambda name: tracer.start_span(name).end(), name)
    provider.shutdown()

    assert sorted(span["name"] for span in collector.spans) == sorted(names)


def test_adopted(collector: Collector) -> None:
    """The exporter of a processor sends what is encoded here, until it is released."""
    exporter = (GrpcExporter if collector.protocol == GRPC else HttpExporter)()
    provider = TracerProvider(resource=RESOURCE, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(out=StringIO())))
    tracer = provider.get_tracer("tracer")

    adopt_all(provider, "one")
    adopt_all(provider, "another")
    release_all("one")
    tracer.start_span("\ud800").end()
    tracer.start_span("adopted").end()
    assert provider.force_flush()
    for _ in range(2):
        release_all("another")
        adopt_all(provider, "another")
        tracer.start_span("\ud800").end()
        tracer.start_span("adopted again").end()
        assert provider.force_flush()
    release_all("another")
    tracer.start_span("released").end()
    provider.shutdown()

    assert [span["name"] for span in collector.spans] == [
        "adopted",
        "adopted again",
        "adopted again",
        "released",
    ]
    assert "export" not in vars(exporter)


class OwnSession(requests.Session):
    """What a provider of credentials may hand out."""


class OwnExporter(HttpExporter):
    """What a vendor may make of the SDK's exporter."""


@pytest.mark.parametrize(
    "make",
    [
        ConsoleSpanExporter,
        LifecycleSpanExporter,
        OwnExporter,
        lambda: HttpExporter(session=OwnSession()),
    ],
)
def test_exporters_of_others(make: Callable[[], SpanExporter]) -> None:
    """An exporter that is not the SDK's own, or sends by somebody's own means, is left alone."""
    exporter = make()
    before = dict(vars(exporter))

    assert not adopt(exporter)
    assert vars(exporter) == before


def test_inside_of_another_version(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An exporter whose inside is not what is known encodes spans itself, as before."""
    monkeypatch.setattr("otel_lifecycle.telemetry.otlp.over_grpc.use_stub", missing)
    monkeypatch.setattr("otel_lifecycle.telemetry.otlp.over_http._session", missing)

    assert LifecycleSpanExporter().export(BATCH) is SUCCESS
    assert [*map(exact, collector.exports)] == [exact(stock(BATCH))]
    assert len([line for line in caplog.messages if "encodes spans itself" in line]) == 1


def missing(*arguments: object) -> None:
    """What reads an attribute that is not there."""
    raise AttributeError


def test_bytes_that_are_not_sent(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    """If an exporter does not send our bytes after all, it sends its own in their place."""
    monkeypatch.setattr(EncodedBodies, "send", requests.Session.send)
    exporter = LifecycleSpanExporter()
    if collector.protocol == GRPC:
        del vars(exporter._exporter)["_translate_data"]

    assert [exporter.export(BATCH) for _ in range(2)] == [SUCCESS] * 2
    arrived = [export for export in collector.exports if export.resource_spans]
    assert [*map(exact, arrived)] == [exact(stock(BATCH))] * 2
