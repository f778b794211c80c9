"""Measures how each way of exporting delays the event loop of a router.

Run with `python -m benchmarks.event_loop_lag`, or as part of `make bench`. It
simulates the loop of a router on asyncio: requests arrive at a steady rate, and each is parsed,
dispatched, streamed in a few chunks and ended. Six variants run in separate processes that take
turns in short rounds. The lag is the delay of a timer of one millisecond.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import operator
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from benchmarks import sink
from otel_lifecycle import PersistenceConfig, RequestLifecycleTracker, TrackerConfig, read_records
from otel_lifecycle.records.process import hand_over
from otel_lifecycle.telemetry.attributes import Details
from otel_lifecycle.telemetry.otlp.exporter import adopt
from otel_lifecycle.telemetry.spans import (
    end_attributes,
    moments,
    span_events,
    span_name,
    start_attributes,
)
from tests.routes import disaggregated, start

CHUNKS = 4
CHUNK_SECONDS = 0.02
PROBE_SECONDS = 0.001
RATE = 1_000
ROUNDS = 5
ROUND_SECONDS = 1.5
BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "word " * 400}]})
CHUNK = json.dumps({"id": "c", "choices": [{"index": 0, "delta": {"content": "word"}}]})

Request: TypeAlias = "AbstractContextManager[Callable[[], None]]"  # its value marks a chunk


class Round(NamedTuple):
    """The results of one round of one router; CPU is microseconds per request."""

    lags_ms: list[float]
    rate: float
    loop_us: float
    all_us: float


@dataclass
class Variant:
    """One router and the results of its rounds, in milliseconds.

    Attributes:
        exports: Whether it has an exporter in its own process.
        cpu_us: CPU per request, microseconds: of the event loop's thread, and of all threads.
        ship_us: CPU of `ship` per request, including its start, microseconds.
    """

    name: str
    begin: Callable[[Path, TracerProvider], Callable[[str], Request]]
    exports: bool
    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    worst: list[float] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)
    cpu_us: list[tuple[float, float]] = field(default_factory=list)
    ship_us: float = 0.0

    def add(self, measured: Round) -> None:
        """Add a round."""
        percentiles = statistics.quantiles(measured.lags_ms, n=100)
        self.p50.append(percentiles[49])
        self.p99.append(percentiles[98])
        self.worst.append(max(measured.lags_ms))
        self.rate.append(measured.rate)
        self.cpu_us.append((measured.loop_us, measured.all_us))

    def p99_to(self, other: Variant) -> float:
        """Return the median of the ratios of neighbouring rounds."""
        return statistics.median(map(operator.truediv, self.p99, other.p99))


def _uninstrumented(path: Path, provider: TracerProvider) -> Callable[[str], Request]:
    return lambda request_id: nullcontext(lambda: None)


def _tracked(
    path: Path, provider: TracerProvider, writer: Literal["thread", "process"] = "thread"
) -> Callable[[str], Request]:
    persistence = PersistenceConfig(
        enabled=True, output_path=str(path), flush_threshold=100, flush_interval="1s"
    )
    config = TrackerConfig(store_name=str(path), persistence=persistence, writer=writer)
    tracker = RequestLifecycleTracker(config, provider, NoOpMeterProvider())
    if tracker.store.sink is not None and tracker.store.sink.handover is not None:
        hand_over(provider, tracker.store.sink.handover, Details.of(config), "benchmark")
    route = disaggregated()

    @contextmanager
    def request(request_id: str) -> Iterator[Callable[[], None]]:
        with tracker.track(start(request_id, route)) as tracked:
            yield tracked.chunk
            tracked.complete(output_tokens=CHUNKS)

    return request


def _by_a_process(path: Path, provider: TracerProvider) -> Callable[[str], Request]:
    return _tracked(path, provider, "process")


def _stock(path: Path, provider: TracerProvider) -> Callable[[str], Request]:
    """A bare span with the same content."""
    with _tracked(path, TracerProvider())("template") as chunk:
        chunk()
    deadline = time.monotonic() + 30
    while not path.exists() or not (records := list(read_records(path))):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    at = moments(records[0])
    at_start, at_end = start_attributes(records[0]), end_attributes(records[0], at)
    first, last = span_events(records[0], at)
    tracer = provider.get_tracer("stock")

    @contextmanager
    def request(request_id: str) -> Iterator[Callable[[], None]]:
        span = tracer.start_span(span_name("m"), attributes={**at_start, "request": request_id})
        chunks = 0

        def chunk() -> None:
            nonlocal chunks
            chunks += 1
            if chunks == 1:
                span.add_event(first[0])

        yield chunk
        span.set_attributes(at_end)
        span.add_event(last[0], last[2])
        span.end()

    return request


VARIANTS = (
    Variant("uninstrumented", _uninstrumented, exports=False),
    Variant("uninstrumented, as busy as ours", _uninstrumented, exports=False),
    Variant("bare SDK span, BatchSpanProcessor, OTLP", _stock, exports=True),
    Variant("ours, BatchSpanProcessor, OTLP, file", _tracked, exports=True),
    Variant("ours, a process sends and writes", _by_a_process, exports=True),
    Variant("ours, file, `ship` beside it", _tracked, exports=False),
)


async def _serve(begin: Callable[[str], Request], request_id: str, busier_us: float) -> None:
    json.loads(BODY)
    _burn(busier_us / 2)
    with begin(request_id) as chunk:
        for _ in range(CHUNKS):
            await asyncio.sleep(CHUNK_SECONDS)
            json.loads(CHUNK)
            chunk()
    _burn(busier_us / 2)


def _burn(us: float) -> None:
    until = time.thread_time() + us / 1e6
    while us and time.thread_time() < until:
        pass


async def _probe(lags: list[float]) -> None:
    while True:
        due = time.perf_counter() + PROBE_SECONDS
        await asyncio.sleep(PROBE_SECONDS)
        lags.append((time.perf_counter() - due) * 1e3)


async def _round(
    begin: Callable[[str], Request], name: str, rate: int, seconds: float, busier_us: float
) -> Round:
    lags: list[float] = []
    probe = asyncio.create_task(_probe(lags))
    tasks: list[asyncio.Task[None]] = []
    loop_began, all_began = time.thread_time(), time.process_time()
    began = time.perf_counter()
    while (elapsed := time.perf_counter() - began) < seconds:
        while len(tasks) < elapsed * rate:
            serving = _serve(begin, f"{name}-{len(tasks)}", busier_us)
            tasks.append(asyncio.create_task(serving))
        await asyncio.sleep(PROBE_SECONDS)
    probe.cancel()
    await asyncio.gather(*tasks)
    return Round(
        lags,
        len(tasks) / seconds,
        (time.thread_time() - loop_began) / len(tasks) * 1e6,
        (time.process_time() - all_began) / len(tasks) * 1e6,
    )


def _run(orders: Connection, number: int, path: Path, endpoint: str, rate: int) -> None:
    """A router's process: one round for each length in seconds that it receives, until 0."""
    variant = VARIANTS[number]
    provider = TracerProvider(
        resource=Resource({"service.name": variant.name}), shutdown_on_exit=False
    )
    if variant.exports:
        os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = endpoint  # as under zero code
        exporter = OTLPSpanExporter()
        if variant.begin is not _stock:
            adopt(exporter)
        provider.add_span_processor(BatchSpanProcessor(exporter))
    begin = variant.begin(path, provider)
    turn = 0
    seconds, busier_us = orders.recv()
    while seconds:
        turn += 1
        measured = asyncio.run(_round(begin, f"round-{turn}", rate, seconds, busier_us))
        provider.force_flush()
        orders.send(measured)
        seconds, busier_us = orders.recv()


