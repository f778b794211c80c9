"""Metrics whose values are added up before the SDK gets them say what they would say otherwise."""

from __future__ import annotations

import itertools
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.metrics import (
    CallbackOptions,
    Histogram,
    Meter,
    MeterProvider,
    NoOpMeter,
    NoOpMeterProvider,
    Observation,
)
from opentelemetry.metrics._internal import (
    _ProxyMeterProvider,  # pyright: ignore[reportPrivateUsage] - it has no public name
)
from opentelemetry.sdk import metrics as sdk
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    InMemoryMetricReader,
    MetricReader,
)
from opentelemetry.sdk.metrics.view import (
    Aggregation,
    DropAggregation,
    ExponentialBucketHistogramAggregation,
    View,
)
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased, TraceIdRatioBased

from otel_lifecycle import (
    LatencyPrediction,
    RequestLifecycleTracker,
    RequestStart,
    Route,
    TrackerConfig,
)
from otel_lifecycle.telemetry import sdk_inside
from otel_lifecycle.testing import ManualClock
from tests.routes import bare
from tests.waiting import PATIENCE_SECONDS

DELTA: dict[type, AggregationTemporality] = dict.fromkeys(
    (sdk.Counter, sdk.Histogram), AggregationTemporality.DELTA
)
# The default in other words: with a view the SDK is given each value by itself.
ONE_BY_ONE = [View(instrument_name="llm_router.*"), View(instrument_name="gen_ai.*")]
FINISHED = ("gen_ai.server.", "llm_router.predict", "llm_router.requests")

_numbers = itertools.count()


class CountedIds(IdGenerator):
    """The same ids in the same order; a sampler takes about half of them."""

    def __init__(self) -> None:
        self._next = itertools.count(1)

    def generate_trace_id(self) -> int:
        number = next(self._next)
        return number * 101 % 256 << 56 | number

    def generate_span_id(self) -> int:
        return next(self._next)


class Watched:
    """A tracker, and what several readers get of it."""

    def __init__(
        self,
        *readers: MetricReader,
        views: Sequence[View] = (),
        exemplars: sdk.ExemplarFilter | None = None,
        **settings: Any,
    ) -> None:
        self.readers = readers or (InMemoryMetricReader(), InMemoryMetricReader(DELTA))
        self.provider = sdk.MeterProvider(
            self.readers, views=views, exemplar_filter=exemplars, shutdown_on_exit=False
        )
        self.clock = ManualClock()
        sampler = ParentBased(TraceIdRatioBased(0.5))
        self.tracker = RequestLifecycleTracker(
            TrackerConfig(store_name=f"watched {next(_numbers)}", **settings),
            TracerProvider(sampler, shutdown_on_exit=False, id_generator=CountedIds()),
            self.provider,
            self.clock,
        )

    def close(self) -> None:
        self.tracker.close()
        self.provider.shutdown()

    def request(
        self,
        *,
        model: str = "m",
        pod: str = "qwen-0",
        ttft_ms: float | None = 250.0,
        decode_ms: float = 500.0,
        predicted_ms: float | None = None,
        error: str | None = None,
    ) -> None:
        """One request; its latencies are exact in binary, so that sums do not depend on order."""
        prediction = LatencyPrediction(predicted_ms, predicted_ms)
        started = RequestStart("request", Route(bare(pod)), model, prediction=prediction)
        tracked = self.tracker.track(started)
        if ttft_ms is not None:
            self.clock.advance(ttft_ms)
            tracked.chunk()
        self.clock.advance(decode_ms)
        if error is None:
            tracked.complete(output_tokens=5)
        else:
            tracked.fail(error)
        self.tracker.flush(timeout=30)

    def collect(self, number: int = 0) -> list[dict[str, Any]]:
        """The points that a reader gets of finished requests, by metric."""
        shown = [
            without_times(metric.name, point)
            for metric, point in points(self.readers[number])
            if metric.name.startswith(FINISHED)
        ]
        return sorted(shown, key=lambda point: point["name"])

    def counted(self, name: str, number: int = 0) -> int:
        """How many values a reader gets of one metric."""
        return sum(
            getattr(point, "count", None) or getattr(point, "value", 0)
            for metric, point in points(self.readers[number])
            if metric.name == name
        )


@contextmanager
def watched(*readers: MetricReader, **arguments: Any) -> Iterator[Watched]:
    """One that is closed in the end."""
    one = Watched(*readers, **arguments)
    try:
        yield one
    finally:
        one.close()


