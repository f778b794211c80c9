"""Measures one request, compared with its budgets and with an equal bare SDK span.

Run with `python -m benchmarks.hot_path`. Machines differ, ratios hardly do: all variants take
turns in one process, without garbage collection, and CPU is that of the thread itself. Spans are
exported over OTLP and metrics recorded, as in a router; a process of its own takes the exports.
"""

from __future__ import annotations

import cProfile
import gc
import pstats
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, Sampler

from benchmarks import sink
from benchmarks.budget import Budget
from benchmarks.requests import (
    AGGREGATED,
    DISAGGREGATED,
    FORTY_ATTRIBUTES,
    exporting,
    serve,
    start,
    told,
    tracker,
)
from benchmarks.timing import Timed, Variant, difference, interleave, load, ratio
from otel_lifecycle import PersistenceConfig, RequestLifecycleTracker, Route
from otel_lifecycle.records.writer import RecordWriter
from otel_lifecycle.runtime.clock import SystemClock
from otel_lifecycle.telemetry.metrics import LifecycleMetrics

ROUNDS = 60
REQUESTS = 100
HELD = 2_000
PROFILED = 3_000


@dataclass(frozen=True)
class RequestCost:
    """The cost of one kind of request.

    Attributes:
        title: The kind.
        attributes: Number of attributes on its span.
        variants: Bare SDK span, SDK span without content, ours sampled, ours unsampled.
    """

    title: str
    attributes: int
    variants: tuple[Timed, Timed, Timed, Timed]

    @property
    def bare(self) -> Timed:
        """The bare SDK span."""
        return self.variants[0]

    @property
    def sampled_to_bare(self) -> float:
        """Ours relative to a bare span."""
        return ratio(self.variants[2].path_us, self.bare.path_us)

    @property
    def unsampled_to_bare(self) -> float:
        """Ours unsampled relative to a bare span."""
        return ratio(self.variants[3].path_us, self.bare.path_us)

    @property
    def floor_to_bare(self) -> float:
        """A span without content relative to a bare one."""
        return ratio(self.variants[1].path_us, self.bare.path_us)

    @property
    def all_to_bare(self) -> float:
        """Ours sampled and exported relative to a bare span exported: all threads."""
        return ratio(self.variants[2].all_us, self.bare.all_us)


@dataclass(frozen=True)
class HotPath:
    """All results.

    Attributes:
        costs: By kind of request.
        budgets: All but that of the event loop.
        encoding_us: CPU of encoding the two records in the budgets with msgspec.
        profile: Functions of ours and of the SDK by their own time, and its share.
        load: Load of the machine, before and after.
    """

    costs: list[RequestCost]
    budgets: list[Budget]
    encoding_us: tuple[float, float]
    profile: list[tuple[str, float]]
    load: tuple[float, float]


def measure() -> HotPath:
    """Measure for about a minute."""
    before = load()
    with tempfile.TemporaryDirectory() as name, sink.running() as collector:
        folder = Path(name)
        costs = [
            _request_cost(folder, title, route, collector.url)
            for title, route in (
                ("40 attributes", FORTY_ATTRIBUTES),
                ("one endpoint and its NPUs", AGGREGATED),
                ("prefill and decode", DISAGGREGATED),
            )
        ]
        metrics = metrics_variant(folder)
        interleave([metrics], ROUNDS, REQUESTS)
        forty = record_variant(folder, "written", FORTY_ATTRIBUTES)
        pair = record_variant(folder, "written, pair", DISAGGREGATED)
        interleave([forty, pair], ROUNDS, REQUESTS)
        encoding_us = _encoding_us(folder, FORTY_ATTRIBUTES), _encoding_us(folder, DISAGGREGATED)
        budgets = [
            Budget("sampled request, to a bare SDK span", 0.75, costs[0].sampled_to_bare, "x"),
            Budget(
                "the same, all threads, exported, to a bare SDK span and the stock exporter",
                0.4,
                costs[0].all_to_bare,
                "x",
                why="Path, metrics, line and encoded span have budgets of their own; the rest is "
                "sending, and threads that take turns",
            ),
            Budget(
                "unsampled request with its record, to a bare SDK span",
                0.45,
                costs[0].unsampled_to_bare,
                "x",
            ),
            Budget("a chunk after the first, above an empty call", 0.3, _chunk_us(folder), "us"),
            Budget(
                "metrics of a request, real MeterProvider",
                12.0,
                metrics.timed.path.median,
                "us",
            ),
            *(
                Budget(
                    f"one record, {title}, queued to written",
                    limit,
                    us,
                    "us CPU",
                    why=f"The floor is {floor_us:.1f} us: msgspec's encoding alone",
                )
                for title, limit, us, floor_us in (
                    ("40 attributes", 4.0, min(forty.timed.all_us), encoding_us[0]),
                    ("prefill and decode", 6.0, min(pair.timed.all_us), encoding_us[1]),
                )
            ),
            Budget("live state of one request in flight", 3.0, _live_kib(folder), "KiB"),
        ]
        profile = _profile(folder)
    return HotPath(costs, budgets, encoding_us, profile, (before, load()))


