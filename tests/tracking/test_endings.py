"""A request ends exactly once, however it ends, and no error of ours reaches the router."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Callable, Generator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor

from otel_lifecycle import (
    LifecycleRecord,
    Load,
    Outcome,
    RequestCompletion,
    RequestLifecycleTracker,
    RequestStart,
    Route,
    TrackedRequest,
    TrackerConfig,
    read_records,
)
from otel_lifecycle.tracking import lifecycle
from tests.conftest import Bench
from tests.records.helpers import run_script
from tests.routes import aggregated, bare, endpoint, start


def endings(bench: Bench) -> list[tuple[str, str | None]]:
    """Return outcome and error type of each record."""
    return [
        (record.outcome.value, record.error.type if record.error else None)
        for record in bench.records
    ]


@pytest.mark.parametrize(
    ("exception", "ending"),
    [
        (ValueError("text"), ("error", "ValueError")),
        (asyncio.TimeoutError(), ("error", "TimeoutError")),
        (asyncio.CancelledError(), ("client_disconnect", None)),
        (GeneratorExit(), ("client_disconnect", None)),
        (KeyboardInterrupt(), ("shutdown", None)),
        (SystemExit(0), ("shutdown", None)),
    ],
)
def test_block_left_by_an_exception(
    bench: Bench, exception: BaseException, ending: tuple[str, str | None]
) -> None:
    """An exception that leaves the block is the outcome, and is raised unchanged."""
    with pytest.raises(type(exception)) as raised, bench.tracker.track(start()):
        raise exception

    assert raised.value is exception
    assert endings(bench) in ([ending], [(ending[0], f"asyncio.exceptions.{ending[1]}")])


@pytest.mark.parametrize(
    ("streaming", "error"), [(True, "stream_truncated"), (False, "incomplete")]
)
def test_block_left_without_an_end(bench: Bench, streaming: bool, error: str) -> None:
    """Leaving the block without `complete` is an error: a stream without its terminator."""
    with bench.tracker.track(
        RequestStart("request-1", aggregated(), streaming=streaming)
    ) as tracked:
        tracked.chunk()

    assert endings(bench) == [("error", error)]


class ProgramError(Exception):
    """As the program itself would define one."""

    __module__ = "__main__"


@pytest.mark.parametrize(
    ("end", "ending"),
    [
        (lambda tracked: tracked.complete(), ("completed", None)),
        (lambda tracked: tracked.fail(OSError("text")), ("error", "OSError")),
        (lambda tracked: tracked.fail(ProgramError()), ("error", "ProgramError")),
        (lambda tracked: tracked.fail("http_500"), ("error", "http_500")),
        (lambda tracked: tracked.disconnect(), ("client_disconnect", None)),
        (
            lambda tracked: tracked.end(RequestCompletion(Outcome.EVICTED)),
            ("evicted", None),
        ),
    ],
)
def test_the_first_end_counts(
    bench: Bench, end: Callable[[TrackedRequest], None], ending: tuple[str, str | None]
) -> None:
    """After the first end all calls are only counted."""
    tracked = bench.tracker.track(start())

    end(tracked)
    tracked.chunk()
    tracked.complete(output_tokens=1)
    tracked.fail("late")
    tracked.disconnect()
    tracked.reroute(Route(bare("qwen-1")))

    assert endings(bench) == [ending]
    assert len(bench.spans) == 1
    assert bench.tracker.store.ignored == {"already_finished": 4}
    assert bench.tracker.store.loads() == {"pod://llm/qwen-0": Load()}


def test_generator_closed_in_the_middle(bench: Bench) -> None:
    """Closing a generator that streams a response disconnects the request."""

    def stream() -> Generator[bytes, None, None]:
        with bench.tracker.track(start()) as tracked:
            for part in (b"a", b"b"):
                tracked.chunk()
                yield part
            tracked.complete()

    generator = stream()
    assert next(generator) == b"a"
    generator.close()

    assert endings(bench) == [("client_disconnect", None)]


def test_async_generator_finished_in_another_task(bench: Bench) -> None:
    """A stream may be made in one task and consumed in another; no context leaks."""

    async def stream() -> AsyncIterator[bytes]:
        async with bench.tracker.track(start()) as tracked:
            for part in (b"a", b"b"):
                tracked.chunk()
                yield part
                assert not trace.get_current_span().get_span_context().is_valid
            tracked.complete(output_tokens=2)

    async def main() -> None:
        iterator = stream()
        first = await asyncio.create_task(anext_of(iterator))
        rest = await asyncio.create_task(drain(iterator))
        assert [first, *rest] == [b"a", b"b"]

    async def anext_of(iterator: AsyncIterator[bytes]) -> bytes:
        return await iterator.__anext__()

    async def drain(iterator: AsyncIterator[bytes]) -> list[bytes]:
        return [part async for part in iterator]

    asyncio.run(main())

    assert endings(bench) == [("completed", None)]


def test_collected_handle(bench: Bench) -> None:
    """A handle collected without an end is abandoned, also in a reference cycle."""
    bench.tracker.track(start("request-1"))
    cycle: list[object] = [bench.tracker.track(start("request-2"))]
    cycle.append(cycle)
    del cycle
    gc.collect()

    assert endings(bench) == [("abandoned", None), ("abandoned", None)]
    assert bench.tracker.store.active_requests == 0


def test_finished_task_without_an_end(bench: Bench) -> None:
    """A task that forgets its request abandons it at its end."""

    async def forgetful() -> None:
        tracked = bench.tracker.track(start())
        tracked.chunk()
        await asyncio.sleep(0)

    asyncio.run(forgetful())

    assert endings(bench) == [("abandoned", None)]


def test_collected_while_a_lock_is_held(bench: Bench) -> None:
    """A finalizer takes no lock: it may run inside any of ours or the SDK's."""
    store_lock = bench.tracker.store._lock
    done = threading.Event()

    def collect() -> None:
        bench.tracker.track(start("request-2"))
        done.set()

    with store_lock:
        handle = bench.tracker.track(start("request-1"))
        del handle
    thread = threading.Thread(target=collect)
    thread.start()
    assert done.wait(30)
    thread.join()

    assert endings(bench) == [("abandoned", None), ("abandoned", None)]