def measure(
    rate: int = RATE, rounds: int = ROUNDS, seconds: float = ROUND_SECONDS
) -> tuple[Variant, ...]:
    """Run the routers in turns.

    Args:
        rate: Requests per second.
        rounds: Rounds of each.
        seconds: Length of a round.
    """
    context = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        endpoint = stack.enter_context(sink.running()).url
        routers: list[Connection] = []
        for number in range(len(VARIANTS)):
            orders, theirs = context.Pipe()
            path = folder / f"{number}.jsonl"
            arguments = (theirs, number, path, endpoint, rate)
            process = context.Process(target=_run, args=arguments)
            process.start()
            stack.callback(process.join)
            stack.callback(orders.send, (0, 0))
            routers.append(orders)
        ship = stack.enter_context(_shipping(folder / f"{len(VARIANTS) - 1}.jsonl", endpoint))
        uninstrumented, busy, *_, shipped = VARIANTS
        busier_us = 0.0
        for turn in range(rounds + 1):
            measured: dict[str, Round] = {}
            for variant, orders in zip(VARIANTS, routers, strict=True):
                orders.send((seconds, busier_us if variant is busy else 0.0))
                measured[variant.name] = orders.recv()
            busier_us = measured[shipped.name].loop_us - measured[uninstrumented.name].loop_us
            if turn:  # the first one warms up
                for variant in VARIANTS:
                    variant.add(measured[variant.name])
        ship.terminate()
        _, status, used = os.wait4(ship.pid, 0)
        ship.returncode = os.waitstatus_to_exitcode(status)
        requests = (rounds + 1) * seconds * rate
        shipped.ship_us = (used.ru_utime + used.ru_stime) / requests * 1e6
    return VARIANTS


