"""The processes of a demo."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from demo.processes import HOST, Processes

from otel_lifecycle.cli.errors import CommandError
from tests.processes import runs
from tests.waiting import eventually


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    """Processes that are stopped when the test ends."""
    processes = Processes(tmp_path)
    yield processes
    processes.stop()


def start(processes: Processes, name: str, program: str) -> None:
    processes.start(name, [sys.executable, "-c", program], os.environ)


@pytest.mark.parametrize(
    ("program", "obituary"),
    [
        (
            "import sys; sys.exit('one\\ntwo\\nthree\\nfour\\n')",
            "engine-0 exited with 1: two | three | four",
        ),
        ("import os; os.kill(os.getpid(), 9)", "engine-0 was killed by SIGKILL: no output"),
        ("pass", "engine-0 exited with 0: no output"),
    ],
)
def test_early_death(processes: Processes, tmp_path: Path, program: str, obituary: str) -> None:
    """A process that ends by itself is named, with its exit code and last lines."""
    start(processes, "router", "import time; time.sleep(600)")
    start(processes, "engine-0", program)

    with pytest.raises(CommandError) as error:
        asyncio.run(processes.watch())

    assert (str(error.value), error.value.exit_code) == (f"{obituary} ({tmp_path}/engine-0.log)", 1)


def test_reserved_port(processes: Processes) -> None:
    """A reserved port refuses, nobody else gets it, and a server listens on it, again and again."""
    port = processes.reserve_port()
    serve = (
        "import asyncio\n"
        "async def serve():\n"
        f"    server = await asyncio.start_server(lambda *_: None, '{HOST}', {port})\n"
        "    await server.serve_forever()\n"
        "asyncio.run(serve())"
    )

    def listens() -> bool:
        try:
            socket.create_connection((HOST, port), timeout=1).close()
        except ConnectionRefusedError:
            return False
        return True

    assert not listens()
    with pytest.raises(OSError) as refusal, socket.socket() as other:  # noqa: PT011
        other.bind((HOST, port))
    assert refusal.value.errno == errno.EADDRINUSE
    for _ in range(2):
        start(processes, "server", serve)
        eventually(listens, what="the server listens")
        processes.kill("server")
        eventually(lambda: not listens(), what="the server is gone")


def test_stop_ends_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopping ends every process and its children, also one that ignores the signal."""
    monkeypatch.setattr("demo.processes.STOP_SECONDS", 0.5)
    processes = Processes(tmp_path)
    report = "import os, time; print(os.getpid(), flush=True)"
    stubborn = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    start(processes, "willing", f"{report}; time.sleep(600)")
    start(processes, "stubborn", f"{stubborn}{report}; time.sleep(600)")
    start(processes, "parent", f"{stubborn}import os; os.fork(); {report}; time.sleep(600)")
    logs = [tmp_path / f"{name}.log" for name in ("willing", "stubborn", "parent")]

    def pids() -> list[int]:
        return [int(pid) for log in logs for pid in log.read_text().split()]

    eventually(lambda: len(pids()) == 4, what="all four have begun")

    processes.stop()

    # A child of a killed process is nobody's to wait for.
    eventually(lambda: not any(map(runs, pids())), what="all four have ended")


def test_killed_on_purpose(processes: Processes) -> None:
    """A process killed on purpose is not reported as dead."""

    async def watch_for_a_while() -> None:
        await asyncio.wait_for(processes.watch(), 0.3)

    start(processes, "engine-0", "import time; time.sleep(600)")
    processes.kill("engine-0")

    with pytest.raises(asyncio.TimeoutError):
        asyncio.run(watch_for_a_while())
