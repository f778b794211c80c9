"""`writer=process`: another process writes the records and sends their spans."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    ConsoleSpanExporter,
    SpanExporter,
    SpanExportResult,
)

from otel_lifecycle import ConfigError, RequestLifecycleTracker
from otel_lifecycle.records.process import Handover, hand_over, spans, take_back
from otel_lifecycle.records.process.orders import Export
from otel_lifecycle.records.shipping import shipper
from otel_lifecycle.telemetry.attributes import Details
from otel_lifecycle.telemetry.otlp.exporter import LifecycleSpanExporter
from tests.backends.spans import PlainSpan
from tests.records.helpers import (
    let_process_write,
    numbered,
    open_descriptors,
    recorded,
    run_script,
    serve,
    writer_processes,
)
from tests.records.shipping.collectors import GRPC, HTTP_PROTOBUF, UNAVAILABLE, Collector, accept
from tests.records.shipping.records import traced
from tests.routes import disaggregated, start
from tests.waiting import PATIENCE_SECONDS, eventually

MakeTracker = Callable[..., RequestLifecycleTracker]


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with Collector(HTTP_PROTOBUF) as collector:
        for name, value in collector.environment.items():
            monkeypatch.setenv(name, value)
        yield collector


def provider_of(exporter: SpanExporter) -> TracerProvider:
    provider = TracerProvider(resource=Resource({"service.name": "router", "zone": "a"}))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


def handover_of(tracker: RequestLifecycleTracker) -> Handover:
    sink = tracker.store.sink
    assert sink is not None
    assert sink.handover is not None
    return sink.handover


def test_another_process_writes(make_tracker: MakeTracker, tmp_path: Path) -> None:
    """A process is started with the first record, confirms what it wrote, and ends on `close`."""
    path = tmp_path / "folder" / "records-{pid}.jsonl"
    tracker = make_tracker(path, writer="process", rotate_bytes=1 << 30)
    sink = tracker.store.sink
    assert sink is not None
    assert writer_processes() == []
    live = path.with_name(f"records-{os.getpid()}.jsonl")
    let_process_write(tracker, live)
    serve(tracker, *numbered("request", 200))
    assert tracker.flush(60)
    assert (sink.written, sink.dropped, sink.queued) == (201, 0, 0)
    assert ["first", *numbered("request", 200)] == recorded(live)
    (process,) = writer_processes()
    assert os.getsid(process) == process  # no signal to the router's group reaches it
    os.kill(process, signal.SIGTERM)  # nor does it obey one: the router may have more to write
    serve(tracker, "last")
    tracker.close()
    assert writer_processes() == []
    assert (sink.written, sink.dropped) == (202, 0)
    (segment,) = path.parent.iterdir()  # closed by the process
    assert segment.name.startswith(f"records-{os.getpid()}.2")
    assert ["first", *numbered("request", 200), "last"] == recorded(segment)


def test_takes_over_while_others_look(make_tracker: MakeTracker, path: Path) -> None:
    """The file is left to the process, also if metrics or `flush` are first to hear its answer."""
    tracker = make_tracker(path, writer="process")
    sink = tracker.store.sink
    assert sink is not None
    serve(tracker, "first")
    eventually(lambda: not sink.queued and not open_descriptors(path))
    serve(tracker, "second")
    assert tracker.flush(PATIENCE_SECONDS)
    assert recorded(path) == ["first", "second"]


@pytest.mark.parametrize(
    ("executable", "frozen"),
    [("/nowhere/python", False), ("/bin/sh", False), ("", False), (sys.executable, True)],
    ids=["missing", "no Python", "unknown", "frozen"],
)
def test_no_process_can_start(
    make_tracker: MakeTracker,
    path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    executable: str,
    frozen: bool,
) -> None:
    """Without an interpreter to run, the router writes, and says so once."""
    monkeypatch.setattr(sys, "executable", executable)
    monkeypatch.setattr(sys, "frozen", frozen, raising=False)
    tracker = make_tracker(path, writer="process", flush_interval="1ms")
    for number in range(5):
        serve(tracker, f"request-{number}")
        assert tracker.flush()
    tracker.close()
    assert numbered("request", 5) == recorded(path)
    assert len(caplog.records) == 1
    assert "so the router does" in caplog.text


def test_process_fails_at_once(
    make_tracker: MakeTracker,
    path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """If the process ends before it is ready, the router goes on writing, and says so once."""
    broken = tmp_path / "python-broken"
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    tracker = make_tracker(path, writer="process")
    serve(tracker, "first")
    eventually(lambda: tracker.flush() and caplog.records)
    serve(tracker, "second")
    assert tracker.flush()
    assert writer_processes() == []
    assert recorded(path) == ["first", "second"]
    assert len(caplog.records) == 1
    assert "exit code 3" in caplog.text
    assert tracker.store.sink is not None
    assert tracker.store.sink.dropped == 0


def test_process_killed_before_it_is_ready(
    make_tracker: MakeTracker, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It says nothing of the next one, which writes."""
    tracker = make_tracker(path, writer="process", flush_interval="1ms")
    serve(tracker, "by the router")
    eventually(lambda: tracker.flush() and writer_processes())
    (process,) = writer_processes()
    os.kill(process, signal.SIGKILL)
    eventually(lambda: tracker.flush() and "starting another" in caplog.text)
    let_process_write(tracker, path)
    assert tracker.store.sink is not None
    assert tracker.store.sink.dropped == 0
    assert recorded(path)[0] == "by the router"


