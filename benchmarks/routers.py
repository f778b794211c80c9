"""Measures what instrumentation costs a whole router: CPU, throughput and latency.

Run with `PYTHONPATH=examples python -m benchmarks.routers`. One generic router runs in three
separate processes: unchanged, instrumented, and instrumented as most users run it, with spans and
metrics exported over OTLP. The latter two write records, with zero code's default flush. They take
turns in short rounds with one engine; the table shows medians, and the spread of the ratios. CPU is
that of all the router's threads, the figure that a noisy machine disturbs least.

Streams come in two kinds: all events at once, which a router may read as one chunk, and event by
event with a pause after each, as engines send them.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from demo.otlp_receiver import OTLPReceiver

from tests.routers.scripted_engine import ScriptedEngine

ROOT = Path(__file__).parents[1]
CONNECTIONS = 16
KEEP_ALIVE = "900"  # seconds: no connection closes between two rounds
BODY = {
    "stream": b'{"model":"m","prompt":"hello","max_tokens":8,"stream":true}',
    "events": b'{"model":"m","prompt":"hello","max_tokens":8,"stream":true,"does":"steady"}',
    "whole": b'{"model":"m","prompt":"hello","max_tokens":8}',
    "pair": b'{"model":"pd","prompt":"hello","max_tokens":8,"stream":true}',
}
TITLES = {
    "stream": "Streams of 8 events at once",
    "events": "Streams, event by event",
    "whole": "Whole answers",
    "pair": "Streams, through prefill and decode",
}

engine = ScriptedEngine()  # served by uvicorn, in a process of its own


class Router:
    """A running router and the results of its rounds.

    Attributes:
        cpu: Microseconds per request, by round.
        rate: Requests per second, by round.
        latencies: Milliseconds of sequential requests.
    """

    def __init__(self, name: str, process: subprocess.Popen[bytes], port: int) -> None:
        self.name = name
        self.port = port
        self.cpu: list[float] = []
        self.rate: list[float] = []
        self.latencies: list[float] = []
        self._threads = Path(f"/proc/{process.pid}/task")

    def cpu_seconds(self) -> float:
        """Return the CPU that the process has used so far, in seconds."""
        used = 0
        for thread in self._threads.iterdir():
            with suppress(OSError):  # it has ended
                used += int((thread / "schedstat").read_text().split()[0])
        return used / 1e9

    async def round(self, body: bytes, requests: int) -> None:
        """Send some requests over many connections, and some one after the other."""
        before, began = self.cpu_seconds(), time.perf_counter()
        share = requests // CONNECTIONS
        await asyncio.gather(*(self._send(body, share) for _ in range(CONNECTIONS)))
        elapsed = time.perf_counter() - began
        self.rate.append(share * CONNECTIONS / elapsed)
        self.cpu.append((self.cpu_seconds() - before) / (share * CONNECTIONS) * 1e6)
        self.latencies += await self._send(body, requests // 10)

    async def _send(self, body: bytes, requests: int) -> list[float]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        head = (
            "POST /v1/completions HTTP/1.1\r\nhost: router\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        )
        latencies: list[float] = []
        for _ in range(requests):
            began = time.perf_counter()
            writer.write(head.encode() + body)
            await _read_answer(reader)
            latencies.append((time.perf_counter() - began) * 1e3)
        writer.close()
        return latencies


async def _read_answer(reader: asyncio.StreamReader) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    assert head.startswith(b"http/1.1 200"), head
    if b"transfer-encoding: chunked" in head:
        await reader.readuntil(b"\r\n0\r\n\r\n")
    else:
        length = head.partition(b"content-length: ")[2].partition(b"\r\n")[0]
        await reader.readexactly(int(length))


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@contextmanager
def _running(
    command: Sequence[str], environment: dict[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "examples")])
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": paths, **environment}) as run:
        try:
            yield run
        finally:
            run.terminate()


async def _measure(kind: str, rounds: int, requests: int) -> list[Router]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        receiver = stack.enter_context(OTLPReceiver())
        engine_port = _free_port()
        python = [sys.executable, "-m"]
        serve = ["uvicorn", "benchmarks.routers:engine", "--timeout-keep-alive", KEEP_ALIVE]
        options = ["--port", str(engine_port), "--log-level", "error"]
        stack.enter_context(_running([*python, *serve, *options], {}))
        tool = [str(Path(sys.executable).with_name("opentelemetry-instrument")), *python]
        quiet = {f"OTEL_{signal}_EXPORTER": "none" for signal in ("TRACES", "METRICS", "LOGS")} | {
            "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "fastapi,starlette,httpx,aiohttp-client"
        }
        exporting = {
            "OTEL_TRACES_EXPORTER": "otlp",
            "OTEL_METRICS_EXPORTER": "otlp",
            "OTEL_METRIC_EXPORT_INTERVAL": "5000",  # so that rounds have some
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
        }
        routers: list[Router] = []
        for name, start, settings in (
            ("as it is", python, {}),
            ("instrumented", tool, quiet),
            ("instrumented, exporting", tool, {**quiet, **exporting}),
        ):
            port = _free_port()
            url = f"http://127.0.0.1:{engine_port}"
            program = ["tests.routers.generic_router", str(port), url, url]
            records = {"OTEL_LIFECYCLE_PERSISTENCE_OUTPUT_PATH": str(folder / f"{port}.jsonl")}
            command = [
                *start,
                *program,
                "--framework",
                "starlette",
                "--upstream",
                "aiohttp",
                "--patience",
                "60",
            ]
            process = stack.enter_context(_running(command, {**records, **settings}))
            routers.append(Router(name, process, port))
        for router in routers:
            await _until_it_serves(router, BODY[kind])
        for _ in range(rounds):
            for router in routers:
                await router.round(BODY[kind], requests)
        return routers


async def _until_it_serves(router: Router, body: bytes) -> None:
    while True:
        try:
            await router.round(body, CONNECTIONS * 10)
        except (AssertionError, OSError):
            await asyncio.sleep(0.2)
        else:
            break
    for measured in (router.cpu, router.rate, router.latencies):
        measured.clear()


def _print_table(kind: str, routers: Sequence[Router]) -> None:
    plain = routers[0]
    print(f"\n{TITLES[kind]}: CPU us/request, requests/s, latency p50 and p99 in ms;", end=" ")
    print(f"ratio to {plain.name}")
    for router in routers:
        percentiles = statistics.quantiles(router.latencies, n=100)
        print(
            f"  {router.name:<24}{_row(router.cpu, plain.cpu)}{_row(router.rate, plain.rate)}"
            f"{percentiles[49]:8.2f}{percentiles[98]:8.2f}"
        )


def _row(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """Return the median, and the ratio's median with the middle half of the rounds."""
    low, middle, high = statistics.quantiles(
        [mine / other for mine, other in zip(ours, theirs, strict=True)], n=4
    )
    return f"{statistics.median(ours):8.0f} {middle:5.2f}x ({low:.2f} to {high:.2f})"


def main() -> None:
    """Print a table for each kind of answer."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--requests", type=int, default=320, help="in one round of one router")
    parser.add_argument("--kinds", nargs="+", choices=BODY, default=list(BODY))
    options = parser.parse_args()
    print(
        f"Python {sys.version.split()[0]}, {options.rounds} rounds of {options.requests} requests"
    )
    for kind in options.kinds:
        _print_table(kind, asyncio.run(_measure(kind, options.rounds, options.requests)))


if __name__ == "__main__":
    main()