def _served(lifecycles: RequestLifecycleTracker, route: Route) -> Callable[[int], None]:
    return lambda number: serve(lifecycles, number, route)


def bare(folder: Path, route: Route, url: str) -> Variant:
    """A span written by hand: most attributes at the start, the result at the end."""
    _, said = told(folder, route)
    provider = exporting(TracerProvider(ALWAYS_ON, shutdown_on_exit=False), url)
    tracer = provider.get_tracer("bare")
    attributes = list((said.first | said.rest).items())
    known, result = dict(attributes[:-8]), dict(attributes[-8:])

    def run(_: int) -> None:
        span = tracer.start_span("route Qwen/Qwen3-8B", attributes=known)
        span.set_attributes(result)
        for name, _at_ns, event_attributes in said.events:
            span.add_event(name, event_attributes)
        span.end()

    return Variant("bare SDK span", run, provider.force_flush)


def _empty(url: str) -> Variant:
    """A span of the SDK without content: its start, and its end."""
    provider = exporting(TracerProvider(ALWAYS_ON, shutdown_on_exit=False), url)
    tracer = provider.get_tracer("floor")
    return Variant(
        "SDK span without content",
        lambda _: tracer.start_span("route Qwen/Qwen3-8B").end(),
        provider.force_flush,
    )


def ours(folder: Path, name: str, route: Route, url: str, sampler: Sampler) -> Variant:
    """Our request, with its metrics, its record and the export of its span."""
    provider = TracerProvider(sampler, shutdown_on_exit=False)
    exporting(provider, url, adopted=True)
    meters = MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False)
    lifecycles = tracker(folder, f"{folder.name} {name}", provider, meters)

    def settle() -> None:
        lifecycles.flush()
        provider.force_flush()

    return Variant(name, _served(lifecycles, route), settle)


def _request_cost(folder: Path, title: str, route: Route, url: str) -> RequestCost:
    _, said = told(folder, route)
    kind = folder / title
    kind.mkdir()
    variants = (
        bare(kind, route, url),
        _empty(url),
        ours(kind, "ours, sampled", route, url, ALWAYS_ON),
        ours(kind, "ours, not sampled, recorded", route, url, ParentBased(ALWAYS_OFF)),
    )
    interleave(variants, ROUNDS, REQUESTS)
    plain, empty, sampled, unsampled = (variant.timed for variant in variants)
    return RequestCost(title, len(said.first | said.rest), (plain, empty, sampled, unsampled))


def _chunk_us(folder: Path) -> float:
    class Empty:
        __slots__ = ()

        def chunk(self) -> None:
            return

    lifecycles = tracker(folder, "chunk", TracerProvider())
    tracked = lifecycles.track(start("request", AGGREGATED))
    tracked.chunk()
    empty = Empty()
    variants = [
        Variant("empty method", lambda _: empty.chunk()),
        Variant("chunk after the first", lambda _: tracked.chunk()),
    ]
    interleave(variants, ROUNDS, 50 * REQUESTS)
    nothing, later = (variant.timed for variant in variants)
    tracked.complete()
    lifecycles.close()
    return difference(later, nothing)