def test_close(bench: Bench) -> None:
    """Closing ends open requests as `shutdown`; the tracker then does nothing. Twice is fine."""
    tracked = bench.tracker.track(start())

    bench.tracker.close()
    bench.tracker.close()
    tracked.complete()
    with bench.tracker.track(start("request-2")) as late:
        assert not late.is_tracked
        late.chunk()
        late.complete()

    assert endings(bench) == [("shutdown", None)]
    assert bench.tracker.store.ignored == {"already_finished": 1, "closed": 1}


def test_trackers_of_one_store(bench: Bench) -> None:
    """Trackers of one name share load and file; each closes only its own requests."""
    other = RequestLifecycleTracker(
        bench.tracker.config, bench.telemetry.tracer_provider, bench.telemetry.meter_provider
    )
    mine = bench.tracker.track(start("request-1"))
    other.track(start("request-2")).complete()
    theirs = other.track(start("request-3"))

    assert bench.tracker.store is other.store
    other.close()
    assert bench.tracker.load(endpoint("qwen-0")) == Load(512, 1)
    mine.complete()

    assert [(record.request_id, record.outcome.value) for record in bench.records] == [
        ("request-2", "completed"),
        ("request-3", "shutdown"),
        ("request-1", "completed"),
    ]
    assert not theirs.is_tracked
    assert len(bench.spans) == 3


def test_id_in_flight_at_another_tracker_of_the_store(bench: Bench) -> None:
    """The tracker that started a request ends its span as superseded."""
    other = RequestLifecycleTracker(TrackerConfig(store_name=bench.tracker.config.store_name))
    tracked = bench.tracker.track(start())
    other.track(start()).complete()
    other.close()

    assert endings(bench) == [("superseded", None), ("completed", None)]
    assert [span["attributes"]["llm_router.outcome"] for span in bench.spans] == ["superseded"]
    assert not tracked.is_tracked


