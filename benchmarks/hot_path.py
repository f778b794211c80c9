"""What one request costs, against a bare SDK span that says the same.

Run with `make bench`. All variants run interleaved in one process, garbage collection off; the
table shows medians of many short rounds and their ratios. Machines differ, ratios hardly do.
"""

from __future__ import annotations

import gc
import statistics
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased

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
from otel_lifecycle.persistence.writer import RecordWriter
from otel_lifecycle.spans import end_attributes, span_events, start_attributes

ROUNDS = 60
REQUESTS_A_ROUND = 200


def _endpoint(name: str) -> RouteEndpoint:
    now = datetime.now(timezone.utc)
    return RouteEndpoint(
        Endpoint("llm", name, "10.0.0.7", "8000"),
        EndpointMetrics(
            running_requests=3,
            waiting_requests=1,
            kv_cache_usage=0.31,
            cache_block_size=128,
            cache_num_blocks=4096,
            update_time=now,
        ),
        NPUState(
            observation_time=now,
            data_status="fresh",
            device_count=2,
            ai_core_utilization_avg=63,
            ai_core_utilization_max=66,
            hbm_utilization_avg=71,
            hbm_utilization_max=71,
            hbm_bandwidth_utilization_avg=40,
            hbm_bandwidth_utilization_max=44,
            devices=tuple(NPUDevice("10.0.1.3:8082", chip, 63, 71, 42) for chip in "01"),
        ),
    )


AGGREGATED = Route(_endpoint("qwen-0"))
DISAGGREGATED = Route(_endpoint("leader-0"), _endpoint("prefill-0"), _endpoint("decode-0"))


def _start(request_id: str, route: Route) -> RequestStart:
    return RequestStart(
        request_id,
        route,
        "Qwen/Qwen3-8B",
        512,
        "tokenized",
        prefix_cache_score=0.42,
        prediction=LatencyPrediction(210.0, 18.5),
        candidates=8,
        policy="prefix+load+prediction",
        operation="chat",
        provider="vllm",
    )


class Variant:
    """One way to serve a request, timed in rounds."""

    def __init__(self, name: str, run: Callable[[int], None]) -> None:
        self.name = name
        self.run = run
        self.microseconds: list[float] = []

    def round(self, first: int) -> None:
        began = time.perf_counter_ns()
        for number in range(first, first + REQUESTS_A_ROUND):
            self.run(number)
        self.microseconds.append((time.perf_counter_ns() - began) / REQUESTS_A_ROUND / 1e3)

    @property
    def median(self) -> float:
        return statistics.median(self.microseconds)


def _interleave(variants: list[Variant], between: Callable[[], object]) -> None:
    for variant in variants:
        variant.run(-1)
    gc.collect()
    gc.disable()
    for number in range(ROUNDS):
        for variant in variants:
            variant.round(number * REQUESTS_A_ROUND)
            between()
    gc.enable()


def _tracker(folder: Path, name: str, provider: TracerProvider) -> RequestLifecycleTracker:
    return RequestLifecycleTracker(
        TrackerConfig(
            store_name=name,
            persistence=PersistenceConfig(
                enabled=True,
                output_path=str(folder / f"{name}.jsonl"),
                flush_threshold=1_000_000,
                flush_interval="1h",  # pyright: ignore[reportArgumentType]
            ),
        ),
        tracer_provider=provider,
    )


def _tracked(tracker: RequestLifecycleTracker, route: Route) -> Callable[[int], None]:
    def run(number: int) -> None:
        tracked = tracker.track(_start(f"request-{number}", route))
        tracked.chunk()
        tracked.complete(output_tokens=128, cached_tokens=200)

    return run


def _bare(provider: TracerProvider, record: LifecycleRecord) -> Callable[[int], None]:
    tracer = provider.get_tracer("bare")
    attributes = {**start_attributes(record), **end_attributes(record)}
    start, end = dict(list(attributes.items())[:-8]), dict(list(attributes.items())[-8:])
    events = span_events(record)

    def run(_: int) -> None:
        span = tracer.start_span("route Qwen/Qwen3-8B", attributes=start)
        span.set_attributes(end)
        for name, _at, event_attributes in events:
            span.add_event(name, event_attributes)
        span.end()

    return run