def points(reader: MetricReader) -> Iterator[tuple[Any, Any]]:
    """All that a reader collects now."""
    assert isinstance(reader, InMemoryMetricReader)
    data = reader.get_metrics_data()
    for resource in data.resource_metrics if data is not None else ():
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                for point in metric.data.data_points:
                    yield metric, point


def without_times(name: str, point: Any) -> dict[str, Any]:
    """A point, whole but for its times, and the exemplar of a counter: that is drawn by lot."""
    shown = {"name": name, "attributes": dict(point.attributes)}
    for field in ("value", "count", "sum", "bucket_counts", "explicit_bounds", "min", "max"):
        if hasattr(point, field):
            shown[field] = getattr(point, field)
    if hasattr(point, "bucket_counts"):
        shown["exemplars"] = [
            (exemplar.value, exemplar.trace_id, exemplar.span_id) for exemplar in point.exemplars
        ]
    return shown


EXACT_MS = st.sampled_from((0.0, 62.5, 125.0, 250.0, 500.0, 1000.0, 8000.0, 64000.0))
REQUESTS = st.fixed_dictionaries(
    {
        "model": st.sampled_from("ab"),
        "pod": st.sampled_from(("qwen-0", "qwen-1")),
        "ttft_ms": st.none() | EXACT_MS,
        "decode_ms": EXACT_MS,
        "predicted_ms": st.none() | EXACT_MS,
        "error": st.none() | st.sampled_from(("http_500", "timeout")),
    }
)


@settings(max_examples=60, deadline=None)
@given(steps=st.lists(REQUESTS | st.integers(0, 1), max_size=40))
def test_the_same_points(steps: list[dict[str, Any] | int]) -> None:
    """Whoever collects when: of each reader all points, in order, are those of single values."""
    with watched() as ours, watched(views=ONE_BY_ONE) as single:
        for step in [*steps, 0, 1]:
            if isinstance(step, int):
                assert ours.collect(step) == single.collect(step)
            else:
                ours.request(**step)
                single.request(**step)