def metrics_variant(folder: Path) -> Variant:
    """What a finished request adds to counters and histograms; each round is collected once."""
    record, _ = told(folder, DISAGGREGATED)
    reader = InMemoryMetricReader()
    lifecycles = tracker(folder, "metrics", TracerProvider())
    metrics = LifecycleMetrics(
        lifecycles.store,
        lifecycles.config,
        MeterProvider([reader], shutdown_on_exit=False),
        lambda: None,
        SystemClock(),
    )
    return Variant("metrics", lambda _: metrics.record(record), reader.collect)


def record_variant(folder: Path, name: str, route: Route) -> Variant:
    """One record on its way to the file; only what all threads need is of interest."""
    record, _ = told(folder, route)
    writer = RecordWriter(
        PersistenceConfig(
            enabled=True,
            output_path=str(folder / f"{name}.jsonl"),
            flush_threshold=1_000_000,
            flush_interval="1h",  # pyright: ignore[reportArgumentType]
        )
    )
    return Variant(name, lambda _: writer.put(record), writer.flush)


def _encoding_us(folder: Path, route: Route) -> float:
    record, _ = told(folder, route)
    encode = msgspec.json.Encoder().encode
    variant = Variant("encoding", lambda _: encode(record))
    interleave([variant], ROUNDS, REQUESTS)
    return variant.timed.path.minimum


def _live_kib(folder: Path) -> float:
    lifecycles = tracker(folder, "memory", TracerProvider())
    lifecycles.track(start("warm", DISAGGREGATED)).complete()
    gc.collect()
    tracemalloc.start()
    held = [lifecycles.track(start(f"request-{n}", DISAGGREGATED)) for n in range(HELD)]
    used = tracemalloc.get_traced_memory()[0] / len(held)
    tracemalloc.stop()
    for tracked in held:
        tracked.complete()
    lifecycles.close()
    return used / 1024


def _profile(folder: Path) -> list[tuple[str, float]]:
    lifecycles = tracker(folder, "profile", TracerProvider())
    run = _served(lifecycles, FORTY_ATTRIBUTES)
    run(-1)
    profiler = cProfile.Profile(time.process_time)
    profiler.enable()
    for number in range(PROFILED):
        run(number)
    profiler.disable()
    lifecycles.close()
    stats: dict[Any, Any] = pstats.Stats(profiler).stats  # pyright: ignore[reportAttributeAccessIssue]
    own = {_label(*function): figures[2] for function, figures in stats.items()}
    total = sum(own.values())
    largest = sorted(own.items(), key=lambda entry: -entry[1])
    return [(name, seconds / total) for name, seconds in largest[:20]]


def _label(path: str, _line: int, function: str) -> str:
    for name in ("otel_lifecycle", "opentelemetry"):
        root, found, rest = path.rpartition(f"/{name}/")
        if found and (name == "opentelemetry" or "site-packages" not in root):
            return f"{name}/{rest}:{function}"
    return function if path == "~" else f"{Path(path).name}:{function}"


def main() -> None:
    """Print the tables."""
    result = measure()
    print(f"Python {sys.version.split()[0]}, {ROUNDS} rounds of {REQUESTS}, load {result.load}")
    for cost in result.costs:
        print(f"\n{cost.title}: {cost.attributes} attributes, 2 events")
        for variant in cost.variants:
            path = variant.path
            print(
                f"  {variant.name:<30}{path.median:8.1f} us   min {path.minimum:.1f}"
                f"   p10-p90 {path.p10:.1f}-{path.p90:.1f}"
            )
        print(
            f"  to bare: sampled {cost.sampled_to_bare:.2f} x,"
            f" unsampled {cost.unsampled_to_bare:.2f} x,"
            f" a span without content {cost.floor_to_bare:.2f} x;"
            f" exported, all threads {cost.all_to_bare:.2f} x"
        )
    print()
    print("\n".join(map(str, result.budgets)))
    print("msgspec's encoding alone: {:.2f} us and {:.2f} us".format(*result.encoding_us))
    print()
    for name, share in result.profile:
        print(f"  {share:6.1%} {name}")


if __name__ == "__main__":
    main()