def test_full_table(make_bench: Callable[..., Bench]) -> None:
    """Beyond the limit new requests are ignored and counted; an id in flight may come again."""
    bench = make_bench(max_inflight=1)
    first = bench.tracker.track(start("request-1"))
    second = bench.tracker.track(start("request-2"))
    again = bench.tracker.track(start("request-1"))

    assert [first.is_tracked, second.is_tracked, again.is_tracked] == [False, False, True]
    again.complete()
    assert bench.tracker.store.ignored == {"table_full": 1, "duplicate_start": 1}


@pytest.mark.parametrize(
    ("request_start", "reason"),
    [
        (None, "no_request_id"),
        (RequestStart("", aggregated()), "no_request_id"),
        (RequestStart("request-1", None), "no_endpoint"),
        (RequestStart("request-1", "qwen-0"), "no_endpoint"),  # type: ignore[arg-type]
        (RequestStart("request-1", Route(None)), "no_endpoint"),  # type: ignore[arg-type]
        (RequestStart(7, aggregated()), "no_request_id"),  # type: ignore[arg-type]
    ],
)
def test_nothing_to_track(bench: Bench, request_start: RequestStart, reason: str) -> None:
    """Without request, id or endpoint the handle does nothing."""
    with bench.tracker.track(request_start) as tracked:
        headers: dict[str, str] = {}
        tracked.inject(headers)
        with tracked.active():
            tracked.chunk()
        tracked.reroute(aggregated())
        tracked.complete()

    assert (headers, bench.records, bench.spans) == ({}, [], [])
    assert bench.tracker.store.ignored == {reason: 1}


