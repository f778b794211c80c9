"""The cost of collection: `python -m benchmarks.collection [--engines N] [--seconds S]`.

A separate process serves hundreds of targets: good ones with about 300 samples each, plain, in gzip
and in chunks, and bad ones that hang, drip, redirect, are huge, decompress to something huge, or do
not exist. This process scrapes them all once a second, as a router would, while its own event loop
measures how late it is woken.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import logging
import os
import resource
import socket
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from statistics import quantiles

from otel_lifecycle import Endpoint, RequestLifecycleTracker, TrackerConfig
from otel_lifecycle.config.collection import CollectionConfig, TargetConfig
from otel_lifecycle.state.collector import Collector
from otel_lifecycle.tracking.store import LifecycleStore

SAMPLES = 300
HUGE = 64 * 1024 * 1024
TICK = 0.005
_PATIENCE_SECONDS = 60.0  # of a busy machine
GOOD = ("plain", "gzip", "chunked")
BAD = {
    "hang": "timeout",
    "drip": "timeout",
    "redirect": "http_302",
    "huge": "too_large",
    "endless": "too_large",
    "bomb": "too_large",
    "garbage": "no_metrics",
    "dead": "unreachable",
}


def exposition() -> bytes:
    """An engine's metrics: the few needed values among many others."""
    labels = 'engine="0",model_name="Qwen/Qwen3-8B"'
    lines = [
        f"vllm:num_requests_running{{{labels}}} 7.0",
        f"vllm:num_requests_waiting{{{labels}}} 2.0",
        f"vllm:kv_cache_usage_perc{{{labels}}} 0.31",
    ]
    lines += [
        f'vllm:time_to_first_token_seconds_bucket{{{labels},le="{index}"}} {index}.0'
        for index in range(SAMPLES - len(lines))
    ]
    return "\n".join([*lines, ""]).encode()


async def serve(listener: socket.socket) -> None:
    """Answer by the last part of the path."""
    good = exposition()
    packed, bomb = gzip.compress(good), gzip.compress(bytes(HUGE))
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in _split(good, 1000))
    text = b"Content-Type: text/plain\r\n"

    def whole(body: bytes, more: bytes = b"") -> bytes:
        return b"HTTP/1.1 200 OK\r\n%s%sContent-Length: %d\r\n\r\n%s" % (
            text,
            more,
            len(body),
            body,
        )

    answers = {
        "plain": whole(good),
        "gzip": whole(packed, b"Content-Encoding: gzip\r\n"),
        "chunked": b"HTTP/1.1 200 OK\r\n%sTransfer-Encoding: chunked\r\n\r\n%s0\r\n\r\n"
        % (text, chunks),
        "redirect": b"HTTP/1.1 302 Found\r\nLocation: /plain\r\nContent-Length: 0\r\n\r\n",
        "garbage": whole(os.urandom(20_000)),
        "bomb": whole(bomb, b"Content-Encoding: gzip\r\n"),
        "drip": b"HTTP/1.1 200 OK\r\n%sContent-Length: 100000\r\n\r\n" % text,
        "huge": b"HTTP/1.1 200 OK\r\n%sContent-Length: %d\r\n\r\n" % (text, HUGE),
        "endless": b"HTTP/1.1 200 OK\r\n%s\r\n" % text,
    }

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                kind = head.split(b" ", 2)[1].rpartition(b"/")[2].decode()
                writer.write(answers.get(kind, b""))
                while kind in ("drip", "huge", "endless"):
                    writer.write(b"#" * (1 if kind == "drip" else 65536))
                    await writer.drain()
                    await asyncio.sleep(0.01 if kind == "drip" else 0)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async with await asyncio.start_server(answer, sock=listener) as server:
        print("serving", flush=True)
        await server.serve_forever()


def _split(body: bytes, size: int) -> list[bytes]:
    return [body[start : start + size] for start in range(0, len(body), size)]


@dataclass
class Measured:
    """The results.

    Attributes:
        states: Number of targets by state at the end.
        with_metrics: Number of endpoints with metrics at the end.
        cpu: Fraction of one core, without the measurement itself.
        memory_mb: Growth of the process's peak memory.
        lags_ms: Delay of each wake of the event loop.
        idle_lags_ms: The same without collection.
        scrape_lag_ms: The largest delay of a scrape.
    """

    states: Counter[tuple[str, str]]
    with_metrics: int
    cpu: float
    memory_mb: float
    lags_ms: list[float]
    idle_lags_ms: list[float]
    scrape_lag_ms: float