def test_values_are_added_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK gets one value of a series by itself, however many there are."""
    given_to_the_sdk: list[float] = []
    record = sdk.Histogram.record

    def counting(self: Any, amount: float, *arguments: Any, **named: Any) -> None:
        given_to_the_sdk.append(amount)
        record(self, amount, *arguments, **named)

    monkeypatch.setattr(sdk.Histogram, "record", counting)
    with watched() as ours:
        given_to_the_sdk.clear()  # of the trial, which is made once in a process
        for _ in range(100):
            ours.request()
        assert ours.counted("gen_ai.server.request.duration") == 100
    assert len(given_to_the_sdk) == 3  # time to first token, per output token and duration


def test_a_series_begins_with_its_first_value() -> None:
    """Not when it is collected first."""
    with watched() as ours:
        ours.request()
        after_the_first = time.time_ns()
        ours.request()
        starts = [point.start_time_unix_nano for _, point in points(ours.readers[0])]

    finished = [start for start in starts if start is not None]
    assert max(finished[:4]) <= after_the_first


@pytest.mark.parametrize(
    "exemplar_filter", [sdk.AlwaysOffExemplarFilter(), sdk.AlwaysOnExemplarFilter()]
)
def test_other_exemplar_filters(exemplar_filter: sdk.ExemplarFilter) -> None:
    """None are kept, or those of spans that are not sampled as well."""
    with (
        watched(exemplars=exemplar_filter) as ours,
        watched(exemplars=exemplar_filter, views=ONE_BY_ONE) as single,
    ):
        for one in (ours, single):
            for latency in (62.5, 250.0, 250.0, 8000.0) * 3:
                one.request(ttft_ms=latency)
        assert ours.collect() == single.collect()


def test_another_aggregation() -> None:
    """A reader that prefers exponential buckets gets them of every value, the other its own."""
    preferred: dict[type, Aggregation] = {sdk.Histogram: ExponentialBucketHistogramAggregation()}
    readers = (InMemoryMetricReader(preferred_aggregation=preferred), InMemoryMetricReader())
    with watched(*readers) as ours:
        for latency in (62.5, 250.0, 1000.0):
            ours.request(ttft_ms=latency)
        durations = [
            (type(metric.data).__name__, point.count, point.sum)
            for reader in readers
            for metric, point in points(reader)
            if metric.name == "gen_ai.server.time_to_first_token"
        ]

    assert durations == [("ExponentialHistogram", 3, 1.3125), ("Histogram", 3, 1.3125)]


def test_views() -> None:
    """A metric may be dropped, or lose attributes, while the others are as always."""
    views = [
        View(instrument_name="gen_ai.server.request.duration", aggregation=DropAggregation()),
        View(instrument_name="gen_ai.server.time_to_first_token", attribute_keys=set()),
    ]
    with watched(views=views) as ours:
        for pod in ("qwen-0", "qwen-1", "qwen-1", "qwen-1"):
            ours.request(pod=pod)
        shown = [
            (point["name"], point["attributes"], point.get("count")) for point in ours.collect()
        ]

    assert [point for point in shown if point[0].startswith("gen_ai.server.")] == [
        (
            "gen_ai.server.time_per_output_token",
            {"gen_ai.request.model": "m", "server.address": f"{pod}.local", "server.port": 8000},
            count,
        )
        for pod, count in (("qwen-0", 1), ("qwen-1", 3))
    ] + [("gen_ai.server.time_to_first_token", {}, 4)]


def test_the_sdk_s_limit_of_series() -> None:
    """Beyond it values of all further series are in one, as the SDK has it."""
    shown: list[list[dict[str, Any]]] = []
    for views in ((), ONE_BY_ONE):
        with watched(views=views, max_metric_values=3_000) as one:
            for number in range(2_010):
                one.request(error=f"error {number}")
            for number in range(2_000, 2_010):
                one.request(error=f"error {number}")
            shown.append(one.collect())

    assert shown[0] == shown[1]
    assert sum(point.get("count", 0) for point in shown[0] if "max" in point) == 2 * 2_020


def test_a_reader_that_comes_later() -> None:
    """It gets what is recorded from then on."""
    late = InMemoryMetricReader()
    with watched() as ours:
        if not hasattr(ours.provider, "add_metric_reader"):
            pytest.skip("this SDK has no such readers")
        for _ in range(3):
            ours.request()
        ours.provider.add_metric_reader(late)
        for _ in range(5):
            ours.request()
        ours.readers = (*ours.readers, late)
        counts = [ours.counted("llm_router.requests", number) for number in range(3)]

    assert counts == [8, 8, 5]


@pytest.mark.parametrize("provider", [NoOpMeterProvider(), sdk.MeterProvider()])
def test_nobody_reads(provider: MeterProvider) -> None:
    """Metrics that go nowhere are no matter."""
    finish(provider, 5)


def test_the_last_values_are_exported() -> None:
    """What was recorded before the provider is shut down is in its last export."""
    exported: list[int] = []

    class Reader(InMemoryMetricReader):
        def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
            exported.extend(
                point.value
                for metric, point in points(self)
                if metric.name == "llm_router.requests"
            )

    with watched(Reader()) as ours:
        for _ in range(5):
            ours.request()
        ours.provider.shutdown()
        ours.request()

    assert exported == [5]


def test_a_request_that_ends_during_a_collection() -> None:
    """After which a reader of differences forgets the series, and gets it again with the next."""
    shown: list[list[dict[str, Any]]] = []
    for views in ((), ONE_BY_ONE):
        with watched(views=views) as one:

            def finish_late(_: CallbackOptions, one: Watched = one) -> list[Observation]:
                one.request()
                return []

            # It comes after ours.
            one.provider.get_meter("another").create_observable_gauge("late", [finish_late])
            collected = one.collect(1)
            for latency in (62.5, 1000.0, 250.0):
                one.request(ttft_ms=latency)
            collected += one.collect(0)
            one.request(ttft_ms=125.0)
            shown.append([*collected, *one.collect(1), *one.collect(0)])

    assert shown[0] == shown[1]


def test_many_threads() -> None:
    """Trackers in several threads record while two readers collect: every value arrives once."""
    per_thread, threads = 300, 4
    with watched() as ours:
        trackers = [
            RequestLifecycleTracker(
                TrackerConfig(store_name=f"watched {next(_numbers)}"),
                TracerProvider(ALWAYS_ON, shutdown_on_exit=False),
                ours.provider,
            )
            for _ in range(threads)
        ]
        done = threading.Event()
        deltas: list[int] = []

        def record(tracker: RequestLifecycleTracker) -> None:
            for number in range(per_thread):
                tracker.track(RequestStart(f"request-{number}", Route(bare("qwen-0")))).complete()

        def collect() -> None:
            while not done.is_set():
                deltas.append(ours.counted("gen_ai.server.request.duration", 1))
                ours.counted("llm_router.requests")

        collecting = threading.Thread(target=collect)
        collecting.start()
        recording = [threading.Thread(target=record, args=[tracker]) for tracker in trackers]
        for thread in recording:
            thread.start()
        for thread in recording:
            thread.join()
        for tracker in trackers:
            assert tracker.flush(timeout=30)
        done.set()
        collecting.join()
        deltas.append(ours.counted("gen_ai.server.request.duration", 1))

        assert sum(deltas) == threads * per_thread
        assert ours.counted("llm_router.requests") == threads * per_thread
        for tracker in trackers:
            tracker.close()


def test_a_forked_child() -> None:
    """It goes on from what its parent had recorded, and each counts its own from then on."""
    with watched() as ours:
        for _ in range(3):
            ours.request()
        child = os.fork()
        if child == 0:
            signal.alarm(round(PATIENCE_SECONDS))
            ours.request()
            os._exit(ours.counted("llm_router.requests"))
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        for _ in range(2):
            ours.request()

        assert code == 4
        assert ours.counted("llm_router.requests") == 5


def test_a_child_forked_in_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is forked while another thread records can record as well."""
    recording, forked, here = threading.Event(), threading.Event(), threading.get_ident()
    record = sdk.Histogram.record

    def slow(self: Any, amount: float, *arguments: Any, **named: Any) -> None:
        # Of the request or of its tracker, whichever is first.
        if threading.get_ident() != here and not recording.is_set():
            recording.set()
            forked.wait(PATIENCE_SECONDS)
        record(self, amount, *arguments, **named)

    monkeypatch.setattr(sdk.Histogram, "record", slow)
    with watched() as ours:
        thread = threading.Thread(target=ours.request)
        thread.start()
        assert recording.wait(PATIENCE_SECONDS)
        child = os.fork()
        if child == 0:
            signal.alarm(round(PATIENCE_SECONDS))
            ours.request(pod="qwen-1")
            os._exit(7)
        forked.set()
        thread.join()

        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


