"""Starts programs, and reads the CPU that they and their children have used."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parents[2]


@contextmanager
def started(
    command: Sequence[str],
    environment: Mapping[str, str],
    log: Path,
    *,
    cwd: Path = ROOT,
    stdin: int | IO[bytes] | None = None,
    stdout: int | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program that finds this repository's modules; end it and its children."""
    paths = os.pathsep.join([str(cwd), str(cwd / "examples"), os.environ.get("PYTHONPATH", "")])
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": paths, **environment},
            stdin=stdin,
            stdout=output if stdout is None else stdout,
            stderr=output,
            start_new_session=True,
        )
    with process:
        try:
            yield process
            process.terminate()
            process.wait(60)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


class Tree:
    """The CPU of a process and of all that it starts."""

    def __init__(self, root: int) -> None:
        self._root = root

    def cpu_seconds(self) -> float:
        """Return what the running ones have used, in seconds, with threads that have ended."""
        return sum(map(_cpu_seconds, _family(self._root)))


def _cpu_seconds(pid: int) -> float:
    # The id of a process's CPU clock on Linux, `CPUCLOCK_SCHED`: in nanoseconds, where
    # `/proc/{pid}/stat` counts ticks of 10 ms, and with the threads that have ended.
    with suppress(OSError):
        return time.clock_gettime(~pid << 3 | 2)
    return 0.0


def _family(root: int) -> list[int]:
    children: defaultdict[int, list[int]] = defaultdict(list)
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            children[int(parent)].append(int(folder.name))
    family = [root]
    for pid in family:
        family += children[pid]
    return family
