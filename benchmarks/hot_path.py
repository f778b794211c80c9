"""Measures one request, compared with its budgets and with an equal bare SDK span.

Run with `python -m benchmarks.hot_path`. Machines differ, ratios hardly do: all variants take
turns in one process, without garbage collection, and CPU is that of the thread itself.
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
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased

from benchmarks.requests import (
    AGGREGATED,
    DISAGGREGATED,
    FORTY_ATTRIBUTES,
    Told,
    serve,
    start,
    told,
    tracker,
)
from benchmarks.timing import Timed, Variant, interleave, load, ratio
from otel_lifecycle import PersistenceConfig, RequestLifecycleTracker, Route
from otel_lifecycle.records.writer import RecordWriter
from otel_lifecycle.runtime.clock import SystemClock
from otel_lifecycle.telemetry.metrics import LifecycleMetrics

ROUNDS = 60
REQUESTS = 100
HELD = 2_000
PROFILED = 3_000


@dataclass(frozen=True)
class Budget:
    """One limit on our cost.

    Attributes:
        what: The promise.
        limit: The maximum.
        measured: The measured value.
        unit: Unit of both.
    """

    what: str
    limit: float
    measured: float
    unit: str

    @property
    def met(self) -> bool:
        """Whether the limit holds."""
        return self.measured <= self.limit


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
        _, _, sampled, _ = self.variants
        return ratio(sampled, self.bare)

    @property
    def unsampled_to_bare(self) -> float:
        """Ours unsampled relative to a bare span."""
        _, _, _, unsampled = self.variants
        return ratio(unsampled, self.bare)

    @property
    def floor_to_bare(self) -> float:
        """A span without content relative to a bare one."""
        _, floor, _, _ = self.variants
        return ratio(floor, self.bare)


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
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        costs = [
            _request_cost(folder, "40 attributes", FORTY_ATTRIBUTES),
            _request_cost(folder, "one endpoint and its NPUs", AGGREGATED),
            _request_cost(folder, "prefill and decode", DISAGGREGATED),
        ]
        budgets = [
            Budget("sampled request, to a bare SDK span", 0.75, costs[0].sampled_to_bare, "x"),
            Budget(
                "unsampled request with its record, to a bare SDK span",
                0.45,
                costs[0].unsampled_to_bare,
                "x",
            ),
            Budget("a chunk after the first, above an empty call", 0.3, _chunk_us(folder), "us"),
            Budget("metrics of a request, real MeterProvider", 12.0, _metrics_us(folder), "us"),
            *(
                Budget(f"one record, {title}, queued to written", limit, us, "us CPU")
                for title, limit, us in (
                    ("40 attributes", 4.0, _record_us(folder, FORTY_ATTRIBUTES)),
                    ("prefill and decode", 6.0, _record_us(folder, DISAGGREGATED)),
                )
            ),
            Budget("live state of one request in flight", 3.0, _live_kib(folder), "KiB"),
        ]
        encoding_us = _encoding_us(folder, FORTY_ATTRIBUTES), _encoding_us(folder, DISAGGREGATED)
        profile = _profile(folder)
    return HotPath(costs, budgets, encoding_us, profile, (before, load()))


def _served(lifecycles: RequestLifecycleTracker, route: Route) -> Callable[[int], None]:
    return lambda number: serve(lifecycles, number, route)


def _bare(said: Told) -> Callable[[int], None]:
    """A span written by hand: most attributes at the start, the result at the end."""
    tracer = TracerProvider(ALWAYS_ON).get_tracer("bare")
    attributes = list((said.first | said.rest).items())
    known, result = dict(attributes[:-8]), dict(attributes[-8:])

    def run(_: int) -> None:
        span = tracer.start_span("route Qwen/Qwen3-8B", attributes=known)
        span.set_attributes(result)
        for name, _at_ns, event_attributes in said.events:
            span.add_event(name, event_attributes)
        span.end()

    return run


def _floor() -> Callable[[int], None]:
    """A span of the SDK without content: its start, and its end."""
    tracer = TracerProvider(ALWAYS_ON).get_tracer("floor")

    def run(_: int) -> None:
        tracer.start_span("route Qwen/Qwen3-8B").end()

    return run


def _request_cost(folder: Path, title: str, route: Route) -> RequestCost:
    _, said = told(folder, route)
    on = tracker(folder, f"{title} on", TracerProvider(ALWAYS_ON))
    off = tracker(folder, f"{title} off", TracerProvider(ParentBased(ALWAYS_OFF)))
    variants = (
        Variant("bare SDK span", _bare(said)),
        Variant("SDK span without content", _floor()),
        Variant("ours, sampled", _served(on, route), on.flush),
        Variant("ours, not sampled, recorded", _served(off, route), off.flush),
    )
    interleave(variants, ROUNDS, REQUESTS)
    on.close()
    off.close()
    bare, floor, sampled, unsampled = (variant.timed for variant in variants)
    return RequestCost(title, len(said.first | said.rest), (bare, floor, sampled, unsampled))


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
    nothing, ours = (variant.timed.path.median for variant in variants)
    tracked.complete()
    lifecycles.close()
    return ours - nothing


def _metrics_us(folder: Path) -> float:
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
    variant = Variant("metrics", lambda _: metrics.record(record), reader.collect)
    interleave([variant], ROUNDS, REQUESTS)
    lifecycles.close()
    return variant.timed.path.median


def _record_us(folder: Path, route: Route) -> float:
    record, _ = told(folder, route)
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
        for _ in range(REQUESTS):
            writer.put(record)
        began = time.process_time_ns()
        writer.flush()
        costs.append((time.process_time_ns() - began) / REQUESTS / 1e3)
    writer.close()
    return min(costs)


def _encoding_us(folder: Path, route: Route) -> float:
    record, _ = told(folder, route)
    encode = msgspec.json.Encoder().encode
    costs: list[float] = []
    for _ in range(ROUNDS):
        began = time.process_time_ns()
        for _ in range(REQUESTS):
            encode(record)
        costs.append((time.process_time_ns() - began) / REQUESTS / 1e3)
    return min(costs)


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
            f" a span without content {cost.floor_to_bare:.2f} x"
        )
    print()
    for budget in result.budgets:
        kept = "" if budget.met else "   MISSED"
        print(f"{budget.what}: {budget.measured:.2f} {budget.unit}, at most {budget.limit}{kept}")
    print("msgspec's encoding alone: {:.2f} us and {:.2f} us".format(*result.encoding_us))
    print()
    for name, share in result.profile:
        print(f"  {share:6.1%} {name}")


if __name__ == "__main__":
    main()
