"""Measures a router without instrumentation and with each kind of it, in turns.

All variants run at once, each with its own processes, and serve short rounds one after the other.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from benchmarks import sink
from benchmarks.timing import Spread, ratio
from benchmarks.zero_code.client import CONNECTIONS, send
from benchmarks.zero_code.processes import Tree, started
from benchmarks.zero_code.programs import (
    OURS,
    UNINSTRUMENTED,
    ZERO_CODE,
    Program,
    Served,
    Surroundings,
)
from tests.ports import free_port

ROUNDS = 8
REQUESTS = 320  # in a round of the lean router
PATIENCE_SECONDS = 300.0
_KEEP_ALIVE = "900"  # seconds: no connection closes between two rounds


@dataclass
class Rounds:
    """The rounds of one variant with one kind of request.

    Attributes:
        cpu_us: CPU of all its processes, microseconds per request.
        rate: Requests per second.
    """

    cpu_us: list[float] = field(default_factory=list[float])
    rate: list[float] = field(default_factory=list[float])


@dataclass(frozen=True)
class Result:
    """What was measured of one router.

    Attributes:
        title: Its name.
        version: Its version.
        rounds: By kind of request, and by variant.
        missing: Why it was not run; empty if it was.
    """

    title: str
    version: str = ""
    rounds: dict[str, dict[str, Rounds]] = field(default_factory=dict[str, dict[str, Rounds]])
    missing: str = ""

    def cpu_us(self, kind: str, variant: str) -> float:
        """Return the CPU of a request, in microseconds."""
        return median(self.rounds[kind][variant].cpu_us)

    def cpu_ratio(self, kind: str, variant: str = ZERO_CODE) -> float:
        """Return the CPU of a request, relative to that without instrumentation."""
        variants = self.rounds[kind]
        return ratio(variants[variant].cpu_us, variants[UNINSTRUMENTED].cpu_us)

    def cpu_spread(self, kind: str, variant: str) -> tuple[float, float]:
        """Return the 10th and the 90th percentile of these ratios."""
        pairs = zip(
            self.rounds[kind][variant].cpu_us, self.rounds[kind][UNINSTRUMENTED].cpu_us, strict=True
        )
        spread = Spread.of([one / other for one, other in pairs])
        return spread.p10, spread.p90

    def rate_ratio(self, kind: str, variant: str = ZERO_CODE) -> float:
        """Return the requests per second, relative to those without instrumentation."""
        variants = self.rounds[kind]
        return ratio(variants[variant].rate, variants[UNINSTRUMENTED].rate)


class Router:
    """One running variant.

    Attributes:
        url: Its URL.
        served: The number of its requests so far.
    """

    def __init__(self, program: Program, served: Served, around: Surroundings) -> None:
        self._program = program
        self._port = served.port
        self._process = served.process
        self._tree = Tree(served.process.pid)
        self._around = around
        self.url = f"http://127.0.0.1:{served.port}"
        self.served = 0

    def send(self, kind: str, requests: int) -> tuple[float, float]:
        """Serve requests; return microseconds of CPU for each, and requests per second.

        Raises:
            RuntimeError: One of them got no whole answer.
        """
        body = json.dumps(self._program.body(kind)).encode()
        cpu, began = self._tree.cpu_seconds(), time.perf_counter()
        try:
            asyncio.run(send(self._port, self._program.path, body, requests))
        except (AssertionError, EOFError, OSError) as error:
            log = (self._around.folder / "log").read_text("utf-8")
            raise RuntimeError(f"{log.strip()}\n{error}") from error
        elapsed = time.perf_counter() - began
        served = requests // CONNECTIONS * CONNECTIONS
        self.served += served
        return (self._tree.cpu_seconds() - cpu) / served * 1e6, served / elapsed

    def wait_until_it_serves(self) -> None:
        """Try until it answers.

        Raises:
            RuntimeError: It does not.
        """
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                self.send(self._program.kinds[0], CONNECTIONS)
            except RuntimeError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise
                time.sleep(0.3)
            else:
                return

    def check(self) -> None:
        """See that each of its requests has a record: what is not done costs nothing.

        Raises:
            RuntimeError: Records are missing, or nothing was exported.
        """
        deadline = time.monotonic() + 30
        while (records := _lines(self._around.folder)) < self.served:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.served} requests gave {records} records")
            time.sleep(0.2)
        while not self._around.sink.exports(self._around.folder.name):
            if time.monotonic() > deadline:
                raise RuntimeError("nothing was exported")
            time.sleep(0.2)


def attempt(program: Program, rounds: int, requests: int) -> Result:
    """Run all variants of a router, or tell why that fails."""
    if reason := program.missing():
        return Result(program.title, missing=reason)
    try:
        return measure(program, rounds, requests)
    except RuntimeError as error:
        print(f"{program.title}: {error}", file=sys.stderr)
        *_, reason = str(error).splitlines()
        return Result(program.title, missing=f"it failed: {reason.rstrip('.')}")


def measure(program: Program, rounds: int, requests: int) -> Result:
    """Run all variants of a router.

    Args:
        program: The router.
        rounds: Rounds of each variant with each kind of request.
        requests: Requests in a round of the lean router; slower ones get fewer.

    Raises:
        RuntimeError: It does not start, or not all its requests have a record.
    """
    number = max(2, round(requests / program.cost / CONNECTIONS)) * CONNECTIONS
    result = Result(program.title, program.version())
    with _variants(program) as routers:
        for kind in program.kinds:
            measured = result.rounds[kind] = {variant: Rounds() for variant in routers}
            for turn in range(rounds + 1):
                order = list(routers)
                for variant in order if turn % 2 else reversed(order):
                    cpu_us, rate = routers[variant].send(kind, number)
                    if turn:  # the first one warms up
                        measured[variant].cpu_us.append(cpu_us)
                        measured[variant].rate.append(rate)
        for variant in OURS:
            if variant in routers:
                routers[variant].check()
    return result


@contextmanager
def surrounded() -> Iterator[Surroundings]:
    """Run two engines and a sink; the folder is for those of the variants."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ports = free_port(), free_port()
        for port in ports:
            serve = ["uvicorn", "benchmarks.zero_code.engine:serve", "--log-level", "error"]
            options = ["--port", str(port), "--timeout-keep-alive", _KEEP_ALIVE]
            command = [sys.executable, "-m", *serve, *options]
            stack.enter_context(started(command, {}, folder / "engine.log"))
        first, second = (f"http://127.0.0.1:{port}" for port in ports)
        yield Surroundings((first, second), stack.enter_context(sink.running()), folder)


@contextmanager
def serving(program: Program, variant: str, around: Surroundings, name: str) -> Iterator[Router]:
    """Run one variant of a router; `name` is that of its folder."""
    folder = around.folder / name
    folder.mkdir()
    around = around._replace(folder=folder)
    with program.running(variant, around) as served:
        router = Router(program, served, around)
        router.wait_until_it_serves()
        yield router


@contextmanager
def _variants(program: Program) -> Iterator[dict[str, Router]]:
    with ExitStack() as stack:
        around = stack.enter_context(surrounded())
        yield {
            variant: stack.enter_context(serving(program, variant, around, str(number)))
            for number, variant in enumerate(program.variants)
        }


def _lines(folder: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in folder.glob("records*.jsonl"))
