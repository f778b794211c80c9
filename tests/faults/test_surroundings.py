"""Clocks that jump, other components that fail, and files without end."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from otel_lifecycle.records import Follower
from tests.faults import workers
from tests.faults.processes import Worker, read
from tests.faults.table import Result

pytestmark = pytest.mark.faults

Report = Callable[[Result], None]
StartWorker = Callable[..., Worker]

_MANY = int(os.environ.get("FAULT_RECORDS", "300000"))
_FOLLOWER_BYTES = 64 << 20


def test_clock(start_worker: StartWorker, report: Report, folder: Path) -> None:
    """A clock that jumps by up to a year changes no order and loses nothing."""
    runs, count = 5, 500
    total, bad = 0, 0
    for run in range(runs):
        path = folder / f"run-{run}" / "records.jsonl"
        worker = start_worker(workers.serve_while_the_clock_jumps, path, count, run)
        assert worker.end() == count
        found = read(path)
        assert found.of("request") == list(range(count))
        total, bad = total + len(found.ids), bad + len(found.problems)
    report(
        Result(
            "The clock jumps by up to a year at every reading (`time.time_ns` is replaced)",
            "Segments and records keep their order of writing.",
            runs,
            runs * count,
            total,
            bad,
        )
    )


@pytest.mark.parametrize(
    ("target", "fault", "promise"),
    [
        (
            workers.serve_beside_a_raising_processor,
            "A span processor beside ours raises at the end of every span",
            "The record is still written.",
        ),
        (
            workers.serve_before_a_hanging_collector,
            "The collector accepts connections and never answers",
            "Records are written, and `close` does not wait for it.",
        ),
    ],
)
def test_neighbour(
    start_worker: StartWorker,
    report: Report,
    folder: Path,
    target: Callable[..., None],
    fault: str,
    promise: str,
) -> None:
    """A failure of another component loses no record."""
    count = 1_000
    worker = start_worker(target, folder / "records.jsonl", count)
    assert worker.end() == count
    found = read(folder)
    assert found.of("request") == list(range(count))
    report(Result(fault, promise, 1, count, len(found.ids), len(found.problems)))


def test_names(start_worker: StartWorker, report: Report, folder: Path) -> None:
    """Hanging name resolutions lose no record, and do not delay the end of a process."""
    runs, count = 3, 200
    path = folder / "records.jsonl"
    for run in range(runs):
        worker = start_worker(workers.serve_while_names_hang, path, f"run {run}", count)
        assert worker.end() == count
        assert worker.exit_code == 0
    found = read(path)
    for run in range(runs):
        assert found.of(f"run {run}") == list(range(count))
    report(
        Result(
            "Names do not resolve: an engine's, a collector's (`getaddrinfo` hangs)",
            "Records are written, and the process still ends.",
            runs,
            runs * count,
            len(found.ids),
            len(found.problems),
        )
    )


def test_followed(start_worker: StartWorker, report: Report, folder: Path) -> None:
    """A reader that follows millions of records through rotation gets each once, in order."""
    settings = {"rotate_bytes": 8 << 20, "compression": "gzip"}
    worker = start_worker(workers.write_many, folder / "records.jsonl", _MANY, settings)
    count = problems = 0
    with Follower(folder) as follower:
        before = peak = resident_bytes()
        while count < _MANY and not problems:
            batch = follower.poll()
            problems += len(batch.problems)
            for entry in batch.records:
                assert entry.record.request_id == f"request-{count}"
                count += 1
            peak = max(peak, resident_bytes())
        assert worker.end() == _MANY
        last = follower.poll()
    assert (last.records, last.problems) == ([], [])
    assert peak - before < _FOLLOWER_BYTES
    report(
        Result(
            "A reader follows while files are rotated and compressed",
            "It gets each record once, in its order, in constant memory.",
            1,
            _MANY,
            count,
            problems,
        )
    )


def resident_bytes() -> int:
    """Return the memory of this process."""
    pages = Path("/proc/self/statm").read_text("ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