class VendorHistogram(Histogram):
    """Keeps what it is given."""

    def __init__(self, name: str, given: list[tuple[str, float]]) -> None:
        self._given = name, given

    def record(self, amount: float, *_: Any, **__: Any) -> None:
        name, given = self._given
        given.append((name, amount))


class VendorMeter(NoOpMeter):
    """Makes histograms of another vendor."""

    def __init__(self) -> None:
        super().__init__("vendor")
        self.given: list[tuple[str, float]] = []

    def create_histogram(self, name: str, *_: Any, **__: Any) -> Histogram:
        return VendorHistogram(name, self.given)


class VendorProvider(MeterProvider):
    """Of another vendor."""

    def __init__(self) -> None:
        self.meter = VendorMeter()

    def get_meter(self, *_: Any, **__: Any) -> Meter:
        return self.meter


def finish(provider: MeterProvider, requests: int) -> None:
    """Some requests of a tracker with that provider."""
    tracker = RequestLifecycleTracker(
        TrackerConfig(store_name=f"finished {next(_numbers)}"), meter_provider=provider
    )
    for _ in range(requests):
        tracker.track(RequestStart("request", Route(bare("qwen-0")))).complete()
    assert tracker.flush(timeout=30)
    tracker.close()


def test_another_vendor_s_provider() -> None:
    """It is given every value at once: nobody knows when it collects."""
    provider = VendorProvider()
    finish(provider, 5)

    assert [name for name, _ in provider.meter.given] == ["gen_ai.server.request.duration"] * 5


def test_a_provider_that_comes_later() -> None:
    """A tracker made before the global provider is set records from then on, as any other."""
    early = _ProxyMeterProvider()
    tracker = RequestLifecycleTracker(
        TrackerConfig(store_name=f"early {next(_numbers)}"), meter_provider=early
    )
    reader = InMemoryMetricReader()
    provider = sdk.MeterProvider([reader], shutdown_on_exit=False)
    for when in ("before", "after", "after", "after"):
        if when == "after":
            early.on_set_meter_provider(provider)
        tracker.track(RequestStart("request", Route(bare("qwen-0")))).complete()
        assert tracker.flush(timeout=30)
    counted = [p.value for metric, p in points(reader) if metric.name == "llm_router.requests"]
    tracker.close()
    provider.shutdown()

    assert counted == [3]


def test_an_sdk_that_is_not_as_known(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Values are recorded by themselves, which is said once, and loses nothing."""
    monkeypatch.setattr(sdk_inside, "add_values", lambda *_: None)
    monkeypatch.setattr(sdk_inside, "_is_understood", cache(sdk_inside._is_understood.__wrapped__))
    counts: list[int] = []
    with caplog.at_level(logging.DEBUG, sdk_inside.__name__):
        for _ in range(2):
            with watched() as ours:
                for _ in range(5):
                    ours.request()
                counts.append(ours.counted("gen_ai.server.time_to_first_token"))

    assert counts == [5, 5]
    assert [record.levelno for record in caplog.records if record.name == sdk_inside.__name__] == [
        logging.DEBUG
    ]
