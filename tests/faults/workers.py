"""The processes that are broken: they serve requests and report their progress."""

from __future__ import annotations

import itertools
import os
import random
import signal
import socket
import threading
import time
import warnings
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgspec
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from otel_lifecycle import RequestLifecycleTracker, TrackerConfig
from otel_lifecycle.model.record import LifecycleRecord
from otel_lifecycle.records.writer import RecordWriter
from tests.records.helpers import (
    enabled,
    let_process_write,
    let_writer_follow,
    make_tracker,
    numbered,
    open_descriptors,
    serve,
    writer_processes,
)
from tests.records.segments import lines
from tests.records.shipping.collectors import ACCEPT, HTTP_PROTOBUF, Collector, Reply
from tests.routes import start
from tests.waiting import PATIENCE_SECONDS, eventually

SMALL_SEGMENTS = {"rotate_bytes": 256 << 10, "compression": "gzip"}

_NOBODY = 65_534


def serve_until_killed(
    told: Connection, path: Path, name: str, seed: int, settings: dict[str, Any]
) -> None:
    """Serve and flush now and then; report how many requests were flushed."""
    rng = random.Random(seed)
    tracker = make_tracker(path, **settings)
    told.send(0)
    for number in itertools.count():
        serve(tracker, f"{name}-{number}")
        if rng.random() < 0.05 and tracker.flush():
            told.send(number + 1)


def serve_traced(told: Connection, path: Path, name: str) -> None:
    """Serve traced requests without an exporter, until killed."""
    tracker = make_tracker(
        path,
        TracerProvider(shutdown_on_exit=False),
        flush_interval="20ms",
        rotate_bytes=1 << 20,
        compression="gzip",
    )
    for number in itertools.count():
        serve(tracker, f"{name}-{number}")
        if number % 50 == 0 and tracker.flush():
            told.send(number + 1)
        time.sleep(0.001)


def receive(told: Connection, port: int, path: Path) -> None:
    """Accept spans and write down their request ids before answering, until killed."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def write_down(request_ids: list[str]) -> Reply:
        os.write(file, "".join(f"{each}\n" for each in request_ids).encode())
        return ACCEPT

    with Collector(HTTP_PROTOBUF, write_down, port):
        told.send(0)
        signal.pause()


def serve_until_terminated(told: Connection, path: Path, name: str) -> None:
    """End as servers do when told to: after the current request; report their number."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    tracker = make_tracker(path, flush_threshold=1_000, **SMALL_SEGMENTS)
    served = 0
    told.send(served)
    while not stop.is_set():
        serve(tracker, f"{name}-{served}")
        served += 1
        let_writer_follow(tracker)
    told.send(served)


def serve_until_interrupted(told: Connection, path: Path, name: str) -> None:
    """Be ended by an exception anywhere; report how many requests were dispatched."""
    tracker = make_tracker(path, flush_threshold=1_000, **SMALL_SEGMENTS)
    dispatched = 0
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        told.send(dispatched)
        while True:
            with tracker.track(start(f"{name}-{dispatched}")) as tracked:
                dispatched += 1
                tracked.chunk()
                tracked.complete()
            let_writer_follow(tracker)
    except KeyboardInterrupt:
        told.send(dispatched)


def serve_some(
    told: Connection, path: Path, name: str, count: int, settings: dict[str, Any]
) -> None:
    """Serve some requests, close, and report how many were written."""
    tracker = make_tracker(path, **settings)
    if "writer" in settings:
        let_process_write(tracker, path)
    serve(tracker, *numbered(name, count))
    tracker.close()
    sink = tracker.store.sink
    assert sink is not None
    told.send(sink.written)


def leave_with_a_queue(told: Connection, path: Path, name: str, count: int) -> None:
    """End without a flush or a close."""
    settings = {"flush_threshold": 1_000_000, "close_timeout": "5s", **SMALL_SEGMENTS}
    serve(make_tracker(path, **settings), *numbered(name, count))
    told.send(count)


def serve_without_rights(told: Connection, path: Path, steps: int, count: int) -> None:
    """Serve some requests per step, with no more rights than the folder grants."""
    tracker = make_tracker(path, rotate_bytes=16 << 10)
    if os.getuid() == 0:
        os.chown(path, _NOBODY, _NOBODY)
        os.setegid(_NOBODY)
        os.seteuid(_NOBODY)
    for step in range(steps):
        serve(tracker, *(f"request-{step * count + number}" for number in range(count)))
        tracker.flush(PATIENCE_SECONDS)
        told.send(step)
        while not (path.parent.parent / f"go-{step}").exists():
            time.sleep(0.01)
    tracker.close()


def serve_with_a_limit(told: Connection, path: Path, name: str, count: int) -> None:
    """Serve with a limit on file sizes, until it is raised."""
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    tracker = make_tracker(path)
    serve(tracker, *numbered(name, count))
    assert not tracker.flush()
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert tracker.flush()
    told.send(count)


def fork_while_writing(
    told: Connection, path: Path, forks: int, count: int, writer: str = "thread"
) -> None:
    """Fork repeatedly while the writer works; the children serve too."""
    warnings.simplefilter("ignore")  # warns that threads and forks do not mix
    tracker = make_tracker(path, writer=writer, flush_threshold=1, **SMALL_SEGMENTS)
    if writer == "process":
        let_process_write(tracker, path)
    children: list[int] = []
    for fork in range(forks):
        serve(tracker, *(f"parent-{fork * count + number}" for number in range(count)))
        pid = os.fork()
        if pid == 0:
            serve(tracker, *numbered(f"child {fork}", count))
            tracker.close()
            os._exit(0)
        children.append(pid)
    assert [0] * forks == [os.waitpid(pid, 0)[1] for pid in children]
    tracker.close()
    told.send(forks * count)


