"""Runs the command line as a process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

MARK = "TEST_OF_OTEL_LIFECYCLE"  # not OTEL_: those variables do not reach every child

_COMMAND = [
    sys.executable,
    "-c",
    "import sys; from otel_lifecycle.cli import main; sys.exit(main())",
]


class Command:
    """One `otel-lifecycle ...` process; its children are found by a mark in their environment."""

    def __init__(
        self, *arguments: str | Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self._mark = f"{MARK}={uuid.uuid4()}"
        kept = {key: value for key, value in os.environ.items() if not key.startswith("OTEL_")}
        self.process = subprocess.Popen(
            [*_COMMAND, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**kept, **(environment or {}), MARK: self._mark.partition("=")[2]},
        )

    def wait(self) -> tuple[int, str, str]:
        """Return exit code, standard output and standard error."""
        output, error = self.process.communicate(timeout=300)
        return self.process.returncode, output, error

    def close(self) -> None:
        """Kill processes that a failed test has left."""
        for pid in self.children().values():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.kill()  # unless it has ended: its id may be another process's by now
        self.process.communicate()

    def children(self) -> dict[str, int]:
        """The child processes that still run: process ids by command line."""
        found: dict[str, int] = {}
        for folder in Path("/proc").iterdir():
            if not folder.name.isdecimal() or int(folder.name) == self.process.pid:
                continue
            try:
                environment = (folder / "environ").read_bytes().split(b"\0")
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if self._mark.encode() in environment:
                found[command] = int(folder.name)
        return found
