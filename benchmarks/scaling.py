"""Measures one request on its way to disk and backend: the figures of `docs/scaling.md`.

    python -m benchmarks.scaling                                        its size
    PYTHONPATH=examples python -m benchmarks.scaling --collectors       CPU in agent and gateway, as
                                                                        built by
                                                                        scripts/install-backends

The requests differ as real ones do, because equal ones would compress to nothing.
"""

from __future__ import annotations

import argparse
import gzip
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import httpx
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    HistogramDataPoint,
    InMemoryMetricReader,
    MetricsData,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from benchmarks import sink
from benchmarks.timing import Variant, interleave
from otel_lifecycle import (
    Endpoint,
    EndpointMetrics,
    LatencyPrediction,
    NPUDevice,
    NPUState,
    PersistenceConfig,
    RequestLifecycleTracker,
    RequestStart,
    Route,
    RouteEndpoint,
    TrackerConfig,
)

BATCH = 512  # spans an export, the SDK's default
ROUNDS = 11
ENDPOINTS = 100
CHIPS = 8
REQUESTS_A_SCRAPE = 500
COLLECTOR_SPANS = 20_000

_RESOURCE = Resource.create({"service.name": "router", "service.instance.id": "router-0"})


class Traffic:
    """Requests to many endpoints whose state changes with every scrape."""

    def __init__(self, *, disaggregated: bool) -> None:
        self._random = random.Random(0)
        self._disaggregated = disaggregated
        self._endpoints: list[RouteEndpoint] = []

    def starts(self, number: int) -> Iterator[RequestStart]:
        """Return this many requests."""
        for index in range(number):
            if index % REQUESTS_A_SCRAPE == 0:
                self._endpoints = [self._scraped(name) for name in range(ENDPOINTS)]
            yield RequestStart(
                f"chatcmpl-{self._random.getrandbits(128):032x}",
                self._route(),
                "Qwen/Qwen3-8B",
                self._random.randint(20, 8_000),
                "tokenized",
                prefix_cache_score=self._random.random(),
                prediction=LatencyPrediction(
                    self._random.uniform(50, 900), self._random.uniform(8, 40)
                ),
                candidates=ENDPOINTS,
                policy="prefix+load+prediction",
                operation="chat",
                provider="vllm",
            )

    def output_tokens(self) -> int:
        """Return the length of one answer."""
        return self._random.randint(2, 900)

    def _route(self) -> Route:
        if self._disaggregated:
            return Route(*self._random.sample(self._endpoints, 3))
        return Route(self._random.choice(self._endpoints))

    def _scraped(self, number: int) -> RouteEndpoint:
        now, percent = datetime.now(timezone.utc), lambda: round(self._random.uniform(0, 100), 1)
        return RouteEndpoint(
            Endpoint("llm", f"qwen-{number}", f"10.0.{number // 250}.{number % 250}", "8000"),
            EndpointMetrics(
                running_requests=self._random.randint(0, 64),
                waiting_requests=self._random.randint(0, 16),
                kv_cache_usage=self._random.random(),
                cache_block_size=128,
                cache_num_blocks=4096,
                update_time=now,
            ),
            NPUState(
                observation_time=now,
                data_status="fresh",
                device_count=CHIPS,
                ai_core_utilization_avg=percent(),
                ai_core_utilization_max=percent(),
                hbm_utilization_avg=percent(),
                hbm_utilization_max=percent(),
                hbm_bandwidth_utilization_avg=percent(),
                hbm_bandwidth_utilization_max=percent(),
                devices=tuple(
                    NPUDevice(f"10.0.{number // 250}.{number % 250}:8082", str(chip), 63, 71, 42)
                    for chip in range(CHIPS)
                ),
            ),
        )


class Request:
    """A batch of finished requests of one kind.

    Attributes:
        spans: Their spans.
        lines: The record file.
    """

    def __init__(self, folder: Path, name: str, *, disaggregated: bool, phases: bool) -> None:
        exporter = InMemorySpanExporter()
        provider = TracerProvider(resource=_RESOURCE)
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        path = folder / f"{name}.jsonl"
        tracker = RequestLifecycleTracker(
            TrackerConfig(
                store_name=name,
                phase_spans=phases,
                persistence=PersistenceConfig(enabled=True, output_path=str(path)),
            ),
            provider,
        )
        traffic = Traffic(disaggregated=disaggregated)
        for start in traffic.starts(BATCH):
            tracked = tracker.track(start)
            tracked.chunk()
            tracked.complete(output_tokens=traffic.output_tokens(), cached_tokens=200)
        tracker.close()
        self.spans: list[ReadableSpan] = list(exporter.get_finished_spans())
        self.lines = path.read_bytes()

    def sizes(self) -> dict[str, float]:
        """Return the bytes of one request."""
        content = encode_spans(self.spans).SerializeToString()
        return {
            "span, OTLP, bytes": len(content) / BATCH,
            "span, OTLP gzip, bytes": len(gzip.compress(content)) / BATCH,
            "record, bytes": len(self.lines) / BATCH,
            "record, gzip, bytes": len(gzip.compress(self.lines, 6)) / BATCH,
        }


