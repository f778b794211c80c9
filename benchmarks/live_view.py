"""Measures `otel-lifecycle top` on a terminal while records are written beside it.

    python -m benchmarks.live_view

A process writes records of prefill and decode pairs, with four candidates each, at a constant rate.
Another shows them. Printed are the CPU share and the memory of the latter.
"""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import pty
import random
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from otel_lifecycle import EndpointMetrics, LatencyPrediction, LifecycleRecord, Load, NPUState
from otel_lifecycle.model import InputTokenSource, Outcome
from otel_lifecycle.model.decision import Decision, Pick, RecordedCandidate
from otel_lifecycle.model.latency import ActualLatency, prediction_error
from otel_lifecycle.model.record import ErrorInfo
from otel_lifecycle.model.route import EndpointSnapshot, RouteSnapshot
from otel_lifecycle.model.timestamps import datetime_from_ns, format_timestamp

RATES = (10, 1_000)
ENDPOINTS = 16
SECONDS = 90
WARM_UP = 30
SIZE = (50, 160)


def made_records(per_second: float, endpoints: int, seed: int = 0) -> Iterator[LifecycleRecord]:
    """Yield requests that end now, as a router with pairs would record them; never ends."""
    chance = random.Random(seed)
    half = endpoints // 2
    for number in range(1 << 60):
        prefill = min(chance.randrange(half), chance.randrange(half))
        decode = chance.randrange(half)
        length = round(chance.lognormvariate(8, 1))
        score = chance.choice((0.0, 0.0, 0.4, 0.8))
        queue_ms = chance.expovariate(1 / 4)
        ttft_ms = 30 + length * (1 - score) / 20 * chance.uniform(0.8, 1.6) * (1 + prefill / half)
        output = round(chance.lognormvariate(5, 0.7)) + 2
        tpot_ms = chance.gauss(12, 1.5)
        e2e_ms = ttft_ms + tpot_ms * (output - 1)
        roll = chance.random()
        outcome = Outcome.COMPLETED
        if roll < 0.01:
            outcome = Outcome.CLIENT_DISCONNECT if roll < 0.006 else Outcome.ERROR
        now_ns = time.time_ns()
        started_ns = now_ns - round(e2e_ms * 1e6)
        predicted = LatencyPrediction(ttft_ms * chance.lognormvariate(0, 0.4), 12.0)
        actual = ActualLatency(ttft_ms, tpot_ms, e2e_ms, None, queue_ms)
        in_flight = round(per_second / endpoints * 4)
        route = RouteSnapshot(
            EndpointSnapshot(id="pod://llm/router-0"),
            _endpoint(chance, f"prefill-{prefill}", in_flight // 2, started_ns),
            _endpoint(chance, f"decode-{decode}", in_flight, started_ns),
        )
        yield LifecycleRecord(
            request_id=f"request-{number}",
            model=chance.choice(("Qwen3-8B", "Llama-3-70B")),
            outcome=outcome,
            error=ErrorInfo("http_502") if outcome is Outcome.ERROR else None,
            streaming=True,
            received_at=format_timestamp(started_ns - round(queue_ms * 1e6)),
            started_at=format_timestamp(started_ns),
            first_chunk_at=format_timestamp(started_ns + round(ttft_ms * 1e6)),
            completed_at=format_timestamp(now_ns),
            input_token_length=length,
            input_token_source=InputTokenSource.TOKENIZED,
            output_length=output if outcome is Outcome.COMPLETED else None,
            cached_tokens=round(length * score * chance.uniform(0.8, 1)),
            candidates=half,
            policy="kv-aware",
            decision=_decision(chance, prefill, half, score, predicted),
            prefix_cache_score=score,
            prediction=predicted,
            prediction_mode="active",
            selected_route=route,
            actual=actual,
            prediction_error=prediction_error(actual, predicted),
            trace_id=f"{chance.getrandbits(128):032x}",
        )


def _endpoint(chance: random.Random, name: str, in_flight: int, at_ns: int) -> EndpointSnapshot:
    scraped = datetime_from_ns(at_ns - chance.randrange(1_000_000_000))
    return EndpointSnapshot(
        f"pod://llm/{name}",
        "10.0.0.7",
        "8000",
        metrics=EndpointMetrics(
            running_requests=chance.randint(2, 12),
            waiting_requests=chance.choice((0, 0, 0, 3)),
            kv_cache_usage=chance.uniform(0.2, 0.8),
            update_time=scraped,
        ),
        inflight=Load(in_flight * 2_000, chance.randint(0, 2 * in_flight)),
        npu=NPUState(scraped, "fresh", 2, ai_core_utilization_avg=chance.uniform(20, 90)),
    )


def _decision(
    chance: random.Random, chosen: int, among: int, score: float, predicted: LatencyPrediction
) -> Decision:
    candidates = [
        RecordedCandidate(
            id=f"pod://llm/prefill-{(chosen + step) % among}",
            score=1.2 - step * 0.3,
            prefix_cache_score=score if not step else 0.0,
            prediction=predicted,
            inflight=Load(20_000, chance.randint(0, 20)),
            waiting=0,
            kv_cache_usage=0.4,
        )
        for step in range(min(4, among))
    ]
    return Decision(picks=[Pick("prefill", 1, 0.3, 0.0, candidates)])


def write_records(path: Path, per_second: float, endpoints: int) -> None:
    """Append records at a constant rate; never ends."""
    begin, written = time.monotonic(), 0
    made = made_records(per_second, endpoints)
    with path.open("ab") as file:
        while True:
            due = round((time.monotonic() - begin) * per_second)
            lines = [msgspec.json.encode(next(made)) for _ in range(due - written)]
            file.write(b"".join(line + b"\n" for line in lines))
            file.flush()
            written = due
            time.sleep(0.1)


def measure(per_second: float) -> str:
    """Return the CPU share and memory of the view at a rate."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "records.jsonl")
        path.touch()
        writer = multiprocessing.get_context("spawn").Process(
            target=write_records, args=(path, per_second, ENDPOINTS), daemon=True
        )
        writer.start()
        leader, follower = pty.openpty()
        fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", *SIZE, 0, 0))
        command = "import sys; from otel_lifecycle.cli import main; sys.exit(main())"
        view = subprocess.Popen(
            [sys.executable, "-c", command, "top", folder],
            stdin=follower,
            stdout=follower,
            stderr=follower,
        )
        os.close(follower)
        threading.Thread(target=_drain, args=(leader,), daemon=True).start()
        time.sleep(WARM_UP)
        before = _cpu_seconds(view.pid)
        time.sleep(SECONDS)
        share = (_cpu_seconds(view.pid) - before) / SECONDS
        status = Path(f"/proc/{view.pid}/status").read_text()
        peak = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
        view.terminate()
        code = view.wait(30)
        writer.kill()
        writer.join()
    return (
        f"{per_second:>6,} requests/s, {ENDPOINTS} endpoints, {SIZE[1]}x{SIZE[0]}, 1 frame/s: "
        f"{share:6.1%} of one CPU, {int(peak) / 1024:.0f} MiB at most, exit code {code}"
    )


def _drain(leader: int) -> None:
    with suppress(OSError):
        while os.read(leader, 1 << 16):
            pass


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    for rate in RATES:
        print(measure(rate), flush=True)