@contextmanager
def _shipping(path: Path, endpoint: str) -> Iterator[subprocess.Popen[bytes]]:
    # As `docs/ship.md` recommends: the router comes first.
    command = ["nice", "-n", "10", sys.executable, "-c"]
    command += ["from otel_lifecycle.cli import main; main()"]
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
    }
    checkpoint = path.with_suffix(".checkpoint")
    arguments = ["ship", "--checkpoint", str(checkpoint), str(path)]
    with subprocess.Popen(
        [*command, *arguments], env=environment, stderr=subprocess.DEVNULL
    ) as ship:
        try:
            yield ship
        finally:
            ship.terminate()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=int, default=RATE, help="requests a second")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=float, default=ROUND_SECONDS, help="of a round")
    options = parser.parse_args()
    measure(options.rate, options.rounds, options.seconds)
    base = VARIANTS[0]
    print(
        f"Python {sys.version.split()[0]}, {options.rounds} rounds of {options.seconds} s, "
        f"{options.rate} requests a second wanted"
    )
    print(
        f"{'event-loop lag in ms':40} {'p50':>7} {'p99':>7} {'worst':>7} {'x p50':>6} {'x p99':>6}"
        f" {'CPU us, loop':>13} {'all':>5}"
    )
    for variant in VARIANTS:
        p50, p99 = statistics.median(variant.p50), statistics.median(variant.p99)
        ratios = [
            statistics.median(own / bare for own, bare in zip(ours, theirs, strict=True))
            for ours, theirs in ((variant.p50, base.p50), (variant.p99, base.p99))
        ]
        loop_us, all_us = map(statistics.median, zip(*variant.cpu_us, strict=True))
        print(
            f"{variant.name:40} {p50:7.2f} {p99:7.2f} {statistics.median(variant.worst):7.2f} "
            f"{ratios[0]:6.2f} {ratios[1]:6.2f} {loop_us:13.0f} {all_us:5.0f}   "
            f"{statistics.median(variant.rate):.0f} requests/s"
        )
    print(f"`ship` itself: {VARIANTS[-1].ship_us:.0f} us of CPU a request, its start included")


if __name__ == "__main__":
    main()