def export_of_metrics() -> str:
    """Return the size and cost of one metrics export of a router."""
    reader = InMemoryMetricReader()
    tracker = RequestLifecycleTracker(
        TrackerConfig(store_name="metrics"),
        TracerProvider(),
        MeterProvider([reader], resource=_RESOURCE),
    )
    traffic = Traffic(disaggregated=False)
    for start in traffic.starts(20 * ENDPOINTS):
        tracked = tracker.track(start)
        tracked.chunk()
        tracked.complete(output_tokens=traffic.output_tokens())
    tracker.flush()

    def export() -> bytes:
        data = reader.get_metrics_data()
        assert data is not None
        return encode_metrics(data).SerializeToString()

    content = export()
    variant = Variant("export", lambda _: export())
    interleave([variant], ROUNDS, 1)
    series = sum(
        len(point.bucket_counts) + 2 if isinstance(point, HistogramDataPoint) else 1
        for resource in (reader.get_metrics_data() or MetricsData([])).resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        for point in metric.data.data_points
    )
    tracker.close()
    return (
        f"{series:,} series of Prometheus, "
        f"{len(content) / 1e3:,.0f} kB, gzip {len(gzip.compress(content)) / 1e3:,.0f} kB, "
        f"{variant.timed.path.minimum / 1e3:,.0f} ms CPU"
    )


def collectors(folder: Path) -> dict[str, float]:
    """Return the microseconds of CPU of agent and gateway per span; every trace is kept."""
    from tests.backends.programs import Backends

    backends = Backends(folder)
    with sink.running() as backend:
        gateway = backends.collector(
            "gateway/config.yaml",
            name="gateway",
            TRACES_ENDPOINT=backend.address,
            SAMPLING_PERCENTAGE="100",
        )
        host, _, port = gateway.grpc.partition(":")
        agent = backends.collector(
            "agent/config.yaml", name="agent", GATEWAY_HOST=host, GATEWAY_PORT=port
        )
        spans = Request(folder, "collectors", disaggregated=True, phases=False).spans
        url = f"http://{agent.http}/v1/traces"

        def cpu_seconds_after(sent: int) -> dict[str, float]:
            while gateway.metric("otelcol_exporter_sent_spans") < sent:
                time.sleep(0.2)
            programs = {"agent": agent, "gateway": gateway}
            cpu = "otelcol_process_cpu_seconds"
            return {name: program.metric(cpu) for name, program in programs.items()}

        warm = _send(url, spans, COLLECTOR_SPANS // 10)
        before = cpu_seconds_after(warm)
        sent = _send(url, spans, COLLECTOR_SPANS)
        after = cpu_seconds_after(warm + sent)
        costs = {name: (after[name] - before[name]) / sent * 1e6 for name in after}
        backends.stop()
    return costs


def _send(url: str, finished: list[ReadableSpan], number: int) -> int:
    """Send at least this many spans, with new trace ids for each batch; return the number."""
    export = encode_spans(finished)
    spans = [
        span
        for resource in export.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
    headers = {"content-type": "application/x-protobuf", "content-encoding": "gzip"}
    sent = 0
    with httpx.Client(trust_env=False, timeout=60) as client:
        while sent < number:
            for span in spans:
                span.trace_id = os.urandom(16)
            content = gzip.compress(export.SerializeToString(), 1)
            client.post(url, content=content, headers=headers).raise_for_status()
            sent += len(spans)
    return sent


def print_requests(folder: Path) -> None:
    """Print the size of each kind of request, and of all metrics."""
    columns = {
        "aggregated": Request(folder, "aggregated", disaggregated=False, phases=False),
        "prefill/decode": Request(folder, "pd", disaggregated=True, phases=False),
        "with phase spans": Request(folder, "phases", disaggregated=True, phases=True),
    }
    sizes = {title: request.sizes() for title, request in columns.items()}
    print(f"| one request | {' | '.join(sizes)} |\n|---|{'---:|' * len(sizes)}")
    for row in sizes["aggregated"]:
        figures = " | ".join(f"{column[row]:,.0f}" for column in sizes.values())
        print(f"| {row} | {figures} |")
    print(f"\none export of the metrics of {ENDPOINTS} endpoints: {export_of_metrics()}")


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description="Measures what one request costs.")
    parser.add_argument("--collectors", action="store_true", help="in agent and gateway")
    arguments = parser.parse_args()
    print(f"Python {sys.version.split()[0]}, batches of {BATCH}\n")
    with tempfile.TemporaryDirectory() as name:
        if arguments.collectors:
            for tier, us in collectors(Path(name)).items():
                print(f"{tier}: {us:.0f} us of CPU a span")
        else:
            print_requests(Path(name))


if __name__ == "__main__":
    main()