def test_raising_processor(bench: Bench) -> None:
    """Another processor that raises harms neither record, metrics nor router."""

    class Raising(SpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:
            raise RuntimeError("on_end")

    bench.telemetry.tracer_provider.add_span_processor(Raising())
    with bench.tracker.track(start()) as tracked:
        tracked.complete()

    assert endings(bench) == [("completed", None)]
    assert sum(bench.telemetry.metrics()["llm_router.requests"].values()) == 1
    assert bench.tracker.store.ignored == {"hook_error": 1}


def test_end_that_fails_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails in the middle of an end is done again: record, span and load are complete."""
    complete = lifecycle.whole_record
    failures = iter([RuntimeError("once")])

    def fail_once(*arguments: Any) -> tuple[LifecycleRecord, int]:
        for failure in failures:
            raise failure
        return complete(*arguments)

    monkeypatch.setattr(lifecycle, "whole_record", fail_once)
    bench.tracker.track(start()).complete(output_tokens=8)
    bench.tracker.track(start("next")).complete(output_tokens=9)

    assert [(each.request_id, each.output_length) for each in bench.records] == [
        ("request-1", 8),
        ("next", 9),
    ]
    assert [span["attributes"]["gen_ai.usage.output_tokens"] for span in bench.spans] == [8, 9]
    assert bench.tracker.load(endpoint("qwen-0")) == Load()
    assert bench.tracker.store.ignored == {"hook_error": 1}


def test_threads(bench: Bench) -> None:
    """Requests may start and end in any thread, concurrently."""

    def work(thread: int) -> None:
        for number in range(50):
            tracked = bench.tracker.track(start(f"request-{thread}-{number}"))
            tracked.chunk()
            other = threading.Thread(target=tracked.complete) if number % 10 == 0 else None
            if other is None:
                tracked.complete()
            else:
                other.start()
                other.join()

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    records = bench.records
    assert len({record.span_id for record in records}) == len(records) == 200
    assert {record.outcome for record in records} == {Outcome.COMPLETED}
    assert bench.tracker.store.loads() == {"pod://llm/qwen-0": Load()}


def test_chunk_after_the_end(bench: Bench) -> None:
    """A late chunk does not change a record that waits to be written."""
    tracked = bench.tracker.track(msgspec.structs.replace(start(), streaming=None))
    tracked.complete()
    tracked.chunk()

    (record,) = bench.records
    assert (record.streaming, record.first_chunk_at) == (None, None)


@pytest.mark.parametrize(
    ("outcome", "ending", "ignored"),
    [
        ("evicted", ("evicted", None), {}),
        ("exploded", ("error", "_OTHER"), {"invalid_value": 1}),
        (None, ("error", "_OTHER"), {"invalid_value": 1}),
    ],
)
def test_outcome_of_another_type(
    bench: Bench, outcome: Any, ending: tuple[str, str | None], ignored: dict[str, int]
) -> None:
    """An invalid outcome becomes an error: the file never has one that its readers refuse."""
    bench.tracker.track(start()).end(RequestCompletion(outcome=outcome))

    assert endings(bench) == [ending]
    assert bench.tracker.store.ignored == ignored
    assert len(bench.telemetry.spans) == 1


def test_flushed_while_a_span_ends(bench: Bench) -> None:
    """Whoever hears of a span's end, and flushes, finds the record in the file."""
    found: list[int] = []

    class Flushing(SpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:
            found.append(len(bench.records))

    bench.telemetry.tracer_provider.add_span_processor(Flushing())
    bench.tracker.track(start()).complete()

    assert (found, len(bench.records)) == ([1], 1)


def test_closed_while_a_request_starts(bench: Bench) -> None:
    """A request that starts while the tracker closes does not stay in flight."""

    class Closing(SpanProcessor):
        def on_start(self, span: Span, parent_context: Context | None = None) -> None:
            bench.tracker.close()

    bench.telemetry.tracer_provider.add_span_processor(Closing())
    tracked = bench.tracker.track(start())

    assert not tracked.is_tracked
    assert bench.tracker.store.active_requests == 0
    assert bench.tracker.load(endpoint("qwen-0")) == Load()
    (span,) = bench.spans
    assert span["attributes"]["llm_router.outcome"] == "shutdown"


def test_rejected_in_a_forked_child(tmp_path: Path) -> None:
    """A child that only rejects requests counts them on a worker, and its tracker closes.

    This holds even if another thread held a lock of the tracker's worker during the fork.
    """
    script = """
import os, signal, sys, threading, warnings
from opentelemetry.sdk.trace import TracerProvider
from otel_lifecycle import RequestStart
from tests.records.helpers import make_tracker

warnings.simplefilter("ignore")  # that fork and threads do not mix
tracker = make_tracker(sys.argv[1], TracerProvider())
worker = tracker._recorder._background
locked, forked = threading.Event(), threading.Event()

def hold():
    with worker.closed._cond:
        locked.set()
        forked.wait()

thread = threading.Thread(target=hold)
thread.start()
locked.wait()
pid = os.fork()
if pid == 0:
    signal.alarm(60)
    tracker.reject(RequestStart("rejected", None), "no_candidates")
    assert "otel-lifecycle-background" in {thread.name for thread in threading.enumerate()}
    tracker.close()
    os._exit(0)
forked.set()
thread.join()
assert os.waitpid(pid, 0)[1] == 0
"""
    process = run_script(script, tmp_path / "records.jsonl")

    assert process.returncode == 0, process.stderr
    (record,) = read_records(tmp_path / "records.jsonl")
    assert record.outcome is Outcome.REJECTED


def test_client_gone_before_a_choice(bench: Bench) -> None:
    """A client that leaves before the router has chosen is a disconnect, not an error."""
    bench.tracker.reject(start(), "", outcome=Outcome.CLIENT_DISCONNECT)

    assert endings(bench) == [("client_disconnect", None)]
    (span,) = bench.spans
    assert span["status"] == "UNSET"


def test_end_that_says_nothing(bench: Bench) -> None:
    """An invalid completion ends the request as an error of unknown type."""
    bench.tracker.track(start()).end(None)  # type: ignore[arg-type]

    assert endings(bench) == [("error", "_OTHER")]
    assert bench.tracker.store.ignored == {"invalid_value": 1}


def test_close_is_bounded(make_bench: Callable[..., Bench]) -> None:
    """A hanging exporter delays `close` at most by its timeout."""
    bench = make_bench(close_timeout=timedelta(milliseconds=200))
    hanging, release = threading.Event(), threading.Event()

    class Hanging(SpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:
            hanging.set()
            release.wait(60)

    bench.telemetry.tracer_provider.add_span_processor(Hanging())
    bench.tracker.track(start())  # collected at once: the background thread ends it
    assert hanging.wait(60)
    closing = threading.Thread(target=bench.tracker.close)
    closing.start()
    closing.join(30)

    assert not closing.is_alive()
    release.set()