def test_process_keeps_ending(
    make_tracker: MakeTracker,
    path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A process that ends is replaced, but not without end: then the router writes, and says so."""
    monkeypatch.setattr("otel_lifecycle.records.process.process_file._MOST_SHORT_LIVES", 2)
    tracker = make_tracker(path, writer="process", flush_interval="1ms")
    for said in ("starting another", "so the router does"):
        let_process_write(tracker, path)
        serve(tracker, "by the process")
        assert tracker.flush(60)
        (process,) = writer_processes()
        os.kill(process, signal.SIGKILL)
        eventually(lambda said=said: tracker.flush() and said in caplog.text)
    serve(tracker, "last")
    assert tracker.flush()
    assert writer_processes() == []
    assert recorded(path)[-1] == "last"


class ReadByOthers:
    """A lock that another thread has whenever somebody does not wait for it."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        return blocking and timeout != 0

    def release(self) -> None:
        """Nothing to do."""


def test_last_answer_of_a_killed_process(
    make_tracker: MakeTracker, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What it has confirmed is not lost, though another thread is about to read that."""
    tracker = make_tracker(path, writer="process", flush_interval="1ms")
    let_process_write(tracker, path)
    sink: Any = tracker.store.sink
    helper = sink._writer._file._helper
    helper._lock = ReadByOthers()

    def has_answered() -> bool:
        with contextlib.suppress(BlockingIOError):
            return helper._socket.recv(100, socket.MSG_PEEK).endswith(b"1 0\n")
        return False

    serve(tracker, "by the process")
    eventually(has_answered)
    os.kill(helper.pid, signal.SIGKILL)
    eventually(lambda: "starting another" in caplog.text)

    assert sink.dropped == 0
    assert recorded(path) == ["first", "by the process"]


def test_line_sent_in_part(
    make_tracker: MakeTracker, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of a line for which there was no room is sent although no other line follows."""
    # The kernel makes it a few kilobytes.
    monkeypatch.setattr("otel_lifecycle.records.process.helper._BUFFER_BYTES", 1)
    tracker = make_tracker(path, writer="process")
    let_process_write(tracker, path)
    (process,) = writer_processes()
    os.kill(process, signal.SIGSTOP)
    tracker.track(start("long" * 100, disaggregated())).complete()
    assert not tracker.flush(1)
    os.kill(process, signal.SIGCONT)

    assert tracker.flush(PATIENCE_SECONDS)
    assert recorded(path) == ["first", "long" * 100]


def test_flush_under_load(make_tracker: MakeTracker, path: Path) -> None:
    """A flush waits for the records before it, however many are sent meanwhile."""
    tracker = make_tracker(path, writer="process")
    let_process_write(tracker, path)
    sink: Any = tracker.store.sink
    helper = sink._writer._file._helper
    receive, sent = helper.receive, helper._sent

    def receive_while_more_are_sent(seconds: float = 0.0) -> None:
        receive(seconds)
        helper._sent += 1

    helper.receive = receive_while_more_are_sent
    confirmed = helper.confirm(1)
    helper.receive, helper._sent = receive, sent

    assert confirmed


def test_end_before_it_has_started(path: Path) -> None:
    """A router that ends before the process is there writes by itself, and leaves none behind."""
    script = """
import sys
from tests.records.helpers import make_tracker, numbered, serve, writer_processes
tracker = make_tracker(sys.argv[1], writer="process")
serve(tracker, *numbered("request", 10))
tracker.close()
assert writer_processes() == []
assert tracker.store.sink.written == 10
"""
    process = run_script(script, path)
    assert (process.returncode, process.stderr) == (0, "")
    assert numbered("request", 10) == recorded(path)


def test_refused_path(make_tracker: MakeTracker, tmp_path: Path) -> None:
    """A path that cannot be written is refused when the tracker is created."""
    path = tmp_path / "foreign.txt"
    path.write_text("not a record\n")
    with pytest.raises(ConfigError, match=r"foreign\.txt"):
        make_tracker(path, writer="process")


def test_one_writer_for_a_store(make_tracker: MakeTracker, path: Path) -> None:
    """Trackers of one store cannot ask for different writers."""
    make_tracker(path, store_name="shared")
    with pytest.raises(ConfigError, match="writer of store 'shared' is already set to 'thread'"):
        make_tracker(path, store_name="shared", writer="process")


def test_without_a_record_file(make_tracker: MakeTracker, caplog: pytest.LogCaptureFixture) -> None:
    """Without a record file there is nothing to write, which is said."""
    with caplog.at_level(logging.WARNING):
        make_tracker(None, writer="process")
    assert "writer=process does nothing" in caplog.text


@pytest.mark.parametrize("protocol", [pytest.param(GRPC, marks=pytest.mark.slow), HTTP_PROTOBUF])
def test_spans(
    make_tracker: MakeTracker, path: Path, monkeypatch: pytest.MonkeyPatch, protocol: str
) -> None:
    """The process sends the span that the router would have sent, and the router sends the others.

    Others are those before it has started, those of other instrumentations, and those that say more
    than their record.
    """
    with Collector(protocol) as collector:
        for name, value in collector.environment.items():
            monkeypatch.setenv(name, value)
        exporter = GrpcExporter() if protocol == GRPC else OTLPSpanExporter()
        export, by_router = exporter.export, list[str]()

        def note(batch: Sequence[ReadableSpan]) -> SpanExportResult:
            told = (
                (span.attributes or {}).get("llm_router.request.id", span.name) for span in batch
            )
            by_router.extend(map(str, told))
            return export(batch)

        monkeypatch.setattr(exporter, "export", note)
        provider = provider_of(exporter)
        tracker = make_tracker(path, provider, writer="process")
        handover = handover_of(tracker)
        hand_over(provider, handover, Details(), "test")
        try:
            let_process_write(tracker, path)
            eventually(lambda: handover.is_open)
            provider.get_tracer("another").start_span("another").end()
            serve(tracker, *numbered("request", 100))
            with tracker.track(start("more")) as tracked, tracked.active():
                from opentelemetry import trace

                trace.get_current_span().set_attribute("more", 1)
                tracked.complete(output_tokens=8)
            assert provider.force_flush()
            assert sorted(by_router) == ["another", "first", "more"]
            eventually(lambda: len(collector.spans) == 103)
            tracker.close()
            serve(closed := make_tracker(path, provider), "after")
            closed.close()
            assert provider.force_flush()
            assert sorted(by_router) == ["after", "another", "first", "more"]
        finally:
            take_back("test")
            provider.shutdown()
    sent = names(collector.spans)
    assert sorted(sent) == sorted([*by_router, *numbered("request", 100)])
    like = [plain(span) for span in collector.spans if names([span])[0] in ("first", "request-7")]
    assert like[0] == like[1]


def names(found: list[PlainSpan]) -> list[str]:
    """The request of each span, or its name."""
    return [span["attributes"].get("llm_router.request.id", span["name"]) for span in found]


def plain(span: PlainSpan) -> dict[str, Any]:
    """What is alike in the spans of two requests."""
    same: dict[str, Any] = {
        name: value
        for name, value in span.items()
        if name in ("name", "kind", "status", "resource", "scope")
    }
    same["attributes"] = sorted(span["attributes"])
    return same


@pytest.mark.parametrize(
    ("make", "taken"),
    [
        (OTLPSpanExporter, True),
        (GrpcExporter, True),
        (LifecycleSpanExporter, True),
        (lambda: LifecycleSpanExporter("http://127.0.0.1:1"), False),
        (ConsoleSpanExporter, False),
        (lambda: OTLPSpanExporter("http://127.0.0.1:1/v1/traces"), False),
        (lambda: OTLPSpanExporter(headers={"x-tenant": "a"}), False),
        (lambda: GrpcExporter("http://127.0.0.1:1"), False),
        (lambda: GrpcExporter(timeout=3), False),
        (lambda: GrpcExporter(insecure=False), False),
    ],
    ids=[
        "HTTP",
        "gRPC",
        "ours",
        "our URL",
        "console",
        "URL",
        "headers",
        "gRPC's URL",
        "its timeout",
        "TLS",
    ],
)
def test_which_exporters(
    collector: Collector, make: Callable[[], SpanExporter], taken: bool
) -> None:
    """Only an exporter that the variables set up hands its spans over: the process knows those."""
    provider = provider_of(make())
    handover = Handover(None)
    hand_over(provider, handover, Details(), "test")
    take_back("test")
    provider.shutdown()
    assert taken == (handover.export is not None)


def test_spans_wait_for_the_collector(
    collector: Collector, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the collector takes no spans, a number of them waits; the oldest are dropped."""
    monkeypatch.setattr(spans, "_MOST_WAITING", 5)
    monkeypatch.setattr(spans, "_LINGER_SECONDS", 0.0)
    monkeypatch.setattr(shipper, "_FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "60")
    ids, told = numbered("request", 20), list[str]()
    collector.answer = lambda ids: UNAVAILABLE
    waiting = spans.Spans(Export("http/protobuf", Details(), {"zone": "a"}), path, told.append)
    waiting.put(traced(ids[0]).splitlines())
    eventually(lambda: collector.asked)
    waiting.put(traced(*ids[1:]).splitlines())
    collector.answer = accept
    waiting.close(PATIENCE_SECONDS)
    assert collector.request_ids == [ids[0], *ids[-5:]]
    assert any("14 spans were dropped" in line for line in told)
    assert waiting.poll(1).problems == []  # told of once
    assert {span["resource"]["zone"] for span in collector.spans} == {"a"}


@pytest.mark.faults
def test_a_forked_child_has_its_own(path: Path) -> None:
    """A forked child has a process of its own, with its first record, and both end with theirs."""
    script = """
import os, sys
from tests.records.helpers import (
    let_process_write, make_tracker, numbered, serve, writer_processes
)
tracker = make_tracker(sys.argv[1], writer="process")
let_process_write(tracker, sys.argv[1])
if os.fork() == 0:
    assert writer_processes() == []
    let_process_write(tracker, sys.argv[1])
    serve(tracker, *numbered("child", 10))
    assert tracker.flush(60)
    assert len(writer_processes()) == 1
    tracker.close()
    assert writer_processes() == []
    os._exit(0)
assert os.wait()[1] == 0
serve(tracker, "last")
tracker.close()
assert writer_processes() == []
"""
    process = run_script(script, path)
    assert (process.returncode, process.stderr) == (0, "")
    expected = ["first", "first", *numbered("child", 10), "last"]
    assert expected == recorded(path)


@pytest.mark.faults
def test_nothing_is_left_in_its_environment(
    make_tracker: MakeTracker, path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Variables that would instrument any Python do not have the process instrumented."""
    (tmp_path / "sitecustomize.py").write_text("raise SystemExit('instrumented')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("OTEL_LIFECYCLE_STORE_NAME", "of the router")
    assert subprocess.run([sys.executable, "-c", ""], check=False, capture_output=True).returncode
    tracker = make_tracker(path, writer="process")
    let_process_write(tracker, path)
    (process,) = writer_processes()
    environment = Path(f"/proc/{process}/environ").read_text()
    assert "OTEL_LIFECYCLE_" not in environment
