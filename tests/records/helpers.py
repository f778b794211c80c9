"""Helpers shared by the tests of the record file and the scripts that they start."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.trace import NoOpTracerProvider, TracerProvider

from otel_lifecycle import (
    PersistenceConfig,
    RequestLifecycleTracker,
    TrackerConfig,
    read_records,
)
from tests.routes import start
from tests.waiting import PATIENCE_SECONDS, eventually

ROOT = Path(__file__).parents[2]
_MOST_QUEUED = 2_000


def settle() -> None:
    """Wait long enough for a writer that writes too early to be noticed."""
    time.sleep(0.1)


def enabled(path: Path | str, **settings: Any) -> PersistenceConfig:
    """Enabled persistence."""
    return PersistenceConfig(enabled=True, output_path=str(path), **settings)


def make_tracker(
    path: Path | str | None,
    provider: TracerProvider | None = None,
    *,
    store_name: str | None = None,
    close_timeout: str = "60s",
    writer: str = "thread",
    **settings: Any,
) -> RequestLifecycleTracker:
    """A tracker with or without a file; its store is named after the file."""
    config = TrackerConfig.from_environment(
        {},
        store_name=store_name or f"store of {path}",
        persistence=PersistenceConfig() if path is None else enabled(path, **settings),
        close_timeout=close_timeout,
        writer=writer,
    )
    return RequestLifecycleTracker(config, provider or NoOpTracerProvider(), NoOpMeterProvider())


def serve(tracker: RequestLifecycleTracker, *request_ids: str) -> None:
    """Serve complete requests, one after the other."""
    for request_id in request_ids:
        with tracker.track(start(request_id)) as tracked:
            tracked.chunk()
            tracked.complete(output_tokens=8)


def let_writer_follow(tracker: RequestLifecycleTracker) -> None:
    """Waits while more records are queued than any machine writes in a moment."""
    sink = tracker.store.sink
    assert sink is not None
    if sink.queued > _MOST_QUEUED:
        eventually(lambda: sink.queued < _MOST_QUEUED / 2)


def numbered(name: str, count: int) -> list[str]:
    """`name-0`, `name-1` and so on."""
    return [f"{name}-{number}" for number in range(count)]


def recorded(path: Path | str) -> list[str]:
    """Return the ids of the requests in a file."""
    return [record.request_id for record in read_records(path)]


def open_descriptors(path: Path | str) -> int:
    """Return how many file descriptors of this process are open on a file."""
    return _open_files().count(str(path))


def open_below(folder: Path) -> int:
    """Return how many files in a folder this process has open, deleted ones too."""
    return sum(path.startswith(f"{folder}/") for path in _open_files())


def _open_files() -> list[str]:
    paths: list[str] = []
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # closed by another thread, or by `listdir`
            paths.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    return paths


@contextmanager
def nobody_appends(path: Path) -> Generator[None]:
    """Hold the lock of a file, so that no append is seen half done; writers try again later."""
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def writer_threads() -> set[threading.Thread]:
    """Return the writer threads that run; those of tests before may be among them."""
    return {thread for thread in threading.enumerate() if thread.name == "otel-lifecycle-writer"}


def writer_processes(of: int | None = None) -> list[int]:
    """Return the processes that write records, zombies too, and are children of this one."""
    parent = str(os.getpid() if of is None else of)
    found: list[int] = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state = (folder / "stat").read_text().rpartition(")")[2].split()
            command = (folder / "cmdline").read_bytes()
            if state[1] == parent and (state[0] == "Z" or b"records.process" in command):
                found.append(int(folder.name))
    return found


def let_process_write(tracker: RequestLifecycleTracker, path: Path | str) -> None:
    """Serve the request `first`, and wait until a process has taken the file over."""
    serve(tracker, "first")
    eventually(lambda: tracker.flush(PATIENCE_SECONDS) and not open_descriptors(path))


class Disk:
    """Replaces `os.write` for the files below a folder, and makes it fail or hang.

    Attributes:
        writes: The written data, one entry per call.
        full: Writes take a few bytes and then fail.
        released: Writes wait until it is set.
        reached: Set when a write waits.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)
        self._write = os.write
        self.writes: list[bytes] = []
        self.full = False
        self.released = threading.Event()
        self.released.set()
        self.reached = threading.Event()

    def write(self, descriptor: int, data: bytes) -> int:
        """Like `os.write`."""
        if not os.readlink(f"/proc/self/fd/{descriptor}").startswith(self._folder):
            return self._write(descriptor, data)
        if not self.released.is_set():
            self.reached.set()
            self.released.wait()
        if self.full and len(data) <= 10:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = self._write(descriptor, data[: max(len(data) // 2, 10)] if self.full else data)
        self.writes.append(data[:written])
        return written


def run_script(script: str, *arguments: Path | str) -> subprocess.CompletedProcess[str]:
    """Run Python code in a separate process, to its end."""
    return subprocess.run(
        _command(script, *arguments),
        cwd=ROOT,
        env=_environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


def start_script(script: str, *arguments: Path | str) -> subprocess.Popen[str]:
    """Start Python code in a separate process."""
    return subprocess.Popen(
        _command(script, *arguments),
        cwd=ROOT,
        env=_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def let_go_at_once(processes: Sequence[subprocess.Popen[str]]) -> None:
    """Wait until each says that it is ready, let all go, and see them end well."""
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        output, errors = process.communicate(timeout=PATIENCE_SECONDS)
        assert (process.returncode, output, errors) == (0, "", "")


@contextmanager
def held(path: Path) -> Generator[Callable[[], None]]:
    """Let another process hold the lock of a file; yield a function that releases it.

    At the end the process is killed.
    """
    with start_script(_HOLD, path) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"

        def release() -> None:
            holder.communicate("\n", timeout=PATIENCE_SECONDS)

        try:
            yield release
        finally:
            holder.kill()


_HOLD = """
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
fcntl.flock(fd, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.readline()
"""


def _command(script: str, *arguments: Path | str) -> list[str]:
    return [sys.executable, "-c", script, *map(str, arguments)]


def _environment() -> dict[str, str]:
    variables = {k: v for k, v in os.environ.items() if not k.startswith("OTEL_")}
    return {**variables, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
