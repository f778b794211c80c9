"""What `otel-lifecycle observe` costs: CPU from the lines of a log to a record, and memory.

Run it with `python -m benchmarks.observe`. Each request has four entries, as the presets make them:
its arrival, the begin and the end of an attempt, and its end.
"""

from __future__ import annotations

import gc
import json
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from otel_lifecycle.observation.observatory import Observatory, Options
from otel_lifecycle.runtime.garbage import collect_rarely

REQUESTS: Final = 30_000
IN_FLIGHT: Final = 256
ENDPOINTS: Final = 16
CANDIDATES: Final = 4
RUNS: Final = 3
OPEN: Final = 100_000
_PATH: Final = "/v1/chat/completions"
_START_NS: Final = 1_795_970_684_000_000_000


def main() -> None:
    """Prints the cost of one request, without and with what Envoy's log knows of its decision."""
    collect_rarely()
    with tempfile.TemporaryDirectory() as folder:
        for scores in (0, CANDIDATES):
            log = Path(folder, f"access-{scores}.log")
            write_log(log, REQUESTS, scores)
            outputs = [Path(folder, f"records-{scores}-{run}.jsonl") for run in range(RUNS)]
            microseconds = min(observe(log, output) for output in outputs)
            size = log.stat().st_size / REQUESTS
            print(f"{scores} scores: {microseconds:.1f} us of CPU a request, {size:.0f} bytes")
        print(f"{OPEN:,} requests in flight: {held(Path(folder)) / 1024:.1f} KiB each")


def observe(log: Path, output: Path) -> float:
    """The CPU time of one request, in microseconds."""
    options = Options(log, "", output, None, None, 3600.0)
    observatory = Observatory(options, sys.stdout, print)
    try:
        gc.collect()
        before = time.process_time()
        observatory.run(follow=False)
        spent = time.process_time() - before
        assert observatory.counts.records == REQUESTS, observatory.counts
        return spent / REQUESTS * 1e6
    finally:
        observatory.close()


def held(folder: Path) -> float:
    """The memory of one request in flight, in bytes."""
    log = folder / "open.log"
    with log.open("w") as file:
        for number in range(OPEN):
            file.writelines(_lines(_begin(number)))
    options = Options(log, "", folder / "open.jsonl", None, None, 3600.0)
    observatory = Observatory(options, sys.stdout, print)
    try:
        tracemalloc.start()
        observatory.run(follow=False)
        gc.collect()
        assert observatory.open_requests == OPEN
        return tracemalloc.get_traced_memory()[0] / OPEN
    finally:
        tracemalloc.stop()
        observatory.close()


def write_log(log: Path, requests: int, scores: int) -> None:
    """Writes a log of requests that overlap, each with the scores of so many candidates."""
    with log.open("w") as file:
        for number in range(requests + IN_FLIGHT):
            if number < requests:
                file.writelines(_lines(_begin(number)))
            if number >= IN_FLIGHT:
                file.writelines(_lines(_end(number - IN_FLIGHT, scores)))


def _lines(entries: Iterator[dict[str, Any]]) -> Iterator[str]:
    for entry in entries:
        yield json.dumps(entry, separators=(",", ":")) + "\n"


def _entry(number: int, kind: str, after_us: int = 0, **fields: Any) -> dict[str, Any]:
    at = _START_NS // 1000 + number * 1000 + after_us
    return {
        "v": "1",
        "type": kind,
        "t": f"{at // 1_000_000}.{at % 1_000_000:06}",
        "rid": f"8f14e45f-ceea-467f-a4a7-{number:012}",
        "conn": number % 1000 + 1,
        **fields,
    }


def _begin(number: int) -> Iterator[dict[str, Any]]:
    address = f"10.0.0.{number % ENDPOINTS}:8000"
    yield _entry(number, "DownstreamStart", method="POST", path=_PATH, size=4000)
    yield _entry(number, "UpstreamPoolReady", 2000, ep=address, pf=None, up=address)


def _end(number: int, scores: int) -> Iterator[dict[str, Any]]:
    address = f"10.0.0.{number % ENDPOINTS}:8000"
    at = {"code": 200, "flags": "-", "dur_ms": 251, "now": "1795970684.260860"}
    yield _entry(number, "UpstreamEnd", 2000, ep=address, pf=None, up=address, **at)
    yield _entry(
        number,
        "DownstreamEnd",
        **at,
        method="POST",
        path=_PATH,
        size=4000,
        ep=address,
        pf=None,
        up=address,
        details="via_upstream",
        reason=None,
        attempts=1,
        ct="text/event-stream",
        tp=f"00-{number + 1:032x}-{number + 1:016x}-01",
        ts=None,
        up_tx_us=2100,
        ttfb_body_us=50_000,
        e2e_us=253_000,
        llm={
            "req_model": "m",
            "model": "m",
            "id": f"chatcmpl-{number}",
            "stream": True,
            "prompt_tokens": 1000,
            "completion_tokens": 20,
            "cached_tokens": 512,
        },
        lb={
            "x-gateway-destination-endpoint-scores": {
                f"10.0.0.{(number + other) % ENDPOINTS}:8000": 1.5 - other / 4
                for other in range(scores)
            }
        }
        if scores
        else None,
    )


if __name__ == "__main__":
    main()
