"""Full or slow disks, and folders that vanish or become read-only."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from tests.faults import workers
from tests.faults.processes import (
    PATIENCE_SECONDS,
    Found,
    Worker,
    read,
    wait_for_housekeeping,
)
from tests.faults.table import Result
from tests.full_disk import fill
from tests.records.helpers import held, let_writer_follow, make_tracker, numbered, serve
from tests.waiting import eventually

pytestmark = pytest.mark.faults

Report = Callable[[Result], None]
StartWorker = Callable[..., Worker]


def test_full_disk(small_disk: Path, report: Report) -> None:
    """A disk that fills up repeatedly loses no record while the queue has room."""
    path = small_disk / "records.jsonl"
    filler = small_disk / "filler"
    runs, count = 10, 300
    tracker = make_tracker(path, flush_threshold=3, rotate_bytes=64 << 10, compression="gzip")
    found: list[str] = []
    problems = 0
    for run in range(runs):
        fill(filler)
        serve(tracker, *numbered(f"run {run}", count))
        assert not tracker.flush()
        assert read(path).problems == []
        filler.unlink()
        eventually(tracker.flush)
        wait_for_housekeeping()  # it would bring back what is deleted
        seen = read(path)
        problems += len(seen.problems)
        found += [each for each in seen.ids if each.startswith(f"run {run}-")]
        clear(small_disk, path)
    sink = tracker.store.sink
    assert sink is not None
    assert (sink.written, sink.dropped) == (runs * count, 0)
    tracker.close()
    assert found == [each for run in range(runs) for each in numbered(f"run {run}", count)]
    report(
        Result(
            "The disk fills up and is freed (tmpfs of 1 MiB)",
            "No partial line; waiting records are written when there is room.",
            runs,
            runs * count,
            len(found),
            problems,
        )
    )


def clear(folder: Path, path: Path) -> None:
    """Delete the closed segments that were read."""
    for file in folder.iterdir():
        if file != path:
            file.unlink(missing_ok=True)


def test_killed_on_a_full_disk(start_worker: StartWorker, small_disk: Path, report: Report) -> None:
    """A process killed while its disk is full leaves only readable files."""
    path = small_disk / "records.jsonl"
    runs, flushed = 10, 0
    for run in range(runs):
        worker = start_worker(workers.serve_until_killed, path, f"run {run}", run, {})
        while worker.next() < 20:
            pass
        fill(small_disk / "filler")
        time.sleep(0.1)
        count = worker.kill()
        (small_disk / "filler").unlink()
        make_tracker(path).close()
        found = read(path)
        numbers = found.of(f"run {run}")
        assert numbers == list(range(len(numbers)))
        assert len(numbers) >= count
        flushed += count
        if run < runs - 1 and path.stat().st_size > 300_000:
            shutil.move(path, small_disk.parent / f"{run}.jsonl")
    found = read(path, *small_disk.parent.glob("*.jsonl"))
    report(
        Result(
            "`kill -9` while the disk is full",
            "Flushed records are there, and no partial line after the next start.",
            runs,
            flushed,
            len(found.ids),
            len(found.problems),
            at_least=True,
        )
    )


def test_size_limit(start_worker: StartWorker, report: Report, folder: Path) -> None:
    """A limit on the file's size has the same effect as a full disk."""
    runs, count = 5, 50
    for run in range(runs):
        path = folder / f"{run}.jsonl"
        worker = start_worker(workers.serve_with_a_limit, path, f"run {run}", count)
        worker.end()
        assert worker.exit_code == 0
    found = read(folder)
    for run in range(runs):
        assert found.of(f"run {run}") == list(range(count))
    report(
        Result(
            "The limit of file sizes is reached and raised (`RLIMIT_FSIZE`)",
            "No partial line; waiting records are written when there is room.",
            runs,
            runs * count,
            len(found.ids),
            len(found.problems),
        )
    )


def test_folder_without_rights(start_worker: StartWorker, report: Report, folder: Path) -> None:
    """If a folder becomes read-only and loses the file, records wait."""
    path = folder / "records.jsonl"
    steps, count = 4, 50
    os.chmod(folder, 0o777)
    worker = start_worker(workers.serve_without_rights, path, steps, count)

    def go(step: int) -> None:
        assert worker.next() == step
        written.append(len(read(folder).ids))

    written: list[int] = []
    go(0)
    os.chmod(folder, 0o555)
    (folder.parent / "go-0").touch()
    go(1)  # the file keeps growing
    path.rename(folder.parent / "moved.jsonl")
    (folder.parent / "go-1").touch()
    go(2)  # and a new one cannot be created
    os.chmod(folder, 0o777)
    (folder.parent / "go-2").touch()
    go(3)
    (folder.parent / "go-3").touch()
    worker.end()
    assert written[1] == 2 * count
    assert written[2] < 3 * count
    found = read(folder, folder.parent / "moved.jsonl")
    assert sorted(found.of("request")) == list(range(steps * count))
    report(
        Result(
            "The folder becomes read-only, the file is moved away, and permissions return",
            "The writer keeps appending; records without a file wait and are written later.",
            1,
            steps * count,
            len(found.ids),
            len(found.problems),
        )
    )


