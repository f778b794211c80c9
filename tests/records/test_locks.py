"""Another process holds the lock of a record file for longer than an append takes."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from otel_lifecycle import ConfigError, LifecycleSpanProcessor, RequestLifecycleTracker
from tests.records.helpers import (
    held,
    numbered,
    open_descriptors,
    recorded,
    run_script,
    serve,
)
from tests.records.segments import append, closed, lines
from tests.waiting import PATIENCE_SECONDS, eventually

MakeTracker = Callable[..., RequestLifecycleTracker]


@pytest.mark.parametrize("torn", [b"", lines("torn")[:40]], ids=["whole", "torn"])
def test_start_and_end(path: Path, torn: bytes) -> None:
    """The lock delays neither start, requests, flush nor end; lost records are logged."""
    script = """
import sys
from tests.records.helpers import make_tracker, numbered, serve, writer_threads
from tests.waiting import eventually

tracker = make_tracker(sys.argv[1], close_timeout="300ms")
serve(tracker, *numbered("request", 3))
print(tracker.flush(0.01))
tracker.close()
sink = tracker.store.sink
eventually(lambda: not writer_threads())  # it may have some of them a moment longer
print(sink.queued, sink.written, sink.dropped)
"""
    append(path, lines("before") + torn)
    with held(path):
        process = run_script(script, path)
    reason = "another process holds the lock of the file"

    assert (process.returncode, process.stdout) == (0, "False\n0 0 3\n")
    lost = re.findall(r": (\d+) records lost at the end: (.*)", process.stderr)
    assert sum(int(count) for count, _ in lost) == 3
    assert any(why.endswith(reason) for _, why in lost)
    assert lines("before") + torn == path.read_bytes()


def test_file_of_somebody_else(make_tracker: MakeTracker, path: Path) -> None:
    """A file without records is refused at once, even if it is locked."""
    append(path, b"text")
    with held(path), pytest.raises(ConfigError, match="its last line is not a record"):
        make_tracker(path)
    assert path.read_bytes() == b"text"
    assert open_descriptors(path) == 0


def test_let_go_under_load(
    make_tracker: MakeTracker, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Queued records are written when the lock is free; until then one line has the reason."""
    append(path, lines("before") + lines("torn")[:40])
    with held(path) as release:
        tracker = make_tracker(path)
        serve(tracker, *numbered("request", 20))
        for _ in range(2):
            assert not tracker.flush()
        release()
        eventually(tracker.flush)

    assert ["before", *numbered("request", 20)] == recorded(path)
    (message,) = caplog.messages
    assert message.startswith(f"{path}: cannot write ")
    assert "another process holds the lock" in message


def test_queue_is_bounded(make_tracker: MakeTracker, path: Path) -> None:
    """Beyond the limit the oldest records are dropped and counted."""
    append(path, b"")
    with held(path) as release:
        tracker = make_tracker(path, max_queue=3)
        sink = tracker.store.sink
        assert sink is not None
        serve(tracker, *numbered("request", 8))
        assert not tracker.flush()
        release()
        eventually(tracker.flush)

    assert (sink.written, sink.dropped) == (3, 5)
    assert numbered("request", 8)[5:] == recorded(path)


@pytest.mark.parametrize("settings", [{}, {"rotate_bytes": 1 << 20}], ids=["file", "segments"])
def test_let_go_while_closing(
    make_tracker: MakeTracker, path: Path, settings: dict[str, int]
) -> None:
    """Closing waits for the lock within its time limit."""
    append(path, lines("before"))
    with held(path) as release:
        tracker = make_tracker(path, close_timeout="60s", flush_threshold=1_000, **settings)
        sink = tracker.store.sink
        assert isinstance(sink, LifecycleSpanProcessor)
        serve(tracker, "a", "b")
        closing = threading.Thread(target=tracker.close)
        closing.start()
        eventually(lambda: sink.closed)
        assert closing.is_alive()
        release()
        closing.join(PATIENCE_SECONDS)

    assert (sink.written, sink.dropped) == (2, 0)
    assert recorded(path) == ["before", "a", "b"]


def test_compression_does_not_wait(make_tracker: MakeTracker, path: Path) -> None:
    """A locked segment is not compressed, and writing continues."""
    append(closed(path, 1), lines("a"))
    with held(closed(path, 1)):
        tracker = make_tracker(path, rotate_bytes=1, compression="gzip")
        serve(tracker, "b", "c")
        assert tracker.flush()
        eventually(lambda: list(path.parent.glob("*.000002.jsonl.gz")))
        assert closed(path, 1).exists()
        assert recorded(path) == ["a", "b", "c"]


def test_holder_dies(make_tracker: MakeTracker, path: Path) -> None:
    """A killed process releases its lock."""
    append(path, lines("before"))
    with held(path):
        tracker = make_tracker(path)
        serve(tracker, "a")
        assert not tracker.flush()
    eventually(tracker.flush)
    assert recorded(path) == ["before", "a"]