def measure(engines: int, bad_of_each: int, seconds: float, timeout: float = 1.0) -> Measured:
    """Scrape for some seconds; a scrape takes at most the timeout."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        port = listener.getsockname()[1]
        command = [sys.executable, "-m", "benchmarks.collection", "--serve", str(listener.fileno())]
        with subprocess.Popen(
            command,
            pass_fds=[listener.fileno()],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[1],
        ) as server:
            try:
                assert server.stdout is not None
                server.stdout.readline()
                return asyncio.run(_measure(port, engines, bad_of_each, seconds, timeout))
            finally:
                server.kill()


async def _measure(
    port: int, engines: int, bad_of_each: int, seconds: float, timeout: float
) -> Measured:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        dead = closed.getsockname()[1]
    endpoints = [
        Endpoint(address=f"10.0.{i // 250}.{i % 250}", port="8000") for i in range(engines)
    ]
    targets = [
        TargetConfig(
            url=f"http://127.0.0.1:{port}/{index}/{GOOD[index % len(GOOD)]}",
            endpoints={endpoint.id: ()},
        )
        for index, endpoint in enumerate(endpoints)
    ]
    targets += [
        TargetConfig(url=f"http://127.0.0.1:{dead if kind == 'dead' else port}/{index}/{kind}")
        for kind in BAD
        for index in range(bad_of_each)
    ]
    idle_cpu, idle_lags = await _watch_loop(seconds)
    before = _peak_mb()
    config = CollectionConfig(
        enabled=True, endpoints=False, targets=tuple(targets), timeout=timedelta(seconds=timeout)
    )
    tracker = RequestLifecycleTracker(TrackerConfig(store_name="collection", collection=config))
    store = tracker.store
    for endpoint in endpoints:
        store.add_endpoint(endpoint)
    await asyncio.sleep(2)  # first scrapes, all at once
    latest = time.monotonic() + _PATIENCE_SECONDS
    while _with_metrics(store) < engines and time.monotonic() < latest:
        await asyncio.sleep(0.1)
    cpu, lags = await _watch_loop(seconds)
    collector = store.collector
    assert isinstance(collector, Collector)
    measured = Measured(
        Counter(collector.targets()),
        _with_metrics(store),
        (cpu - idle_cpu) / seconds,
        _peak_mb() - before,
        lags,
        idle_lags,
        collector.lag * 1000,
    )
    tracker.close()
    return measured


def _with_metrics(store: LifecycleStore) -> int:
    return sum(state.collected is not None for state in store.endpoints())


async def _watch_loop(seconds: float) -> tuple[float, list[float]]:
    """Return the CPU seconds of the process, and the delay of each wake of the loop, in ms."""
    lags: list[float] = []
    began, end = time.process_time(), time.perf_counter() + seconds
    while time.perf_counter() < end:
        due = time.perf_counter() + TICK
        await asyncio.sleep(TICK)
        lags.append((time.perf_counter() - due) * 1000)
    return time.process_time() - began, lags


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _percentiles(lags: list[float]) -> str:
    cuts = quantiles(lags, n=100)
    return f"p50 {cuts[49]:.2f} ms, p99 {cuts[98]:.2f} ms, max {max(lags):.1f} ms"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engines", type=int, default=400)
    parser.add_argument("--bad", type=int, default=10, help="of each kind")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve is not None:
        asyncio.run(serve(socket.socket(fileno=arguments.serve)))
        return
    logging.disable()  # a line for each bad target
    measured = measure(arguments.engines, arguments.bad, arguments.seconds)
    targets = arguments.engines + arguments.bad * len(BAD)
    print(f"{targets} targets once a second, {arguments.engines} of them good, {SAMPLES} samples")
    for (_, state), count in sorted(measured.states.items()):
        print(f"  {state:14} {count:5}")
    print(f"endpoints with metrics  {measured.with_metrics}")
    print(f"CPU                     {measured.cpu:.1%} of one core")
    print(f"memory, at its peak     {measured.memory_mb:+.1f} MB")
    print(f"scrapes begin late      {measured.scrape_lag_ms:.1f} ms at most, of the last ones")
    print(f"event loop, idle        {_percentiles(measured.idle_lags_ms)}")
    print(f"event loop, collecting  {_percentiles(measured.lags_ms)}")


if __name__ == "__main__":
    main()
