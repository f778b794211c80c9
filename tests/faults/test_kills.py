"""Processes that are killed, told to end, or end by themselves."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.faults import workers
from tests.faults.processes import Worker, read
from tests.faults.table import Result
from tests.records.helpers import make_tracker

pytestmark = pytest.mark.faults

Report = Callable[[Result], None]
StartWorker = Callable[..., Worker]

_KILLS = 20
_LONGEST_SECONDS = 0.5


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("one file", {"flush_interval": "10ms"}),
        ("one file, as zero code writes it", {"flush_threshold": 100, "flush_interval": "100ms"}),
        ("segments, gzip", {"flush_interval": "10ms", **workers.SMALL_SEGMENTS}),
        (
            "segments, gzip, fsync",
            {"flush_threshold": 7, "fsync": "flush", **workers.SMALL_SEGMENTS},
        ),
    ],
)
def test_kill(
    start_worker: StartWorker, report: Report, folder: Path, name: str, settings: dict[str, Any]
) -> None:
    """After `kill -9` only queued records are missing, and the next start repairs the file."""
    path = folder / "records.jsonl"
    rng = random.Random(name)
    flushed = []
    for run in range(_KILLS):
        worker = start_worker(
            workers.serve_until_killed, path, f"run {run}", rng.random(), settings
        )
        worker.next()
        time.sleep(rng.uniform(0, _LONGEST_SECONDS))
        flushed.append(worker.kill())
    make_tracker(path, **settings).close()  # the next start
    found = read(path)
    for run, count in enumerate(flushed):
        numbers = found.of(f"run {run}")
        assert numbers == list(range(len(numbers))), "a gap, or one twice"
        assert len(numbers) >= count
    report(
        Result(
            f"`kill -9` at a random moment under load ({name})",
            "Flushed records are there, the rest without a gap; only queued records are missing.",
            _KILLS,
            sum(flushed),
            len(found.ids),
            len(found.problems),
            at_least=True,
        )
    )


def test_terminate(start_worker: StartWorker, report: Report, folder: Path) -> None:
    """A process that ends by itself when told to loses nothing."""
    path = folder / "records.jsonl"
    rng = random.Random(0)
    runs, served, found = 10, 0, read(path)
    for run in range(runs):
        worker = start_worker(workers.serve_until_terminated, path, f"run {run}")
        worker.next()
        time.sleep(rng.uniform(0, _LONGEST_SECONDS))
        count = worker.kill(signal.SIGTERM)
        found = read(path)
        assert found.of(f"run {run}") == list(range(count))
        served += count
    report(
        Result(
            "SIGTERM at a random moment, with the server's normal shutdown",
            "Every served request is there.",
            runs,
            served,
            len(found.ids),
            len(found.problems),
        )
    )


def test_interrupt(start_worker: StartWorker, report: Report, folder: Path) -> None:
    """An exception from a signal handler ends the process without losses."""
    path = folder / "records.jsonl"
    rng = random.Random(0)
    dispatched = []
    for run in range(_KILLS):
        worker = start_worker(workers.serve_until_interrupted, path, f"run {run}")
        worker.next()
        time.sleep(rng.uniform(0, _LONGEST_SECONDS))
        dispatched.append(worker.kill(signal.SIGINT))
    found = read(path)
    for run, count in enumerate(dispatched):
        numbers = found.of(f"run {run}")
        assert numbers == list(range(len(numbers))), "a gap, or one twice"
        assert len(numbers) - count in (0, 1), "one may have been on its way to be dispatched"
    report(
        Result(
            "Control-C at a random moment under load (the handler raises)",
            "Every dispatched request is there once.",
            _KILLS,
            sum(dispatched),
            len(found.ids),
            len(found.problems),
            at_least=True,
        )
    )


def test_exit(start_worker: StartWorker, report: Report, folder: Path) -> None:
    """An interpreter writes queued records at its exit."""
    runs, count = 5, 500
    for run in range(runs):
        worker = start_worker(
            workers.leave_with_a_queue, folder / "records.jsonl", f"run {run}", count
        )
        worker.end()
    found = read(folder)
    assert [found.of(f"run {run}") for run in range(runs)] == [list(range(count))] * runs
    report(
        Result(
            "The interpreter ends with a flush pending",
            "Queued records are written before the end, which waits at most 5 s.",
            runs,
            runs * count,
            len(found.ids),
            len(found.problems),
        )
    )


def test_fork(start_worker: StartWorker, report: Report, folder: Path) -> None:
    """A fork during a flush neither doubles nor loses records, in parent or child."""
    forks, count = 60, 30
    worker = start_worker(workers.fork_while_writing, folder / "records.jsonl", forks, count)
    worker.end()
    assert worker.exit_code == 0
    found = read(folder)
    assert found.of("parent") == list(range(forks * count))
    for fork in range(forks):
        assert found.of(f"child {fork}") == list(range(count))
    report(
        Result(
            "Forks during a flush, on one path with segments",
            "Parent and child write their own records, each once.",
            forks,
            2 * forks * count,
            len(found.ids),
            len(found.problems),
        )
    )


@pytest.mark.parametrize(
    ("name", "file"), [("one path", "records.jsonl"), ("`{pid}`", "records-{pid}.jsonl")]
)
def test_processes(
    start_worker: StartWorker, report: Report, folder: Path, name: str, file: str
) -> None:
    """Eight processes on one folder lose and double nothing, each in its order."""
    count = 1_000
    started = [
        start_worker(
            workers.serve_some, folder / file, f"process {number}", count, workers.SMALL_SEGMENTS
        )
        for number in range(8)
    ]
    assert [worker.end() for worker in started] == [count] * 8
    found = read(folder)
    for number in range(8):
        assert found.of(f"process {number}") == list(range(count))
    report(
        Result(
            f"8 processes at once on one folder ({name}), rotating and compressing",
            "Each record is there once, those of a process in its order.",
            1,
            8 * count,
            len(found.ids),
            len(found.problems),
        )
    )
