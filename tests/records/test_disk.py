"""Full disks, wrong paths, and files that are moved away."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider

from otel_lifecycle import (
    ConfigError,
    LifecycleSpanProcessor,
    PersistenceConfig,
    RequestLifecycleTracker,
    TrackerConfig,
)
from otel_lifecycle.records.writer import RecordWriter
from otel_lifecycle.testing import InMemoryTelemetry
from tests.records import segments
from tests.records.helpers import (
    Disk,
    enabled,
    nobody_appends,
    numbered,
    open_descriptors,
    recorded,
    serve,
)
from tests.waiting import eventually

MakeTracker = Callable[..., RequestLifecycleTracker]


def test_full_disk(make_tracker: MakeTracker, path: Path, disk: Disk) -> None:
    """A full disk leaves no partial line, and queued records are written when there is space."""
    tracker = make_tracker(path)
    serve(tracker, "a")
    assert tracker.flush()
    before = path.read_bytes()
    disk.full = True
    serve(tracker, "b", "c")
    assert not tracker.flush()
    with nobody_appends(path):
        assert before == path.read_bytes()
    assert len(disk.writes) > 1, "the disk took a part"
    disk.full = False
    eventually(lambda: recorded(path) == ["a", "b", "c"])
    serve(tracker, "d")
    assert tracker.flush()
    expected = ["a", "b", "c", "d"]
    assert expected == recorded(path)


def test_short_writes(
    make_tracker: MakeTracker, path: Path, monkeypatch: pytest.MonkeyPatch, disk: Disk
) -> None:
    """Whole lines are written even if each write accepts only a few bytes."""
    monkeypatch.setattr("os.write", lambda fd, data: disk.write(fd, data[:100]))
    tracker = make_tracker(path)
    serve(tracker, *(expected := numbered("request", 5)))
    assert tracker.flush()
    assert expected == recorded(path)
    assert max(map(len, disk.writes)) == 100


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(folder)]
    mount = shutil.which("mount")
    if mount is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system takes root")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_really_full_disk(make_tracker: MakeTracker, small_disk: Path) -> None:
    """The same on a real file system that fills up."""
    path = small_disk / "records.jsonl"
    tracker = make_tracker(path)
    sink = tracker.store.sink
    assert sink is not None
    filler = small_disk / "filler"
    filler.write_bytes(bytes(48 << 10))
    expected = numbered("request", 15)
    serve(tracker, *expected)
    assert not tracker.flush()
    with nobody_appends(path):
        fitted = recorded(path)
        assert expected[: len(fitted)] == fitted
        assert path.read_bytes().endswith(b"\n") or not fitted
    assert len(fitted) < 15
    filler.unlink()
    eventually(tracker.flush)
    assert (sink.written, sink.dropped) == (15, 0)
    assert expected == recorded(path)


def test_queue_is_bounded(path: Path, disk: Disk) -> None:
    """If the queue is full the oldest record is dropped, and the metric counts it."""
    telemetry = InMemoryTelemetry()
    config = TrackerConfig(store_name="bounded", persistence=enabled(path, max_queue=3))
    tracker = RequestLifecycleTracker(config, telemetry.tracer_provider, telemetry.meter_provider)
    disk.full = True
    serve(tracker, *numbered("request", 8))
    assert not tracker.flush()

    def figures() -> dict[str, float]:
        metrics = telemetry.metrics()
        return {
            name: metrics[f"llm_router.records.{name}"][frozenset()]
            for name in ("queue", "written", "dropped")
        }

    eventually(lambda: figures() == {"queue": 3, "written": 0, "dropped": 5})
    disk.full = False
    tracker.close()
    telemetry.shutdown()
    expected = ["request-5", "request-6", "request-7"]
    assert expected == recorded(path)


def test_errors_are_logged_once_a_minute(
    make_tracker: MakeTracker,
    path: Path,
    disk: Disk,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A full disk is logged once a minute, however many records are lost."""
    clock = SimpleNamespace(monotonic=lambda: now)
    monkeypatch.setattr("otel_lifecycle.runtime.logs.time", clock)
    now = 1_000.0
    tracker = make_tracker(path, max_queue=1, flush_threshold=1_000)
    disk.full = True
    serve(tracker, *numbered("request", 20))
    assert not tracker.flush()
    now += 59.9
    assert not tracker.flush()
    line = "cannot write 1 records, keeping them queued: [Errno 28] No space left on device"
    assert caplog.messages.count(f"{path}: {line}") == 1
    assert sum("dropped so far: the queue is full" in message for message in caplog.messages) == 1
    assert len(caplog.records) == 2
    now += 0.2
    assert not tracker.flush()
    assert f"{path}: {line}" == caplog.messages[-1]
    assert len(caplog.records) == 3


