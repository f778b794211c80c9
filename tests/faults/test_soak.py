"""A long run through a real router: nothing is kept of a finished request.

`SOAK_REQUESTS` sets their number: 200,000 take about half an hour on two cores.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from otel_lifecycle import Outcome
from otel_lifecycle.records import Follower, RecordError
from tests.faults.table import Result
from tests.ports import free_port
from tests.records.helpers import ROOT
from tests.waiting import eventually

pytestmark = pytest.mark.faults

REQUESTS = int(os.environ.get("SOAK_REQUESTS", "4000"))
CLIENTS = 16
ROUNDS = 5
RESET = struct.pack("ii", 1, 0)  # as SO_LINGER: closing resets the connection

# The kinds of requests, in turns: mostly complete streams, and each other way to end.
TURNS: list[tuple[dict[str, Any], str]] = [
    *[({"stream": True}, "reads")] * 12,
    *[({"stream": False}, "reads")] * 3,
    ({"stream": False, "does": "large"}, "reads"),
    ({"stream": True, "does": "drop"}, "reads"),
    ({"stream": True, "does": "http_503"}, "reads"),
    ({"stream": True, "does": "endless"}, "closes"),
    ({"stream": True, "does": "endless"}, "resets"),
]
WHOLE_TURNS = 16


@contextmanager
def program(
    *options: object, launcher: tuple[str, ...] = (), environment: dict[str, str], log: Path
) -> Iterator[str]:
    """Run one of `soak_programs`, and yield its URL."""
    port = free_port()
    command = [*launcher, sys.executable, "-m", "tests.faults.soak_programs", str(port)]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "examples")])
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, *map(str, options)],
            env={**os.environ, "PYTHONPATH": paths, **environment},
            stdout=output,
            stderr=output,
        )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


async def send(url: str, number: int) -> Outcome:
    """Send one request on a new connection, end it as its turn says, and return the result."""
    fields, end = TURNS[number % len(TURNS)]
    body = json.dumps({"model": "m", "prompt": "hello " * 20, **fields}).encode()
    address = httpx.URL(url)
    reader, writer = await asyncio.open_connection(address.host, address.port, limit=1 << 20)
    try:
        writer.write(
            b"POST /v1/completions HTTP/1.1\r\nhost: router\r\nconnection: close\r\n"
            b"content-length: %d\r\n\r\n%b" % (len(body), body)
        )
        if end == "reads":
            answer = await reader.read()
            is_whole = b" 200 " in answer[:16] and (
                answer[-1:] == b"}" or b"[DONE]" in answer[-64:]
            )
            return Outcome.COMPLETED if is_whole else Outcome.ERROR
        await reader.readuntil(b"data:")
        if end == "resets":
            connection = writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        return Outcome.CLIENT_DISCONNECT
    finally:
        writer.transport.abort()


async def send_all(url: str, numbers: range) -> Counter[Outcome]:
    """Send requests, a few at a time; return their results."""
    waiting = iter(numbers)
    seen: Counter[Outcome] = Counter()

    async def client() -> None:
        for number in waiting:
            seen[await send(url, number)] += 1

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return seen


def size(url: str) -> dict[str, int]:
    """Return what the idle router holds: no request open, all spans exported."""
    sizes: list[dict[str, int]] = []

    def is_steady() -> bool:
        time.sleep(0.5)
        sizes.append(httpx.get(f"{url}/size", timeout=60).json())
        return len(sizes) > 2 and abs(sizes[-1]["objects"] - sizes[-3]["objects"]) < 50

    eventually(is_steady, 60)
    return sizes[-1]


@pytest.mark.parametrize("upstream", ["aiohttp", "httpx"])
def test_nothing_is_kept(tmp_path: Path, upstream: str, report: Callable[[Result], None]) -> None:
    """Memory, descriptors, threads and objects stay flat, and each request has its record."""
    records = tmp_path / "records.jsonl"
    with program(environment={}, log=tmp_path / "engine.log") as engine:
        environment = {
            "OTEL_TRACES_EXPORTER": "otlp",
            "OTEL_METRICS_EXPORTER": "otlp",
            "OTEL_LOGS_EXPORTER": "none",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_EXPORTER_OTLP_ENDPOINT": engine,
            "OTEL_METRIC_EXPORT_INTERVAL": "1000",
            "OTEL_BSP_SCHEDULE_DELAY": "200",
            "OTEL_LIFECYCLE_PERSISTENCE_OUTPUT_PATH": str(records),
        }
        instrument = str(Path(sys.executable).with_name("opentelemetry-instrument"))
        with program(
            "--engine",
            engine,
            "--upstream",
            upstream,
            launcher=(instrument,),
            environment=environment,
            log=tmp_path / "router.log",
        ) as router:
            eventually(lambda: answers(router) and answers(engine), 60)
            per_round = REQUESTS // ROUNDS // len(TURNS) * len(TURNS)
            sizes: list[dict[str, int]] = []
            seen: Counter[Outcome] = Counter()
            for index in range(ROUNDS):
                numbers = range(index * per_round, (index + 1) * per_round)
                seen += asyncio.run(send_all(router, numbers))
                sizes.append(size(router))
    print("\n".join(map(str, sizes)))
    # The first round fills pools, caches and the allocator's arenas.
    _, second, *_, last = sizes
    assert last["threads"] <= second["threads"]
    assert last["descriptors"] <= second["descriptors"] + CLIENTS  # connections kept for later
    assert last["objects"] <= second["objects"] + 4_000
    assert last["kilobytes"] <= second["kilobytes"] * 1.05 + 4_000
    turns = ROUNDS * per_round // len(TURNS)
    found = outcomes(records)
    assert found == seen
    assert found[Outcome.COMPLETED] > 0.99 * turns * WHOLE_TURNS
    report(
        Result(
            f"Disconnects, resets, dropped engines and answers of 0.9 MB, through {upstream}",
            "Memory, descriptors, threads and objects stay flat.",
            1,
            turns * len(TURNS),
            found.total(),
            0,
        )
    )


def answers(url: str) -> bool:
    """Return whether a server listens."""
    try:
        httpx.get(f"{url}/size", timeout=60)
    except httpx.TransportError:
        return False
    return True


def outcomes(path: Path) -> Counter[Outcome]:
    """Return how the requests of a record file ended."""
    found: Counter[Outcome] = Counter()
    with Follower(path) as follower:
        for entry in follower.read():
            assert not isinstance(entry, RecordError)
            found[entry.record.outcome] += 1
    return found
