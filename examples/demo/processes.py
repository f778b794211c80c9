"""The processes of a demo: all end with it, and one that dies early is named."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NoReturn

from otel_lifecycle.cli.errors import FAILED, CommandError

HOST = "127.0.0.1"
STOP_SECONDS = 20.0  # a busy machine takes long to write what is left
KILL_SECONDS = 20.0
POLL_SECONDS = 0.1

_QUOTED_LINES = 3


class Processes:
    """Starts processes by name, watches them and stops them.

    Each has its own session, so Ctrl-C in the terminal reaches only the demo, which then stops
    them in order.

    Args:
        logs: The folder for their output, `{name}.log`.
    """

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._reserved = ExitStack()

    def reserve_port(self) -> int:
        """Return a port of `HOST` that no other program gets until all processes are stopped.

        Connections are refused until a process listens there, which may set `SO_REUSEADDR`, as
        servers do.
        """
        holder = self._reserved.enter_context(socket.socket())
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind((HOST, 0))
        port: int = holder.getsockname()[1]
        return port

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start a process."""
        with self._log(name).open("ab") as log:
            self._running[name] = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self, name: str) -> None:
        """Kill a process as a crash would."""
        self._end({name: self._running.pop(name)}, {signal.SIGKILL: KILL_SECONDS})

    def stop(self, *names: str) -> None:
        """End processes, by default all: first with a signal, then by killing them."""
        self._end(
            {name: self._running.pop(name) for name in names or tuple(self._running)},
            {signal.SIGTERM: STOP_SECONDS, signal.SIGKILL: KILL_SECONDS},
        )
        if not names:
            self._reserved.close()

    async def watch(self) -> NoReturn:
        """Raise `CommandError` as soon as a process ends by itself."""
        while True:
            for name, process in self._running.items():
                if process.poll() is not None:
                    raise CommandError(self._obituary(name, process.returncode), FAILED)
            await asyncio.sleep(POLL_SECONDS)

    def _end(
        self, ending: Mapping[str, subprocess.Popen[bytes]], signals: Mapping[int, float]
    ) -> None:
        for number, seconds in signals.items():
            for process in ending.values():
                with suppress(ProcessLookupError):  # the group is gone
                    os.killpg(process.pid, number)
            deadline = time.monotonic() + seconds
            for process in ending.values():
                with suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, deadline - time.monotonic()))

    def _obituary(self, name: str, code: int) -> str:
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"
        lines = self._log(name).read_text(errors="replace").split("\n")
        said = [line.strip() for line in lines if line.strip()][-_QUOTED_LINES:]
        return f"{name} {how}: {' | '.join(said) or 'no output'} ({self._log(name)})"

    def _log(self, name: str) -> Path:
        return self._logs / f"{name}.log"
