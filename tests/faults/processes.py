"""Processes that are killed, and the contents of their files."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext
from pathlib import Path

from otel_lifecycle.records import Follower, RecordError

PATIENCE_SECONDS = 120.0


class Worker:
    """A process that reports its progress in whole numbers."""

    def __init__(
        self, context: ForkServerContext, target: Callable[..., None], *arguments: object
    ) -> None:
        self._told, tell = context.Pipe(duplex=False)
        self._process = context.Process(target=target, args=(tell, *arguments))
        self._process.start()
        tell.close()

    @property
    def pid(self) -> int:
        pid = self._process.pid
        assert pid is not None
        return pid

    def next(self) -> int:
        """Wait for the next number."""
        assert self._told.poll(PATIENCE_SECONDS), "the worker says nothing"
        return self._told.recv()

    def kill(self, number: signal.Signals = signal.SIGKILL) -> int:
        """Send a signal; return the last number before the end."""
        os.kill(self.pid, number)
        return self.end()

    def end(self) -> int:
        """Wait for the end; return the last number."""
        last = 0
        try:
            while True:
                last = self.next()
        except EOFError:
            pass
        self._process.join(PATIENCE_SECONDS)
        assert self._process.exitcode is not None, "the worker does not end"
        return last

    @property
    def exit_code(self) -> int | None:
        return self._process.exitcode

    def close(self) -> None:
        self._process.kill()
        self._process.join()
        self._process.close()
        self._told.close()


def wait_for_housekeeping() -> None:
    """Wait until trackers of this process, which do not, have tidied their closed segments."""
    for thread in threading.enumerate():
        if thread.name == "otel-lifecycle-housekeeping":
            thread.join(PATIENCE_SECONDS)


@dataclass
class Found:
    """The contents of some files: request ids in order, and invalid lines."""

    ids: list[str]
    problems: list[RecordError]

    def of(self, name: str) -> list[int]:
        """Return the numbers of the requests `name-0`, `name-1` and so on."""
        prefix = f"{name}-"
        return [int(each.removeprefix(prefix)) for each in self.ids if each.startswith(prefix)]


def read(*paths: Path) -> Found:
    """Read everything there is."""
    found = Found([], [])
    with Follower(*paths) as follower:
        for entry in follower.read():
            if isinstance(entry, RecordError):
                found.problems.append(entry)
            else:
                found.ids.append(entry.record.request_id)
    return found
