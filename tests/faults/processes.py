"""Processes that are killed, and what their files hold afterwards."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext
from pathlib import Path

from otel_lifecycle.records import Follower, RecordError

PATIENCE_SECONDS = 120.0


class Worker:
    """A process that tells how far it is, in whole numbers."""

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
        """Waits for the next number."""
        assert self._told.poll(PATIENCE_SECONDS), "the worker says nothing"
        return self._told.recv()

    def kill(self, number: signal.Signals = signal.SIGKILL) -> int:
        """Sends a signal; returns the last number before the end."""
        os.kill(self.pid, number)
        return self.end()

    def end(self) -> int:
        """Waits for the end; returns the last number."""
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


@dataclass
class Found:
    """What is in some files: request ids in the order they were read, and what is no record."""

    ids: list[str]
    problems: list[RecordError]

    def of(self, name: str) -> list[int]:
        """The numbers of the requests `name-0`, `name-1` and so on."""
        prefix = f"{name}-"
        return [int(each.removeprefix(prefix)) for each in self.ids if each.startswith(prefix)]


def read(*paths: Path) -> Found:
    """Reads everything there is."""
    found = Found([], [])
    with Follower(*paths) as follower:
        for entry in follower.read():
            if isinstance(entry, RecordError):
                found.problems.append(entry)
            else:
                found.ids.append(entry.record.request_id)
    return found
