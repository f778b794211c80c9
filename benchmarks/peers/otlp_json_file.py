"""OpenTelemetry's OTLP-JSON file exporter behind the batch processor, given the bare span."""

from __future__ import annotations

from opentelemetry.exporter.otlp.json.file import FileSpanExporter
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from benchmarks.peers.bare_sdk import saying
from benchmarks.peers.peer import Bench, Peer, stream
from benchmarks.requests import FORTY_ATTRIBUTES, told

DISTRIBUTION = "opentelemetry-exporter-otlp-json-file"


def _open_peer(bench: Bench) -> Peer:
    path = bench.folder / "otlp.jsonl"
    provider = bench.tracer_provider(exports=False)
    provider.add_span_processor(
        BatchSpanProcessor(FileSpanExporter(path), schedule_delay_millis=3_600_000)
    )
    _, said = told(bench.folder, FORTY_ATTRIBUTES)
    return Peer(
        "bare SDK span to an OTLP-JSON file",
        saying(provider.get_tracer("bare"), said),
        stream,
        file=path,
        close=provider.shutdown,
    )


OPENERS = (_open_peer,)
