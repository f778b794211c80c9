"""Rotation, retention and compression: a closed segment is complete and stays so."""

from __future__ import annotations

import gzip
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from otel_lifecycle import RequestLifecycleTracker
from otel_lifecycle.records.names import SegmentKey, files_in, segment_of, segment_path
from tests.records.helpers import (
    let_go_at_once,
    numbered,
    open_descriptors,
    recorded,
    run_script,
    serve,
    start_script,
)
from tests.records.segments import append, closed, lines
from tests.waiting import eventually

MakeTracker = Callable[..., RequestLifecycleTracker]

_RECORD_BYTES = 3_300  # larger than one record, but by less than a third


def segments(folder: Path) -> list[Path]:
    """Return the closed segments in a folder, oldest first."""
    found = [segment for each in files_in(folder).values() for segment in each]
    return [folder / name for _, name in sorted(found)]


def numbers(folder: Path) -> list[int]:
    """Return their numbers."""
    return [key.number for key in map(key_of, segments(folder))]


def key_of(path: Path) -> SegmentKey:
    segment = segment_of(path)
    assert segment is not None
    return segment[1]


def test_by_size(make_tracker: MakeTracker, path: Path) -> None:
    """No file exceeds the limit, and every record is complete, once, and in order."""
    tracker = make_tracker(path, rotate_bytes=3 * _RECORD_BYTES, flush_threshold=1_000)
    serve(tracker, *(expected := numbered("request", 20)))
    assert tracker.flush()
    assert max(file.stat().st_size for file in path.parent.iterdir()) <= 3 * _RECORD_BYTES
    assert list(range(1, len(segments(path.parent)) + 1)) == numbers(path.parent)
    assert len(segments(path.parent)) >= 5
    assert expected == recorded(path) == recorded(path.parent)
    assert (open_descriptors(path), sum(map(open_descriptors, segments(path.parent)))) == (1, 0)


def test_record_larger_than_a_segment(make_tracker: MakeTracker, path: Path) -> None:
    """A record larger than the limit of a segment gets its own segment."""
    tracker = make_tracker(path, rotate_bytes=1)
    serve(tracker, *(expected := ["a", "b", "c"]))
    assert tracker.flush()
    assert [recorded(segment) for segment in segments(path.parent)] == [["a"], ["b"]]
    assert expected == recorded(path)


def test_by_age(make_tracker: MakeTracker, path: Path) -> None:
    """A segment is closed at its age limit, even if no record follows."""
    tracker = make_tracker(path, rotate_interval="50ms")
    serve(tracker, "a")
    assert tracker.flush()
    eventually(lambda: segments(path.parent))
    assert [recorded(segment) for segment in segments(path.parent)] == [["a"]]
    assert not path.exists()
    serve(tracker, "b")
    assert tracker.flush()
    assert recorded(path.parent) == ["a", "b"]


def test_end(make_tracker: MakeTracker, path: Path) -> None:
    """At the end the last segment is closed, and no empty file remains."""
    tracker = make_tracker(path, rotate_bytes=1 << 20)
    serve(tracker, "a")
    tracker.close()
    make_tracker(path, rotate_bytes=1 << 20).close()
    assert segments(path.parent) == list(path.parent.iterdir())
    assert [recorded(segment) for segment in segments(path.parent)] == [["a"]]


def test_no_rotation(make_tracker: MakeTracker, path: Path) -> None:
    """Without rotation there is one file, to which the next process appends."""
    for request_id in ("a", "b"):
        tracker = make_tracker(path)
        serve(tracker, request_id)
        tracker.close()
    assert [path] == list(path.parent.iterdir())
    assert recorded(path) == ["a", "b"]


def test_numbers_go_on(make_tracker: MakeTracker, path: Path) -> None:
    """Numbers continue after those of earlier processes, even if all segments were moved away."""
    append(closed(path, 7), lines("before"))
    tracker = make_tracker(path, rotate_bytes=1)
    serve(tracker, "a", "b")
    assert tracker.flush()
    assert numbers(path.parent) == [7, 8]
    for segment in segments(path.parent):
        segment.unlink()
    serve(tracker, "c")
    assert tracker.flush()
    assert numbers(path.parent) == [9]