def test_vanishing_folder(report: Report, folder: Path) -> None:
    """A folder is moved away under load, or replaced by another.

    The folder is created again; each record is in exactly one folder, in order.
    """
    path = folder / "records.jsonl"
    runs, count = 20, 500
    tracker = make_tracker(path, flush_threshold=3, rotate_bytes=32 << 10)
    for run in range(runs):
        for number in range(run * count, (run + 1) * count):
            serve(tracker, f"request-{number}")
            let_writer_follow(tracker)
        if folder.exists():
            folder.rename(folder.with_name(f"away-{run}"))
            if run % 2:
                folder.mkdir(exist_ok=True)  # unless the writer was faster
    tracker.close()
    folders = [*folder.parent.glob("away-*"), folder]
    each_found = [read(each).of("request") for each in folders if each.exists()]
    assert all(numbers == sorted(numbers) for numbers in each_found)
    found = read(*(each for each in folders if each.exists()))
    assert sorted(found.of("request")) == list(range(runs * count))
    report(
        Result(
            "The folder vanishes, or is replaced, under load",
            "It is created again, and each record is in the old or in the new one.",
            runs,
            runs * count,
            len(found.ids),
            len(found.problems),
        )
    )


def test_slow_disk(report: Report, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a very slow disk requests continue, and lost records are counted."""
    path = folder / "records.jsonl"
    slow = threading.Event()
    slow.set()
    write, count = os.write, 3_000

    def take(fd: int, data: bytes) -> int:
        if slow.is_set() and os.readlink(f"/proc/self/fd/{fd}") == str(path):
            time.sleep(0.02)
            data = data[:4096]
        return write(fd, data)

    monkeypatch.setattr(os, "write", take)
    tracker = make_tracker(path, flush_threshold=10, max_queue=500)
    sink = tracker.store.sink
    assert sink is not None
    serve(tracker, *numbered("request", count))
    assert not tracker.flush(0.1)
    slow.clear()
    assert tracker.flush(PATIENCE_SECONDS)
    tracker.close()
    found = read(path)
    assert sink.dropped > 0
    numbers = found.of("request")
    assert len(numbers) == sink.written == count - sink.dropped
    assert all(earlier < later for earlier, later in pairwise(numbers))
    assert numbers[-500:] == list(range(count - 500, count))
    report(
        Result(
            "A disk that writes 200 KB/s, and a queue of 500 (`os.write` is slowed down)",
            "Requests continue; the oldest records are dropped and counted.",
            1,
            count - sink.dropped,
            len(found.ids),
            len(found.problems),
        )
    )


def test_held_lock(report: Report, folder: Path) -> None:
    """A process that holds the lock of the file delays only the records."""
    path = folder / "records.jsonl"
    runs, count = 5, 200
    path.touch()
    for run in range(runs):
        with held(path) as release:
            tracker = make_tracker(path, flush_threshold=1, store_name=f"run {run}")
            serve(tracker, *numbered(f"run {run}", count))
            assert not tracker.flush()
            release()
            eventually(tracker.flush)
        tracker.close()
    found = read(path)
    for run in range(runs):
        assert found.of(f"run {run}") == list(range(count))
    report(
        Result(
            "Another process holds the lock of the file, from before the start (`flock`)",
            "Start and requests do not wait for it; queued records are written when it is free.",
            runs,
            runs * count,
            len(found.ids),
            len(found.problems),
        )
    )


def test_file_of_somebody_else(report: Report, folder: Path) -> None:
    """A file that replaces ours is unchanged, and waiting records are written afterwards."""
    path, moved = folder / "records.jsonl", folder / "moved.jsonl"
    key = folder / "authorized_keys"
    key.write_bytes(b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI operator@host")
    before, count = key.read_bytes(), 50
    intruders = (lambda: os.link(key, path), lambda: path.symlink_to(key), lambda: os.mkfifo(path))
    tracker = make_tracker(path)
    found = Found([], [])
    for run, put in enumerate(intruders):
        serve(tracker, f"before-{run}")
        assert tracker.flush()
        path.rename(moved)
        put()
        serve(tracker, *numbered(f"run {run}", count))
        assert not tracker.flush()
        path.unlink()
        eventually(tracker.flush)
        assert key.read_bytes() == before
        for each in (read(moved), read(path)):
            found.ids.extend(each.ids)
            found.problems.extend(each.problems)
        path.unlink()
    tracker.close()
    for run in range(len(intruders)):
        assert found.of(f"run {run}") == list(range(count))
    report(
        Result(
            "Another file (hard link, symbolic link, FIFO) takes the place of the record file",
            "It is not changed; records without a record file wait and are written later.",
            len(intruders),
            len(intruders) * (count + 1),
            len(found.ids),
            len(found.problems),
        )
    )