def serve_while_the_clock_jumps(told: Connection, path: Path, count: int, seed: int) -> None:
    """Serve while `time.time_ns` jumps by up to a year at every call."""
    rng = random.Random(seed)
    real = time.time_ns
    year = 365 * 86_400 * 10**9
    time.time_ns = lambda: real() + rng.randrange(-year, year)
    serve_some(told, path, "request", count, {"flush_threshold": 5, "rotate_bytes": 16 << 10})


def serve_beside_a_raising_processor(told: Connection, path: Path, count: int) -> None:
    """Serve while a processor before ours raises at the end of every span."""

    class Raising(SpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:
            raise RuntimeError("on purpose")

    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(Raising())
    tracker = make_tracker(path, provider, **SMALL_SEGMENTS)
    serve(tracker, *numbered("request", count))
    tracker.close()
    told.send(count)


def serve_before_a_hanging_collector(told: Connection, path: Path, count: int) -> None:
    """Serve while spans go to a collector that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as collector:
        port = collector.getsockname()[1]
        exporter = OTLPSpanExporter(f"http://127.0.0.1:{port}/v1/traces", timeout=3600)
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=10))
        tracker = make_tracker(path, provider, **SMALL_SEGMENTS)
        serve(tracker, *numbered("request", count))
        tracker.close()
        told.send(count)
        os._exit(0)  # the exporter's own retries are not waited for


def serve_while_names_hang(told: Connection, path: Path, name: str, count: int) -> None:
    """End while the names of a collection target and a collector are resolved."""
    resolve = socket.getaddrinfo
    asked: set[str] = set()

    def hang(host: Any, *arguments: Any, **options: Any) -> Any:
        if str(host).endswith(".hangs.example"):
            asked.add(host)
            time.sleep(3_600)
        return resolve(host, *arguments, **options)

    socket.getaddrinfo = hang
    provider = TracerProvider(shutdown_on_exit=False)
    exporter = OTLPSpanExporter("http://collector.hangs.example:4318/v1/traces")
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=10))
    config = TrackerConfig.from_environment(
        {},
        persistence=enabled(path, flush_threshold=1_000),
        collection_enabled=True,
        collection_targets="engine=http://engine.hangs.example/metrics",
        close_timeout="6s",
    )
    tracker = RequestLifecycleTracker(config, provider)
    serve(tracker, *numbered(name, count))
    while len(asked) < 2:
        time.sleep(0.01)
    told.send(count)


def write_many(told: Connection, path: Path, count: int, settings: dict[str, Any]) -> None:
    """Write numbered records as fast as possible, and report every 10,000."""
    writer = RecordWriter(enabled(path, flush_threshold=1_000, **settings))
    template = msgspec.json.decode(lines("template"), type=LifecycleRecord)
    for number in range(count):
        writer.put(msgspec.structs.replace(template, request_id=f"request-{number}"))
        if number % 10_000 == 9_999:
            assert writer.flush()
            told.send(number + 1)
    writer.close()
    assert (writer.written, writer.dropped) == (count, 0)
    told.send(count)


def serve_on_command(told: Connection, path: Path, name: str, settings: dict[str, Any]) -> None:
    """Serve 20 requests for each file `go-N`, have another process write them, and close at last.

    Reports the id of that process, then the number of served requests whenever all are on their
    way to it; after `close` how many are written and how many are dropped.
    """
    tracker = make_tracker(path, writer="process", **settings)
    sink = tracker.store.sink
    assert sink is not None
    let_process_write(tracker, path)
    told.send(writer_processes()[0])
    served = 0
    while not (path.parent.parent / f"{name}-close").exists():
        if (path.parent.parent / f"{name}-go-{served}").exists():
            serve(tracker, *(f"{name}-{served + number}" for number in range(20)))
            served += 20
            # Not `queued`: that is 0 for a moment before they are sent.
            eventually(lambda: sink._writer._file.unconfirmed == 20)  # pyright: ignore
            told.send(served)
        time.sleep(0.001)
    tracker.close()
    told.send(sink.written)
    told.send(sink.dropped)


def serve_until_told(told: Connection, path: Path, name: str, settings: dict[str, Any]) -> None:
    """Serve until a file `stop` is there, and have another process write.

    Makes a file `dropped` once a record is. Reports the id of the process, whenever another one has
    written; after `close` how many requests were
    served, how many are written and how many are dropped.
    """
    tracker = make_tracker(path, writer="process", **settings)
    sink = tracker.store.sink
    assert sink is not None
    process = 0
    served = 0
    let_process_write(tracker, path)
    while not (path.parent.parent / "stop").exists():
        serve(tracker, f"{name}-{served}")
        served += 1
        if served % 50 == 0:
            now = writer_processes()
            if now and now != [process] and not open_descriptors(path):
                serve(tracker, f"{name}-{served}")
                served += 1
                if tracker.flush(PATIENCE_SECONDS):
                    (process,) = now
                    told.send(process)
            if sink.dropped:
                (path.parent.parent / "dropped").touch()
            time.sleep(0.01)
    tracker.close()
    for count in (served, sink.written, sink.dropped):
        told.send(count)
