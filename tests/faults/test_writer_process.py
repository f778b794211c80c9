"""`writer=process`: the router or the process that writes its records is killed or stopped."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults import workers
from tests.faults.processes import Worker, read
from tests.faults.table import Result
from tests.records.helpers import run_script
from tests.waiting import eventually

pytestmark = pytest.mark.faults

Report = Callable[[Result], None]
StartWorker = Callable[..., Worker]


@pytest.fixture(autouse=True)
def nothing_left(folder: Path) -> Iterator[None]:
    """No process that writes is left behind."""
    yield
    eventually(lambda: holders(folder) == [])


def holders(folder: Path) -> list[int]:
    """The processes that have a file in a folder open."""
    found: list[int] = []
    for entry in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if os.readlink(entry).startswith(str(folder)):
                found.append(int(entry.parts[2]))
        except OSError:
            continue
    return found


def tell(folder: Path, name: str) -> None:
    (folder.parent / name).touch()


def test_router_killed(start_worker: StartWorker, report: Report, folder: Path) -> None:
    """What has been sent to the process is written, though the router is killed."""
    path, runs, served = folder / "records.jsonl", 5, 0
    for run in range(runs):
        worker = start_worker(workers.serve_on_command, path, f"run {run}", {})
        process = worker.next()
        os.kill(process, signal.SIGSTOP)
        tell(folder, f"run {run}-go-0")
        count = worker.next()
        worker.kill()
        assert read(path).of(f"run {run}") == []
        os.kill(process, signal.SIGCONT)
        eventually(lambda: holders(folder) == [])
        assert read(path).of(f"run {run}") == list(range(count))
        served += count
    found = read(path)
    report(
        Result(
            "`kill -9` of a router whose writing process is stopped (`writer=process`)",
            "The process writes what it was sent, and ends.",
            runs,
            served + runs,
            len(found.ids),
            len(found.problems),
        )
    )


def test_process_killed(start_worker: StartWorker, report: Report, folder: Path) -> None:
    """Requests go on, another process is started, and what is lost is counted."""
    rng, most = random.Random(0), 10
    path = folder / "records.jsonl"
    worker = start_worker(workers.serve_until_told, path, "request", {"flush_interval": "10ms"})
    process, kills = worker.next(), 0
    while kills < most or not lacks_some(read(path).of("request")):
        if kills >= most - 1:  # it may have been quick each time
            os.kill(process, signal.SIGSTOP)
        time.sleep(rng.uniform(0, 0.2))
        os.kill(process, signal.SIGKILL)
        kills += 1
        process = worker.next()
    tell(folder, "stop")
    served, written, dropped = (worker.next() for _ in range(3))
    worker.end()
    found = read(path)
    numbers = found.of("request")
    assert numbers == sorted(set(numbers))
    assert written + dropped == served + 1
    assert len(numbers) < served
    report(
        Result(
            "`kill -9` of the writing process at a random moment under load (`writer=process`)",
            "Requests continue, with another process; what it had not confirmed counts as dropped.",
            kills,
            written,
            len(found.ids),
            len(found.problems),
            at_least=True,
        )
    )


def lacks_some(numbers: list[int]) -> bool:
    return numbers != list(range(len(numbers)))


def test_process_stopped(start_worker: StartWorker, report: Report, folder: Path) -> None:
    """Requests go on, the oldest beyond the queue are dropped and counted, the rest is written."""
    path = folder / "records.jsonl"
    settings = {"flush_interval": "10ms", "max_queue": 200}
    worker = start_worker(workers.serve_until_told, path, "request", settings)
    process = worker.next()
    os.kill(process, signal.SIGSTOP)
    eventually((folder.parent / "dropped").exists)
    os.kill(process, signal.SIGCONT)
    tell(folder, "stop")
    served, written, dropped = (worker.next() for _ in range(3))
    worker.end()
    found = read(path)
    numbers = found.of("request")
    assert numbers == sorted(set(numbers))
    assert written + dropped == served + 1
    assert dropped > 0
    report(
        Result(
            "The writing process is stopped, with a queue of 200 (`writer=process`)",
            "Requests continue; the oldest records are dropped and counted.",
            1,
            written,
            len(found.ids),
            len(found.problems),
        )
    )


def test_stopped_at_the_end(start_worker: StartWorker, report: Report, folder: Path) -> None:
    """The end does not wait for a process that is stopped; it writes later, and ends."""
    path = folder / "records.jsonl"
    worker = start_worker(workers.serve_on_command, path, "request", {"close_timeout": "1s"})
    process = worker.next()
    os.kill(process, signal.SIGSTOP)
    tell(folder, "request-go-0")
    served = worker.next()
    tell(folder, "request-close")
    assert worker.next() == 1  # that it has confirmed
    assert worker.next() == 0
    worker.end()
    os.kill(process, signal.SIGCONT)
    eventually(lambda: holders(folder) == [])
    found = read(path)
    report(
        Result(
            "The router ends while its writing process is stopped (`writer=process`)",
            "It does not wait longer than `closeTimeout`; the process writes what it was sent.",
            1,
            served,
            len(found.of("request")),
            len(found.problems),
        )
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda each: each.name)
def test_signal_to_the_group(report: Report, folder: Path, number: signal.Signals) -> None:
    """A signal to the router's group, such as Control-C, ends the router; nothing is lost."""
    script = f"""
import os, signal, sys
from tests.records.helpers import let_process_write, make_tracker, numbered, serve
os.setpgid(0, 0)
signal.signal({number.value}, signal.default_int_handler)
tracker = make_tracker(sys.argv[1], writer="process", flush_threshold=100)
let_process_write(tracker, sys.argv[1])
serve(tracker, *numbered("request", 250))
os.killpg(0, {number.value})
"""
    process = run_script(script, folder / "records.jsonl")
    assert process.returncode == -signal.SIGINT
    found = read(folder)
    assert found.of("request") == list(range(250))
    report(
        Result(
            f"{number.name} to the router's process group (`writer=process`)",
            "The writing process goes on until everything is written.",
            1,
            251,
            len(found.ids),
            len(found.problems),
        )
    )


def test_forks(start_worker: StartWorker, report: Report, folder: Path) -> None:
    """A fork neither doubles nor loses records: each process has one that writes."""
    forks, count = 10, 30
    worker = start_worker(
        workers.fork_while_writing, folder / "records.jsonl", forks, count, "process"
    )
    worker.end()
    assert worker.exit_code == 0
    found = read(folder)
    assert found.of("parent") == list(range(forks * count))
    for fork in range(forks):
        assert found.of(f"child {fork}") == list(range(count))
    report(
        Result(
            "Forks while records are on their way, on one path with segments (`writer=process`)",
            "Parent and child write their own records, each once.",
            forks,
            2 * forks * count + 1,
            len(found.ids),
            len(found.problems),
        )
    )


def test_processes(start_worker: StartWorker, report: Report, folder: Path) -> None:
    """Four routers on one path lose and double nothing, each in its order."""
    count, settings = 1_000, {"writer": "process", **workers.SMALL_SEGMENTS}
    started = [
        start_worker(
            workers.serve_some, folder / "records.jsonl", f"process {number}", count, settings
        )
        for number in range(4)
    ]
    assert [worker.end() for worker in started] == [count + 1] * 4
    found = read(folder)
    for number in range(4):
        assert found.of(f"process {number}") == list(range(count))
    report(
        Result(
            "4 routers at once on one path, rotating and compressing (`writer=process`)",
            "Each record is there once, those of a process in its order.",
            1,
            4 * (count + 1),
            len(found.ids),
            len(found.problems),
        )
    )