def test_the_last_word_on_a_full_disk(
    make_tracker: MakeTracker, path: Path, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    """Records lost at the end are logged with number and reason, whatever was logged before."""
    tracker = make_tracker(path)
    disk.full = True
    serve(tracker, *numbered("request", 20))
    assert not tracker.flush()
    tracker.close()

    line = "20 records lost at the end: [Errno 28] No space left on device"
    assert f"{path}: {line}" == caplog.messages[-1]


def test_lost_by_two_threads(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Each thread that drops records at the end logs its own, however they take turns."""
    writer: Any = RecordWriter(enabled(path, flush_threshold=1_000))
    count_drop, others = writer.count_drop, iter([writer._drop_rest])

    def count(reason: str) -> None:
        for drop in others:
            drop()
        count_drop(reason)

    monkeypatch.setattr(writer, "count_drop", count)
    for record in segments.records("a", "b", "c"):
        writer.put(record)
    writer._drop_rest()
    writer.close()

    assert re.findall(r": (\d+) records lost at the end", caplog.text) == ["2", "1"]


_UNWRITABLE = {
    "below a file": ("file/records.jsonl", "[Errno 20] Not a directory: '{path}'"),
    "far below a file": ("file/a/b.jsonl", "[Errno 20] Not a directory: '{parent}'"),
    "a folder": ("folder", "[Errno 21] Is a directory: '{path}'"),
    "proc": ("/proc/records.jsonl", "[Errno 2] No such file or directory: '{path}'"),
    "too long": ("a" * 300, "[Errno 36] File name too long: '{path}'"),
    "no home": (
        "~nobody-of-this-name/records.jsonl",
        "Could not determine home directory.",
    ),
}


@pytest.mark.parametrize("name", _UNWRITABLE)
def test_unwritable_path(tmp_path: Path, name: str) -> None:
    """A path that cannot be written is one error naming it, when the tracker is made."""
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    relative, reason = _UNWRITABLE[name]
    path = relative if relative.startswith("~") else str(tmp_path / relative)
    reason = reason.format(path=path, parent=Path(path).parent)
    expected = f"persistence.outputPath {path!r} cannot be written: {reason}"
    config = TrackerConfig(store_name="unwritable", persistence=enabled(path))
    for make in (
        lambda: RequestLifecycleTracker(config),
        lambda: RequestLifecycleTracker(config),
        lambda: LifecycleSpanProcessor(config.persistence),
    ):
        with pytest.raises(ConfigError) as refusal:
            make()
        assert expected == str(refusal.value)
    usable = TrackerConfig(store_name="unwritable", persistence=PersistenceConfig())
    RequestLifecycleTracker(usable).close()


def test_path_with_a_zero_byte(make_tracker: MakeTracker, tmp_path: Path) -> None:
    """A path that is impossible for a file is the same error, with Python's message."""
    with pytest.raises(ConfigError, match=r"a\\x00b' cannot be written: .*embedded null"):
        make_tracker(f"{tmp_path}/a\0b")


def test_folder_becomes_a_file(
    make_tracker: MakeTracker, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """If the folder becomes a file, no request fails; records wait in the queue."""
    tracker = make_tracker(path)
    sink = tracker.store.sink
    assert sink is not None
    serve(tracker, "a")
    assert tracker.flush()
    shutil.rmtree(path.parent)
    path.parent.touch()
    serve(tracker, "b")
    assert not tracker.flush()
    path.parent.unlink()
    eventually(tracker.flush)
    expected = ["b"]
    assert expected == recorded(path)
    assert (sink.written, sink.dropped) == (2, 0)
    reason = f"[Errno 20] Not a directory: '{path}'"
    line = f"{path}: cannot write 1 records, keeping them queued: {reason}"
    assert [line] == caplog.messages


def test_dropped_once(make_tracker: MakeTracker, path: Path, disk: Disk) -> None:
    """A record that cannot be encoded counts once, however often the others are retried."""
    provider = TracerProvider(shutdown_on_exit=False)
    processor = LifecycleSpanProcessor(enabled(path, flush_threshold=1_000))
    provider.add_span_processor(processor)
    disk.full = True
    attributes = {"llm_router.request.id": "half \ud83d", "llm_router.outcome": "completed"}
    provider.get_tracer("otel_lifecycle").start_span("not ours", attributes=attributes).end()
    serve(make_tracker(None, provider, store_name="dropped once"), *(expected := ["a"]))
    for _ in range(3):
        assert not processor.force_flush()
    disk.full = False
    processor.shutdown()
    assert expected == recorded(path)
    assert (processor.written, processor.dropped) == (1, 1)


def test_unwritable_until_the_end(
    make_tracker: MakeTracker, path: Path, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    """Records that cannot be written until the tracker closes are dropped and counted."""
    tracker = make_tracker(path)
    sink = tracker.store.sink
    assert sink is not None
    disk.full = True
    serve(tracker, "a", "b")
    tracker.close()
    assert (sink.queued, sink.written, sink.dropped) == (0, 0, 2)
    assert path.read_bytes() == b""
    assert open_descriptors(path) == 0


def test_moved_file(make_tracker: MakeTracker, path: Path) -> None:
    """If log rotation moves the file away, a new file of the same name is written."""
    tracker = make_tracker(path)
    serve(tracker, "a")
    assert tracker.flush()
    rotated = path.rename(path.with_suffix(".1"))
    serve(tracker, "b")
    assert tracker.flush()
    expected = [["a"], ["b"]]
    assert expected == [recorded(rotated), recorded(path)]
    assert (open_descriptors(rotated), open_descriptors(path)) == (0, 1)


def test_truncated_file(make_tracker: MakeTracker, path: Path) -> None:
    """If log rotation copies and truncates the file, writing continues at the new end."""
    tracker = make_tracker(path)
    serve(tracker, "a", "b")
    assert tracker.flush()
    path.write_bytes(b"")
    serve(tracker, *(expected := ["c"]))
    assert tracker.flush()
    assert expected == recorded(path)


def test_deleted_folder(make_tracker: MakeTracker, path: Path) -> None:
    """A deleted folder is created again, with the file in it."""
    tracker = make_tracker(path)
    serve(tracker, "a")
    assert tracker.flush()
    shutil.rmtree(path.parent)
    serve(tracker, *(expected := ["b"]))
    assert tracker.flush()
    assert expected == recorded(path)


def test_replaced_by_a_torn_file(make_tracker: MakeTracker, path: Path) -> None:
    """A file that replaces ours is repaired before anything is written to it."""
    tracker = make_tracker(path)
    path.unlink()
    path.write_bytes(b'{"schemaVersion":1,"requ')
    serve(tracker, *(expected := ["a"]))
    assert tracker.flush()
    assert expected == recorded(path)


def test_modes(make_tracker: MakeTracker, tmp_path: Path) -> None:
    """Only the owner may read the file, and enter any folder created for it."""
    path = tmp_path / "a" / "b" / "c" / "records.jsonl"
    make_tracker(path)
    folders = [path.parent, path.parent.parent, path.parent.parent.parent]
    modes = [entry.stat().st_mode & 0o777 for entry in (path, *folders)]
    expected = [0o600, 0o700, 0o700, 0o700]
    assert expected == modes


def test_home(make_tracker: MakeTracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path may start with `~`."""
    monkeypatch.setenv("HOME", str(tmp_path))
    tracker = make_tracker("~/records.jsonl")
    serve(tracker, *(expected := ["a"]))
    assert tracker.flush()
    assert expected == recorded(tmp_path / "records.jsonl") == recorded("~/records.jsonl")


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        (
            {"llm_router.request.id": "half \ud83d", "llm_router.outcome": "completed"},
            "a record cannot be encoded: 'utf-8' codec can't encode character '\\ud83d' in "
            "position 5: surrogates not allowed",
        ),
        (
            {"llm_router.request.id": "no outcome"},
            "span 'not ours' cannot be recorded: None is not a valid Outcome",
        ),
    ],
)
def test_span_that_cannot_be_recorded(
    make_tracker: MakeTracker,
    path: Path,
    caplog: pytest.LogCaptureFixture,
    attributes: dict[str, str],
    reason: str,
) -> None:
    """A span that cannot become a line of the file is dropped alone, counted and logged."""
    provider = TracerProvider(shutdown_on_exit=False)
    processor = LifecycleSpanProcessor(enabled(path, flush_threshold=1_000))
    provider.add_span_processor(processor)
    tracker = make_tracker(None, provider, store_name="not recordable")
    serve(tracker, "a")
    provider.get_tracer("otel_lifecycle").start_span("not ours", attributes=attributes).end()
    serve(tracker, "b")
    processor.shutdown()
    expected = ["a", "b"]
    assert expected == recorded(path)
    assert (processor.written, processor.dropped) == (2, 1)
    assert [f"{path}: 1 records dropped so far: {reason}"] == caplog.messages