def test_clock_set_back(
    make_tracker: MakeTracker, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order of segments is that of their records, whatever the clock does."""
    times = iter([2_000_000_000, 1_000_000_000, 1_500_000_000, 3_000_000_000])
    tracker = make_tracker(path, rotate_bytes=1, flush_threshold=1_000)
    serve(tracker, *(expected := numbered("request", 5)))
    # Not the clock of other threads.
    clock = SimpleNamespace(
        time_ns=lambda: next(times) * 10**9, strftime=time.strftime, gmtime=time.gmtime
    )
    monkeypatch.setattr("otel_lifecycle.records.names.time", clock)
    assert tracker.flush()
    monkeypatch.undo()
    assert expected == recorded(path)
    assert [str(key_of(segment)) for segment in segments(path.parent)] == [
        "20330518T033320.000Z.000001",
        "20330518T033320.000Z.000002",
        "20330518T033320.000Z.000003",
        "20650124T052000.000Z.000004",
    ]


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({"retain_segments": 2}, 2),
        ({"retain_bytes": 3 * _RECORD_BYTES}, 3),
        ({"retain_segments": 3, "retain_bytes": 1}, 1),
        ({}, 5),
    ],
)
def test_retention(
    make_tracker: MakeTracker, path: Path, settings: dict[str, Any], kept: int
) -> None:
    """The oldest segments are deleted beyond a number and a size, never the newest."""
    tracker = make_tracker(path, rotate_bytes=1, **settings)
    serve(tracker, *numbered("request", 6))
    assert tracker.flush()
    eventually(lambda: numbers(path.parent) == list(range(6 - kept, 6)))
    assert numbered("request", 6)[5 - kept :] == recorded(path)


def test_retention_spares_others(make_tracker: MakeTracker, path: Path) -> None:
    """Files of another output path, or of no output path, are left alone."""
    others = [closed(path.with_name("other.jsonl"), 1), path.with_name("notes.jsonl")]
    for other in others:
        append(other, lines("other"))
    tracker = make_tracker(path, rotate_bytes=1, retain_segments=1, compression="gzip")
    serve(tracker, *numbered("request", 4))
    assert tracker.flush()
    eventually(lambda: len(segments(path.parent)) == 2)
    assert [recorded(other) for other in others] == [["other"], ["other"]]


def test_compression(make_tracker: MakeTracker, path: Path) -> None:
    """Closed segments are compressed, readable only by their owner, and read as before."""
    tracker = make_tracker(path, rotate_bytes=5 * _RECORD_BYTES, compression="gzip")
    serve(tracker, *(expected := numbered("request", 30)))
    assert tracker.flush()
    eventually(lambda: {file.suffix for file in segments(path.parent)} == {".gz"})
    assert expected == recorded(path) == recorded(path.parent)
    assert {0o600} == {file.stat().st_mode & 0o777 for file in segments(path.parent)}
    tracker.close()
    eventually(lambda: {file.suffix for file in path.parent.iterdir()} == {".gz"})
    assert expected == recorded(path)


def test_compression_cut_short(make_tracker: MakeTracker, path: Path) -> None:
    """Compression that a dead process left unfinished is repeated, or deleted."""
    append(closed(path, 1), lines("a"))
    half = closed(path, 1).with_name(f"{closed(path, 1).name}.gz.tmp")
    append(half, gzip.compress(b"half")[:15])
    orphan = closed(path, 0).with_name(f"{closed(path, 0).name}.gz.tmp")
    append(orphan, b"\x1f")
    make_tracker(path, rotate_bytes=1 << 20, compression="gzip")
    eventually(lambda: not half.exists() and not orphan.exists() and not closed(path, 1).exists())
    assert recorded(path) == ["a"]


def test_left_behind(make_tracker: MakeTracker, tmp_path: Path) -> None:
    """The file of a dead process is repaired, closed, and retained like all others."""
    dead, living = tmp_path / "records-1.jsonl", tmp_path / "records-2.jsonl"
    torn = lines("b")[:40]
    for file in (dead, living):
        append(file, lines("a") + torn)
    os.utime(dead, (0, 0))
    make_tracker(tmp_path / "records-{pid}.jsonl", rotate_bytes=1 << 20)
    eventually(lambda: not dead.exists())
    assert [recorded(segment) for segment in segments(tmp_path)] == [["a"]]
    assert living.read_bytes() == lines("a") + torn


def test_writer_of_a_closed_file(make_tracker: MakeTracker, path: Path) -> None:
    """A process whose file was closed by another continues in a new file."""
    slow = make_tracker(path, rotate_bytes=1 << 20, store_name="slow")
    serve(slow, "a")
    assert slow.flush()
    quick = make_tracker(path, rotate_bytes=1, store_name="quick")
    serve(quick, "b")
    assert quick.flush()
    before = [recorded(segment) for segment in segments(path.parent)]
    serve(slow, "c")
    assert slow.flush()
    assert [["a"]] == before == [recorded(segment) for segment in segments(path.parent)]
    assert recorded(path) == ["a", "b", "c"]


def test_folder_without_permission(
    make_tracker: MakeTracker,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """If renaming fails, the writer keeps appending and logs one line."""

    def refuse(self: Path, target: Path) -> Path:
        raise PermissionError(13, "Permission denied", str(target))

    monkeypatch.setattr(Path, "rename", refuse)
    tracker = make_tracker(path, rotate_bytes=1)
    serve(tracker, *(expected := numbered("request", 5)))
    assert tracker.flush()
    assert expected == recorded(path)
    assert segments(path.parent) == []
    (message,) = caplog.messages
    assert message.startswith(f"{path}: cannot be rotated, still appending to it: [Errno 13]")


def test_full_disk_while_compressing(
    make_tracker: MakeTracker, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A segment that cannot be compressed stays, and retention does not wait for it."""

    def fail(**_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("otel_lifecycle.records.housekeeping.zlib.compressobj", fail)
    tracker = make_tracker(path, rotate_bytes=1, compression="gzip", retain_segments=2)
    serve(tracker, *numbered("request", 5))
    assert tracker.flush()
    eventually(lambda: {file.suffix for file in path.parent.iterdir()} == {".jsonl"})
    eventually(lambda: numbers(path.parent) == [3, 4])
    assert numbered("request", 5)[2:] == recorded(path)


@pytest.mark.parametrize("fsync", ["never", "rotate", "flush"])
def test_fsync(
    make_tracker: MakeTracker, path: Path, monkeypatch: pytest.MonkeyPatch, fsync: str
) -> None:
    """Data is forced to disk never, when a segment is closed, or at every write."""
    synced: list[Path] = []
    for name in ("fsync", "fdatasync"):
        call = getattr(os, name)

        def record(fd: int, call: Callable[[int], None] = call) -> None:
            synced.append(Path(os.readlink(f"/proc/self/fd/{fd}")))
            call(fd)

        monkeypatch.setattr(os, name, record)
    monkeypatch.setattr("otel_lifecycle.records.segment._fdatasync", os.fdatasync)
    tracker = make_tracker(path, rotate_bytes=1, fsync=fsync)
    for request_id in ("a", "b"):
        serve(tracker, request_id)
        assert tracker.flush()
    rotation = [path, path.parent]
    expected = {
        "never": [],
        "rotate": rotation,
        "flush": [path, *rotation, path],
    }
    # Threads of tests before may still be closing their files.
    assert expected[fsync] == [file for file in synced if file.is_relative_to(path.parent)]


def test_file_of_each_process(tmp_path: Path) -> None:
    """With `{pid}` parent and forked children have separate files of their own records."""
    script = """
import os, sys, warnings
from tests.records.helpers import make_tracker, numbered, serve

warnings.simplefilter("ignore")
tracker = make_tracker(sys.argv[1], rotate_bytes=20_000)
serve(tracker, "parent 1")
assert tracker.flush()
pid = os.fork()
if pid == 0:
    serve(tracker, *numbered("child", 50))
    sys.exit()
assert 0 == os.waitpid(pid, 0)[1]
serve(tracker, "parent 2")
tracker.close()
print(os.getpid(), pid)
"""
    process = run_script(script, tmp_path / "records-{pid}.jsonl")
    assert (process.returncode, process.stderr) == (0, "")
    parent, child = (tmp_path / f"records-{pid}.jsonl" for pid in process.stdout.split())
    assert recorded(parent) == ["parent 1", "parent 2"]
    assert numbered("child", 50) == recorded(child)
    assert {parent, child} == set(files_in(tmp_path))


@pytest.mark.parametrize(
    ("attributes", "name"),
    [
        ("service.name=router,service.instance.id=a%2Fb/../c", "a_b_.._c"),
        ("service.name=router", "router-0"),
        ("service.instance.id=..", "_"),
        ("service.instance.id=.", "_"),
        ("service.instance.id=../../etc", "__.._etc"),
        ("service.instance.id=.ssh", "_ssh"),
        ("service.instance.id=a%00b", "a_b"),
        (f"service.instance.id={'a' * 500}", f"{'a' * 111}-69206a472a1f3842"),
        (f"service.instance.id={'é' * 500}", f"{'é' * 55}-8b671e21c36a4d79"),
    ],
    ids=["slash", "host", "dots", "dot", "above", "hidden", "zero byte", "long", "long in bytes"],
)
def test_instance(
    make_tracker: MakeTracker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    attributes: str,
    name: str,
) -> None:
    """`{instance}` is the service instance or the host, and always a single name."""
    monkeypatch.setattr("socket.gethostname", lambda: "router-0")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", attributes)
    make_tracker(tmp_path / "{instance}" / "records-{instance}.jsonl").close()
    assert [f"{name}/records-{name}.jsonl"] == [
        str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*.jsonl")
    ]


def test_processes_at_once(path: Path) -> None:
    """Processes that share a path and rotate it concurrently lose and double nothing."""
    script = """
import sys
from tests.records.helpers import make_tracker, numbered, serve

tracker = make_tracker(sys.argv[1], rotate_bytes=20_000, compression="gzip")
print("ready", flush=True)
sys.stdin.readline()
serve(tracker, *numbered(sys.argv[2], 200))
"""
    names = numbered("process", 3)
    let_go_at_once([start_script(script, path, name) for name in names])
    written = recorded(path)
    assert len(written) == 3 * 200
    for name in names:
        assert numbered(name, 200) == [each for each in written if each.startswith(name)]


@pytest.mark.parametrize("name", ["records.jsonl", "records", "records.v1.jsonl", "a b.log"])
def test_names(name: str) -> None:
    """Whatever a file's name, its segments are distinguishable, and lead back to it."""
    live, key = Path("/folder", name), SegmentKey("20261125T025428.123Z", 17)
    path = segment_path(live, key)
    assert (live, key) == segment_of(path) == segment_of(path.with_name(f"{path.name}.gz"))
    assert segment_of(live) is None
    assert segment_of(path.with_name(f"{path.name}.gz.tmp")) is None
    assert key == SegmentKey.parse(str(key))
