"""When records are written: threshold, interval, at once, when asked, and at the end."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import TracerProvider

from otel_lifecycle import LifecycleSpanProcessor, RequestLifecycleTracker
from tests.records.helpers import (
    Disk,
    enabled,
    numbered,
    open_descriptors,
    recorded,
    serve,
    settle,
    writer_threads,
)
from tests.records.helpers import (
    make_tracker as new_tracker,
)
from tests.turns import TurnClock
from tests.waiting import eventually


def test_threshold(
    make_tracker: Callable[..., RequestLifecycleTracker], path: Path, disk: Disk
) -> None:
    """Nothing is written below the threshold, and everything at it, in one append."""
    tracker = make_tracker(path, flush_threshold=3)
    serve(tracker, "a", "b")
    settle()
    assert not recorded(path)
    serve(tracker, "c")
    eventually(lambda: disk.writes)
    assert recorded(path) == ["a", "b", "c"]
    assert [path.read_bytes()] == disk.writes


def test_interval(make_tracker: Callable[..., RequestLifecycleTracker], path: Path) -> None:
    """With an interval, records are written when it has passed, however few they are."""
    tracker = make_tracker(path, flush_interval="20ms")
    for count, request_id in enumerate(expected := ["a", "b", "c"], start=1):
        serve(tracker, request_id)
        eventually(lambda count=count: expected[:count] == recorded(path))


def test_interval_only(
    make_tracker: Callable[..., RequestLifecycleTracker], path: Path, disk: Disk
) -> None:
    """With an interval and no threshold, no number of records triggers a write."""
    tracker = make_tracker(path, flush_interval="1h")
    serve(tracker, *(expected := numbered("request", 50)))
    settle()
    assert not disk.writes
    assert tracker.flush()
    assert expected == recorded(path)


def test_at_once(
    make_tracker: Callable[..., RequestLifecycleTracker], path: Path, disk: Disk
) -> None:
    """With neither threshold nor interval each record is written at once."""
    tracker = make_tracker(path)
    for count, request_id in enumerate(expected := ["a", "b", "c"], start=1):
        serve(tracker, request_id)
        eventually(lambda count=count: count == len(disk.writes))
        assert expected[:count] == recorded(path)
    assert path.read_bytes().splitlines(keepends=True) == disk.writes


def test_threshold_before_interval(
    make_tracker: Callable[..., RequestLifecycleTracker], path: Path
) -> None:
    """With both, a full threshold does not wait for the interval."""
    tracker = make_tracker(path, flush_threshold=2, flush_interval="1h")
    serve(tracker, "a")
    settle()
    assert not recorded(path)
    serve(tracker, "b")
    expected = ["a", "b"]
    eventually(lambda: expected == recorded(path))


def test_interval_before_threshold(
    make_tracker: Callable[..., RequestLifecycleTracker], path: Path
) -> None:
    """With both, the interval does not wait for the threshold."""
    tracker = make_tracker(path, flush_threshold=1_000, flush_interval="20ms")
    serve(tracker, *(expected := ["a"]))
    eventually(lambda: expected == recorded(path))


@pytest.mark.parametrize("interval", ["1ns", "2562047h47m16.854775807s", timedelta.max])
def test_extreme_intervals(
    make_tracker: Callable[..., RequestLifecycleTracker], path: Path, interval: str | timedelta
) -> None:
    """With the shortest and the longest interval, a flush still writes."""
    tracker = make_tracker(path, flush_interval=interval)
    for expected in (["a"], ["a", "b"]):
        serve(tracker, expected[-1])
        assert tracker.flush(timeout=30)
        assert expected == recorded(path)
    assert writer_threads()


def test_force_flush(
    make_tracker: Callable[..., RequestLifecycleTracker],
    make_processor: Callable[..., LifecycleSpanProcessor],
    path: Path,
) -> None:
    """The provider's `force_flush` writes queued records; flushing nothing succeeds."""
    processor = make_processor(path, flush_threshold=1_000)
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(processor)
    assert provider.force_flush()
    serve(make_tracker(None, provider), *(expected := ["a", "b"]))
    assert (processor.queued, processor.written) == (2, 0)
    assert provider.force_flush()
    assert (processor.queued, processor.written) == (0, 2)
    assert expected == recorded(path)


def test_force_flush_of_a_hanging_disk(
    make_tracker: Callable[..., RequestLifecycleTracker], path: Path, disk: Disk
) -> None:
    """A flush that takes too long returns, and the records are written later."""
    tracker = make_tracker(path)
    disk.released.clear()
    serve(tracker, *(expected := ["a"]))
    assert not tracker.flush(timeout=0.02)
    disk.released.set()
    assert tracker.flush(timeout=30)
    assert expected == recorded(path)


