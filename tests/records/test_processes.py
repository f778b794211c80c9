"""Forked and concurrent processes on one file: nothing lost, nothing doubled, whole lines."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.records.helpers import let_go_at_once, numbered, recorded, run_script, start_script

_FORK = """
import multiprocessing, os, sys, threading, warnings
from otel_lifecycle import Load
from tests.records.helpers import make_tracker, numbered, serve
from tests.routes import endpoint, start

warnings.simplefilter("ignore")  # that fork and threads do not mix
tracker = make_tracker(sys.argv[1], flush_threshold=1_000)
in_flight = tracker.track(start("in flight"))
serve(tracker, "queued at fork")

def child(name):
    assert 0 == tracker.store.active_requests
    assert Load() == tracker.load(endpoint("qwen-0"))
    sink = tracker.store.sink
    assert (0, 0, 0) == (sink.queued, sink.written, sink.dropped)
    serve(tracker, *numbered(name, 20))
"""
_BY_OS_FORK = """
child_ids = []
for name in ("child-a", "child-b"):
    pid = os.fork()
    if pid == 0:
        child(name)
        sys.exit()
    child_ids.append(pid)
serve(tracker, *numbered("parent", 20))
in_flight.complete()
assert [0, 0] == [os.waitpid(pid, 0)[1] for pid in child_ids]
"""
_BY_MULTIPROCESSING = """
context = multiprocessing.get_context("fork")
children = [context.Process(target=child, args=(name,)) for name in ("child-a", "child-b")]
for process in children:
    process.start()
serve(tracker, *numbered("parent", 20))
in_flight.complete()
for process in children:
    process.join()
assert [0, 0] == [process.exitcode for process in children]
"""


@pytest.mark.parametrize("fork", [_BY_OS_FORK, _BY_MULTIPROCESSING], ids=["os", "multiprocessing"])
def test_fork(path: Path, fork: str) -> None:
    """Parent and children write to one file; each child starts with nothing in flight or queued."""
    process = run_script(_FORK + fork, path)
    assert (process.returncode, process.stderr) == (0, "")
    served = [
        request for name in ("child-a", "child-b", "parent") for request in numbered(name, 20)
    ]
    expected = ["in flight", "queued at fork", *served]
    assert Counter(expected) == Counter(recorded(path))


def test_multiprocessing_child_ends_its_requests(path: Path) -> None:
    """Requests in flight in a `multiprocessing` child are recorded when it ends."""
    script = """
import multiprocessing, sys, warnings
from tests.records.helpers import make_tracker
from tests.routes import start

warnings.simplefilter("ignore")
tracker = make_tracker(sys.argv[1], flush_threshold=1_000)

def child():
    global in_flight
    in_flight = tracker.track(start("in flight in the child"))

process = multiprocessing.get_context("fork").Process(target=child)
process.start()
process.join()
"""
    process = run_script(script, path)
    assert (process.returncode, process.stderr) == (0, "")
    expected = ["in flight in the child"]
    assert expected == recorded(path)


def test_fork_while_writing(path: Path) -> None:
    """A child forked while the parent writes writes only its own records, once each."""
    script = """
import os, pathlib, sys, threading, warnings
from tests.records.helpers import Disk, make_tracker, recorded, serve

warnings.simplefilter("ignore")
disk = Disk(pathlib.Path(sys.argv[1]).parent)
os.write = disk.write
tracker = make_tracker(sys.argv[1])
disk.released.clear()
serve(tracker, "parent")
disk.reached.wait()
pid = os.fork()
if pid == 0:
    disk.released = threading.Event()  # the parent's thread may have had that one locked
    disk.released.set()
    serve(tracker, "child")
    assert tracker.flush(30)
    sys.exit()
disk.released.set()
assert 0 == os.waitpid(pid, 0)[1]
"""
    process = run_script(script, path)
    assert (process.returncode, process.stderr) == (0, "")
    assert Counter(["parent", "child"]) == Counter(recorded(path))


def test_fork_after_close(path: Path) -> None:
    """A tracker that was closed before the fork stays closed in the child."""
    script = """
import os, sys, warnings
from tests.records.helpers import make_tracker, serve

warnings.simplefilter("ignore")
tracker = make_tracker(sys.argv[1])
tracker.close()
if os.fork() == 0:
    serve(tracker, "child")
    tracker.close()
    sys.exit()
assert 0 == os.wait()[1]
"""
    process = run_script(script, path)
    assert (process.returncode, process.stderr) == (0, "")
    assert not recorded(path)


def test_threads_after_fork(path: Path) -> None:
    """Threads that record first in a child start one writer together."""
    script = """
import os, sys, threading, warnings
from otel_lifecycle.records.writer import RecordWriter
from tests.records.helpers import make_tracker, numbered, serve, writer_threads

warnings.simplefilter("ignore")
tracker = make_tracker(sys.argv[1])
if os.fork() == 0:
    barrier, found_none, in_turn = threading.Barrier(8), threading.Barrier(8), threading.Lock()
    start_thread = RecordWriter._start_thread
    def start_in_turn(writer):
        found_none.wait()  # all have seen that there is none
        with in_turn:
            start_thread(writer)
    RecordWriter._start_thread = start_in_turn
    def work(name):
        barrier.wait()
        serve(tracker, *numbered(name, 10))
    threads = [threading.Thread(target=work, args=(f"thread-{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1 == len(writer_threads())
    sys.exit()
assert 0 == os.wait()[1]
"""
    process = run_script(script, path)
    assert (process.returncode, process.stderr) == (0, "")
    expected = [request for n in range(8) for request in numbered(f"thread-{n}", 10)]
    assert Counter(expected) == Counter(recorded(path))


def test_processes_at_once(path: Path) -> None:
    """Four processes that append at once leave whole lines, each process in its order."""
    script = """
import sys
from tests.records.helpers import make_tracker, numbered, serve

tracker = make_tracker(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
serve(tracker, *numbered(sys.argv[2], 300))
"""
    names = numbered("process", 4)
    let_go_at_once([start_script(script, path, name) for name in names])
    written = recorded(path)
    for name in names:
        of_process = [request for request in written if request.startswith(name)]
        assert numbered(name, 300) == of_process
    assert len(written) == 4 * 300
