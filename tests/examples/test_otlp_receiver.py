"""The OTLP receiver, with the SDK's own exporters."""

from __future__ import annotations

import socket
import struct
import urllib.error
import urllib.request

import pytest
from demo.otlp_receiver import OTLPReceiver
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor


@pytest.mark.parametrize("compression", list(Compression))
def test_spans(compression: Compression) -> None:
    """Spans are kept by scope, with any compression."""
    with OTLPReceiver() as receiver:
        exporter = OTLPSpanExporter(f"{receiver.endpoint}/v1/traces", compression=compression)
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        for scope, name in (("ours", "first"), ("theirs", "other"), ("ours", "second")):
            provider.get_tracer(scope).start_span(name).end()
        provider.shutdown()

        assert [span.name for span in receiver.spans("ours")] == ["first", "second"]
        assert receiver.spans("nobody's") == []


def test_gauges() -> None:
    """A gauge has the values of the latest export; missing points are gone."""
    loads = {"a": 3, "b": 5}

    def observe(_: CallbackOptions) -> list[Observation]:
        return [Observation(value, {"endpoint": name}) for name, value in loads.items()]

    with OTLPReceiver() as receiver:
        exporter = OTLPMetricExporter(f"{receiver.endpoint}/v1/metrics")
        reader = PeriodicExportingMetricReader(exporter, export_interval_millis=3_600_000)
        provider = MeterProvider([reader], shutdown_on_exit=False)
        provider.get_meter("ours").create_observable_gauge("load", [observe])
        assert receiver.gauge("load") == {}

        provider.force_flush()
        first = receiver.gauge("load")
        loads.clear()
        loads["a"] = 1
        provider.force_flush()
        second = receiver.gauge("load")
        provider.shutdown()

        a, b = frozenset({("endpoint", "a")}), frozenset({("endpoint", "b")})
        assert (first, second) == ({a: 3.0, b: 5.0}, {a: 1.0})
        assert receiver.peak("load") == {a: 3.0, b: 5.0}


def test_garbage() -> None:
    """Invalid exports are refused, and the receiver continues."""
    with OTLPReceiver() as receiver:
        request = urllib.request.Request(f"{receiver.endpoint}/v1/traces", b"\xff\xff")
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request)
        refused.value.close()

        assert refused.value.code == 400
        with urllib.request.urlopen(f"{receiver.endpoint}/v1/traces", b"") as accepted:
            assert accepted.status == 200


def test_exporter_that_is_killed(capfd: pytest.CaptureFixture[str]) -> None:
    """A connection that breaks during an export is ignored, and the next is accepted."""
    with OTLPReceiver() as receiver:
        host, _, port = receiver.endpoint.removeprefix("http://").partition(":")
        for _ in range(5):
            with socket.create_connection((host, int(port))) as exporter:
                exporter.sendall(b"POST /v1/traces HTTP/1.1\r\ncontent-length: 100\r\n\r\nhalf")
                # Closing it this way resets it, as when a process ends with unread data.
                exporter.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        request = urllib.request.Request(f"{receiver.endpoint}/v1/traces", b"", method="POST")
        with urllib.request.urlopen(request) as response:
            assert response.status == 200

    assert capfd.readouterr().err == ""
