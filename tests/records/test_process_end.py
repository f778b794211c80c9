"""However a process ends, the recorded requests are in the file, which has only whole lines."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from otel_lifecycle import LifecycleRecord, Outcome, read_records
from tests.records.helpers import make_tracker, numbered, recorded, run_script, serve, start_script
from tests.waiting import eventually

_OPEN_AT_EXIT = """
import os, signal, sys
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor
from tests.records.helpers import make_tracker, serve
from tests.routes import start

provider = TracerProvider()
exporter = ConsoleSpanExporter(formatter=lambda span: span.attributes["llm_router.outcome"] + "\\n")
provider.add_span_processor(SimpleSpanProcessor(exporter))
tracker = make_tracker(sys.argv[1], provider, flush_threshold=1_000)
serve(tracker, "ended")
in_flight = tracker.track(start("in flight"))
"""
_ENDS = {
    "normal exit": ("", 0),
    "sys.exit": ("sys.exit(3)", 3),
    "unhandled exception": ("raise RuntimeError('unhandled')", 1),
    "Ctrl-C": (
        # A shell lets its background jobs ignore the signal, and their children with them.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "signal.raise_signal(signal.SIGINT)",
        -signal.SIGINT,
    ),
    "provider shut down before": ("provider.shutdown()", 0),
    "only the handle kept": ("import gc; del tracker; gc.collect()", 0),
    "other thread": (
        "import threading\n"
        "thread = threading.Thread(target=serve, args=(tracker, 'of the thread'))\n"
        "thread.start(); thread.join(); tracker.flush()",
        0,
    ),
}


def _outcomes(records: list[LifecycleRecord]) -> list[tuple[str, Outcome]]:
    return [(record.request_id, record.outcome) for record in records]


@pytest.mark.parametrize("name", _ENDS)
def test_exit(path: Path, name: str) -> None:
    """At exit an interpreter writes queued records, and open requests as `shutdown`."""
    ending, code = _ENDS[name]
    process = run_script(_OPEN_AT_EXIT + ending, path)
    assert code == process.returncode, process.stderr
    between = [("of the thread", Outcome.COMPLETED)] if name == "other thread" else []
    expected = [("ended", Outcome.COMPLETED), *between, ("in flight", Outcome.SHUTDOWN)]
    assert expected == _outcomes(list(read_records(path)))
    exported = [outcome.value for _, outcome in expected]
    if name == "provider shut down before":  # whether a span is exported then depends on the SDK
        exported.pop()
        assert exported == process.stdout.splitlines()[: len(exported)]
    else:
        assert exported == process.stdout.splitlines()


def test_exit_of_processor_alone(path: Path) -> None:
    """A processor that was not shut down is flushed at exit too."""
    script = """
import sys
from opentelemetry.sdk.trace import TracerProvider
from otel_lifecycle import LifecycleSpanProcessor
from tests.records.helpers import enabled, make_tracker, serve

provider = TracerProvider(shutdown_on_exit=False)
provider.add_span_processor(LifecycleSpanProcessor(enabled(sys.argv[1], flush_threshold=1_000)))
serve(make_tracker(None, provider), "a", "b")
"""
    process = run_script(script, path)
    expected = ["a", "b"]
    assert (process.returncode, process.stderr) == (0, "")
    assert expected == recorded(path)


def test_close_in_signal_handler(path: Path) -> None:
    """A signal handler may close the tracker, whatever code it interrupts."""
    script = """
import logging, signal, sys
from tests.records.helpers import make_tracker, serve

logging.disable()  # the record that was just on its way is dropped
closed = 0

def handler(*_):
    global closed
    tracker.close()
    closed += 1

signal.signal(signal.SIGALRM, handler)
for run in range(1, 60):
    tracker = make_tracker(f"{sys.argv[1]}-{run}", flush_threshold=1)
    signal.setitimer(signal.ITIMER_REAL, run / 10_000)
    while closed < run:
        serve(tracker, "again and again")