def test_shutdown(
    make_tracker: Callable[..., RequestLifecycleTracker],
    make_processor: Callable[..., LifecycleSpanProcessor],
    path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Shutdown writes queued records, once; later records are dropped, counted and logged."""
    processor = make_processor(path, flush_threshold=1_000)
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(processor)
    tracker = make_tracker(None, provider)
    serve(tracker, *(expected := ["a"]))
    processor.shutdown()
    processor.shutdown()
    serve(tracker, "b", "c")
    assert processor.force_flush()
    assert expected == recorded(path)
    assert (processor.written, processor.dropped, processor.queued) == (1, 2, 0)
    assert [f"{path}: 1 records dropped so far: the writer is closed"] == caplog.messages
    assert open_descriptors(path) == 0


def test_close_is_bounded(path: Path, disk: Disk) -> None:
    """A hanging disk delays `close` only by its timeout; the rest is dropped and counted."""
    threads = writer_threads()
    tracker = new_tracker(path, flush_threshold=1_000, close_timeout="20ms")
    sink = tracker.store.sink
    assert sink is not None
    disk.released.clear()
    serve(tracker, "a")
    assert not tracker.flush(timeout=0.001)
    disk.reached.wait()
    serve(tracker, "b", "c")
    closing = threading.Thread(target=tracker.close)
    closing.start()
    closing.join(30)
    assert not closing.is_alive()
    assert (sink.queued, sink.dropped) == (0, 2)
    disk.released.set()
    eventually(lambda: writer_threads() <= threads)
    expected = ["a"]
    assert expected == recorded(path)
    assert (sink.written, sink.dropped) == (1, 2)
    assert open_descriptors(path) == 0


def test_close_from_many_threads(path: Path) -> None:
    """With concurrent closes and puts, nobody waits for ever and each record counts once."""
    provider = TracerProvider(shutdown_on_exit=False)
    processor = LifecycleSpanProcessor(enabled(path))
    provider.add_span_processor(processor)
    tracker = new_tracker(None, provider, store_name="closed by many")
    barrier = threading.Barrier(8)

    def put(name: str) -> None:
        barrier.wait()
        serve(tracker, *numbered(name, 50))

    def close() -> None:
        barrier.wait()
        processor.shutdown()

    threads = [threading.Thread(target=put, args=(f"thread-{n}",)) for n in range(4)]
    threads += [threading.Thread(target=close) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert processor.force_flush(30_000)
    written = recorded(path)
    assert len(set(written)) == len(written) == processor.written
    assert processor.written + processor.dropped == 200
    assert processor.queued == 0
    assert open_descriptors(path) == 0
    tracker.close()


def test_forgotten_processor(path: Path) -> None:
    """A processor collected without shutdown writes its records and leaves nothing."""
    threads = writer_threads()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(LifecycleSpanProcessor(enabled(path, flush_threshold=1_000)))
    tracker = new_tracker(None, provider, store_name="forgetful")
    serve(tracker, *(expected := ["a", "b"]))
    tracker.close()
    del tracker, provider

    def is_gone() -> bool:
        gc.collect()  # a thread may have held them a moment longer
        return writer_threads() <= threads and open_descriptors(path) == 0

    eventually(is_gone)
    assert expected == recorded(path)


def test_opening_and_closing_leaves_nothing(path: Path) -> None:
    """Trackers that come and go leave no threads and no file descriptors."""
    threads = writer_threads()
    for request_id in (expected := numbered("request", 20)):
        tracker = new_tracker(path)
        serve(tracker, request_id)
        tracker.close()
    assert expected == recorded(path)
    eventually(lambda: writer_threads() <= threads and open_descriptors(path) == 0)


@pytest.mark.parametrize(
    ("is_over", "records", "pauses"),
    [(False, 120, 0), (True, 120, 9), (True, 1_200, 42 + 14)],
    ids=["within one turn", "a turn each slice", "the first batch of many"],
)
def test_pauses(
    make_tracker: Callable[..., RequestLifecycleTracker],
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    is_over: bool,
    records: int,
    pauses: int,
) -> None:
    """The router's threads get their turn, unless another whole batch waits."""
    clock = TurnClock(monkeypatch, is_over)
    tracker = make_tracker(path, flush_threshold=10_000)
    serve(tracker, *numbered("request", records))

    assert tracker.flush()

    assert clock.pauses["otel-lifecycle-writer"] == pauses