def _request_cost(folder: Path, label: str, route: Route) -> None:
    on, off = TracerProvider(sampler=ALWAYS_ON), TracerProvider(sampler=ParentBased(ALWAYS_OFF))
    sampled, unsampled = _tracker(folder, f"{label}-on", on), _tracker(folder, f"{label}-off", off)
    _tracked(sampled, route)(0)
    sampled.flush()
    record = next(read_records(folder / f"{label}-on.jsonl"))
    count = len(start_attributes(record)) + len(end_attributes(record))
    variants = [
        Variant("bare SDK span", _bare(TracerProvider(sampler=ALWAYS_ON), record)),
        Variant("sampled", _tracked(sampled, route)),
        Variant("unsampled, recorded", _tracked(unsampled, route)),
    ]
    _interleave(variants, lambda: (sampled.flush(), unsampled.flush()))
    bare, ours, cheap = (variant.median for variant in variants)
    print(f"\n{label}: {count} attributes, 2 events")
    for variant in variants:
        print(f"  {variant.name:<22}{variant.median:8.1f} us   min {min(variant.microseconds):.1f}")
    print(f"  sampled / bare        {ours / bare:8.2f} x    budget 1.35")
    print(f"  unsampled / sampled   {cheap / ours:8.2f} x    budget 0.60")
    sampled.close()
    unsampled.close()


def _chunk_cost(folder: Path) -> None:
    class Empty:
        __slots__ = ()

        def chunk(self) -> None:
            return

    tracker = _tracker(folder, "chunk", TracerProvider())
    tracked = tracker.track(_start("request", AGGREGATED))
    tracked.chunk()
    empty = Empty()
    variants = [
        Variant("empty method", lambda _: empty.chunk()),
        Variant("chunk after the first", lambda _: tracked.chunk()),
    ]
    _interleave(variants, lambda: None)
    nothing, ours = (variant.median for variant in variants)
    print(f"\nchunk after the first: {ours - nothing:.3f} us above an empty method   budget 0.3")
    tracked.complete()
    tracker.close()


def _record_cost(folder: Path) -> None:
    tracker = _tracker(folder, "source", TracerProvider())
    _tracked(tracker, DISAGGREGATED)(0)
    tracker.flush()
    record = next(read_records(folder / "source.jsonl"))
    tracker.close()
    writer = RecordWriter(
        PersistenceConfig(
            enabled=True,
            output_path=str(folder / "written.jsonl"),
            flush_threshold=1_000_000,
            flush_interval="1h",  # pyright: ignore[reportArgumentType]
        )
    )
    costs: list[float] = []
    for _ in range(ROUNDS):
        for _ in range(REQUESTS_A_ROUND):
            writer.put(record)
        began = time.process_time_ns()
        writer.flush()
        costs.append((time.process_time_ns() - began) / REQUESTS_A_ROUND / 1e3)
    size = (folder / "written.jsonl").stat().st_size / (ROUNDS * REQUESTS_A_ROUND)
    print(
        f"\nrecord, queued to written: {statistics.median(costs):.1f} us CPU, "
        f"{size:.0f} bytes (PD)   budget 6"
    )
    writer.close()


def _memory(folder: Path) -> None:
    tracker = _tracker(folder, "memory", TracerProvider())
    tracker.track(_start("warm", DISAGGREGATED)).complete()
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    handles = [tracker.track(_start(f"request-{n}", DISAGGREGATED)) for n in range(2_000)]
    used = (tracemalloc.get_traced_memory()[0] - before) / len(handles)
    tracemalloc.stop()
    print(f"\nlive state of one request in flight (PD): {used / 1024:.1f} KiB   budget 6")
    for tracked in handles:
        tracked.complete()
    tracker.close()


def main() -> None:
    """Prints the table."""
    print(f"Python {sys.version.split()[0]}, {ROUNDS} rounds of {REQUESTS_A_ROUND} requests")
    with tempfile.TemporaryDirectory() as folder:
        _request_cost(Path(folder), "aggregated", AGGREGATED)
        _request_cost(Path(folder), "prefill_decode", DISAGGREGATED)
        _chunk_cost(Path(folder))
        _record_cost(Path(folder))
        _memory(Path(folder))


if __name__ == "__main__":
    main()