"""
    process = run_script(script, path)
    assert (process.returncode, process.stderr) == (0, "")


def test_flush_in_signal_handler(path: Path) -> None:
    """A signal handler may flush while the same thread is waking the writer."""
    script = """
import signal, sys
from tests.records.helpers import make_tracker, numbered, serve

flushed = 0

def handler(*_):
    global flushed
    assert tracker.store.sink.force_flush(30_000)
    flushed += 1
    if serving:
        signal.setitimer(signal.ITIMER_REAL, 0.0002)

serving = True
tracker = make_tracker(sys.argv[1], flush_threshold=1)
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.0002)
serve(tracker, *numbered("request", 2_000))
serving = False  # a signal on its way finds its handler
signal.setitimer(signal.ITIMER_REAL, 0)
assert flushed > 10
"""
    process = run_script(script, path)
    assert (process.returncode, process.stderr) == (0, "")
    assert numbered("request", 2_000) == recorded(path)


def test_sigkill(path: Path) -> None:
    """A killed process leaves whole lines in order, and at most one torn line."""
    script = """
import itertools, sys
from tests.records.helpers import make_tracker, serve

tracker = make_tracker(sys.argv[1], flush_threshold=7)
for number in itertools.count():
    serve(tracker, f"request-{number}")
"""
    for run in range(3):
        file = path.with_name(f"{run}.jsonl")
        with start_script(script, file) as process:
            eventually(lambda file=file: file.exists() and file.stat().st_size > 100_000)
            process.kill()
        before = recorded(file)
        assert numbered("request", len(before)) == before
        tracker = make_tracker(file)
        serve(tracker, "after the crash")
        tracker.close()
        after = [*before, "after the crash"]
        assert after == recorded(file)
        assert file.read_bytes().endswith(b"\n")


_LINE = b'{"schemaVersion":1,"requestId":"torn"}'


@pytest.mark.parametrize(
    ("tail", "repaired"),
    [
        (b"", b""),
        (_LINE + b"\n", _LINE + b"\n"),
        (_LINE, _LINE + b"\n"),
        (_LINE[:-1], b""),
        (_LINE[:25], b""),
        (_LINE[:17], b""),
        (b"{", b""),
        (_LINE[:32] + b"\xf0\x9f", b""),
        (_LINE[:-1] + b"\0" * 4096, b""),
        (_LINE[:-1] + b"," + b" " * (3 << 19), b""),
    ],
    ids=[
        "nothing",
        "whole line",
        "no newline",
        "half a line",
        "half a name",
        "no version",
        "one byte",
        "half a character",
        "zeros after it",
        "longer than any read",
    ],
)
@pytest.mark.parametrize("head", [b"", _LINE + b"\n" + _LINE + b"\n"], ids=["alone", "behind"])
def test_next_start_repairs(path: Path, head: bytes, tail: bytes, repaired: bytes) -> None:
    """The next start removes half a line, and ends a complete one that lacks its newline."""
    path.parent.mkdir()
    path.write_bytes(head + tail)
    tracker = make_tracker(path)
    try:
        assert head + repaired == path.read_bytes()
    finally:
        tracker.close()


def test_zeros_behind_a_record(path: Path) -> None:
    """Zeros that a disk leaves after a power failure are removed if they follow a record."""
    path.parent.mkdir()
    path.write_bytes(_LINE + b"\n" + bytes(4096))
    make_tracker(path).close()
    assert path.read_bytes() == _LINE + b"\n"


def test_other_process_died(path: Path) -> None:
    """A torn line of another process does not damage our next line."""
    tracker = make_tracker(path)
    serve(tracker, "a")
    assert tracker.flush()
    with path.open("ab") as other:
        other.write(_LINE[:20])
    serve(tracker, "b")
    tracker.close()
    expected = ["a", "b"]
    assert expected == recorded(path)
