"""Measures one request on its way to disk and backend: the figures of `docs/scaling.md`.

    python -m benchmarks.scaling                                        within the router
    PYTHONPATH=examples python -m benchmarks.scaling --collectors       in agent and gateway, as
                                                                        built by
                                                                        scripts/install-backends

CPU is that of a thread or a process, in the best of some rounds: a busy machine makes rounds
slower, never faster. The requests differ as real ones do, because equal ones would compress to
nothing.
"""

from __future__ import annotations

import argparse
import gzip
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

import grpc
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
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, Sampler

from otel_lifecycle import (
    Endpoint,
    EndpointMetrics,
    LatencyPrediction,
    LifecycleRecord,
    NPUDevice,
    NPUState,
    PersistenceConfig,
    RequestLifecycleTracker,
    RequestStart,
    Route,
    RouteEndpoint,
    TrackerConfig,
    read_records,
)
from otel_lifecycle.records.writer import RecordWriter
from otel_lifecycle.runtime.clock import SystemClock
from otel_lifecycle.telemetry.metrics import LifecycleMetrics

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
        records: Their records.
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
        self.records: list[LifecycleRecord] = list(read_records(path))
        self.lines = path.read_bytes()
        self._folder, self._name = folder, name
        self._disaggregated, self._phases = disaggregated, phases

    def weights(self) -> dict[str, float]:
        """Return the bytes of one request, and its CPU in microseconds."""
        content = encode_spans(self.spans).SerializeToString()
        return {
            "span, OTLP, bytes": len(content) / BATCH,
            "span, OTLP gzip, bytes": len(gzip.compress(content)) / BATCH,
            "record, bytes": len(self.lines) / BATCH,
            "record, gzip, bytes": len(gzip.compress(self.lines, 6)) / BATCH,
            "tracking, sampled, us": self._tracking_us(ALWAYS_ON),
            "tracking, unsampled, us": self._tracking_us(ParentBased(ALWAYS_OFF)),
            "encoding the span, us": cpu_us(
                lambda: encode_spans(self.spans).SerializeToString(), BATCH
            ),
            "its gzip, us": cpu_us(lambda: gzip.compress(content), BATCH),
            "metrics, us": self._metrics_us(),
            "writing the record, us": self._record_us(),
        }

    def _tracking_us(self, sampler: Sampler) -> float:
        name = f"{self._name}-{sampler.get_description()}"
        path = str(self._folder / f"{len(name)}-{self._name}.jsonl")
        tracker = RequestLifecycleTracker(
            TrackerConfig(
                store_name=name,
                phase_spans=self._phases,
                persistence=PersistenceConfig(
                    enabled=True, output_path=path, flush_threshold=2 * BATCH
                ),
            ),
            TracerProvider(sampler),
        )
        starts = list(Traffic(disaggregated=self._disaggregated).starts(BATCH))

        def track_all() -> None:
            for start in starts:
                tracked = tracker.track(start)
                tracked.chunk()
                tracked.complete(output_tokens=128, cached_tokens=200)

        cost = cpu_us(track_all, BATCH, between=tracker.flush)
        tracker.close()
        return cost

    def _metrics_us(self) -> float:
        tracker = RequestLifecycleTracker(TrackerConfig(store_name=f"{self._name}-metrics"))
        meters = MeterProvider([InMemoryMetricReader()])
        metrics = LifecycleMetrics(
            tracker.store, tracker.config, meters, lambda: None, SystemClock()
        )

        def record_all() -> None:
            for record in self.records:
                metrics.record(record)

        cost = cpu_us(record_all, BATCH)
        tracker.close()
        return cost

    def _record_us(self) -> float:
        path = str(self._folder / f"{self._name}-again.jsonl")
        writer = RecordWriter(
            PersistenceConfig(enabled=True, output_path=path, flush_threshold=BATCH * 2)
        )
        costs: list[float] = []
        for _ in range(ROUNDS):
            for record in self.records:
                writer.put(record)
            began = time.process_time_ns()
            writer.flush()
            costs.append((time.process_time_ns() - began) / BATCH / 1e3)
        writer.close()
        return min(costs)


def cpu_us(
    work: Callable[[], object], items: int, between: Callable[[], object] = lambda: None
) -> float:
    """Return the CPU of this thread for one item; the best of some rounds."""
    work()
    costs: list[float] = []
    for _ in range(ROUNDS):
        between()
        began = time.thread_time_ns()
        work()
        costs.append((time.thread_time_ns() - began) / items / 1e3)
    return min(costs)


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

    content, milliseconds = export(), cpu_us(export, 1) / 1e3
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
        f"{milliseconds:,.0f} ms CPU"
    )


def collectors(folder: Path) -> dict[str, float]:
    """Return the microseconds of CPU of agent and gateway per span; every trace is kept."""
    from tests.backends.programs import Backends

    backends = Backends(folder)
    with _grpc_sink() as sink:
        gateway = backends.collector(
            "gateway/config.yaml",
            name="gateway",
            TRACES_ENDPOINT=sink,
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


@contextmanager
def _grpc_sink() -> Iterator[str]:
    """A backend that accepts everything unread."""

    class Anything(grpc.GenericRpcHandler):
        def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
            return grpc.unary_unary_rpc_method_handler(lambda request, context: b"")

    server = grpc.server(ThreadPoolExecutor(4), handlers=[Anything()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None)


def print_requests(folder: Path) -> None:
    """Print the cost of each kind of request within the router, and of all metrics."""
    columns = {
        "aggregated": Request(folder, "aggregated", disaggregated=False, phases=False),
        "prefill/decode": Request(folder, "pd", disaggregated=True, phases=False),
        "with phase spans": Request(folder, "phases", disaggregated=True, phases=True),
    }
    weights = {title: request.weights() for title, request in columns.items()}
    print(f"| one request | {' | '.join(weights)} |\n|---|{'---:|' * len(weights)}")
    for row in weights["aggregated"]:
        figures = " | ".join(f"{column[row]:,.0f}" for column in weights.values())
        print(f"| {row} | {figures} |")
    print(f"\none export of the metrics of {ENDPOINTS} endpoints: {export_of_metrics()}")


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description="Measures what one request costs.")
    parser.add_argument("--collectors", action="store_true", help="in agent and gateway")
    arguments = parser.parse_args()
    print(f"Python {sys.version.split()[0]}, batches of {BATCH}, best of {ROUNDS} rounds\n")
    with tempfile.TemporaryDirectory() as name:
        if arguments.collectors:
            for tier, us in collectors(Path(name)).items():
                print(f"{tier}: {us:.0f} us of CPU a span")
        else:
            print_requests(Path(name))


if __name__ == "__main__":
    main()
