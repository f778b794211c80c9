"""A router as a separate process under `opentelemetry-instrument`."""

from __future__ import annotations

import atexit
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import httpx

from otel_lifecycle import LifecycleRecord, read_records
from tests.waiting import PATIENCE_SECONDS, eventually


class InstrumentedProcess:
    """Sends requests to the router, and reads its records."""

    def __init__(self, port: int, path: Path) -> None:
        self._url = f"http://127.0.0.1:{port}/v1/completions"
        self._path = path

    def post(self, **fields: Any) -> httpx.Response:
        """Send one request as soon as the router serves."""
        body = {"model": "m", "prompt": "hello " * 20, "max_tokens": 8, **fields}
        answers: list[httpx.Response] = []

        def answered() -> bool:
            try:
                headers = {"x-request-id": "request-1"}
                answers.append(
                    httpx.post(self._url, json=body, headers=headers, timeout=PATIENCE_SECONDS)
                )
            except httpx.ConnectError:
                return False
            return True

        eventually(answered)
        return answers[0]

    def records(self, count: int = 1) -> list[LifecycleRecord]:
        """The records, once they are in the file."""
        eventually(lambda: self._path.exists() and len(list(read_records(self._path))) >= count)
        records = list(read_records(self._path))
        assert len(records) == count
        return records


@contextmanager
def instrumented(arguments: Sequence[str], port: int, path: Path) -> Iterator[InstrumentedProcess]:
    """Run Python with these arguments, and a record file without buffering."""
    tool = Path(sys.executable).with_name("opentelemetry-instrument")
    environment = {
        **os.environ,
        "OTEL_TRACES_EXPORTER": "none",
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
        "OTEL_LIFECYCLE_PERSISTENCE_OUTPUT_PATH": str(path),
        "OTEL_LIFECYCLE_PERSISTENCE_FLUSH_THRESHOLD": "0",
    }
    with path.with_suffix(".log").open("wb") as log:
        process = subprocess.Popen(
            [str(tool), sys.executable, *arguments], env=environment, stdout=log, stderr=log
        )
    try:
        yield InstrumentedProcess(port, path)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@cache
def _reserved() -> socket.socket:
    reserved = socket.socket()
    atexit.register(reserved.close)
    reserved.bind(("127.0.0.1", 0))
    return reserved


def closed_port() -> str:
    """Yield a URL where nothing listens or will listen: the port is taken."""
    return f"http://127.0.0.1:{_reserved().getsockname()[1]}"


def served_by_any_fastapi(record: LifecycleRecord) -> dict[str, Any]:
    """Newer versions of FastAPI make a span, which is then the parent of ours."""
    alone = record.parent_span_id is None
    return {
        "parentSpanId": record.parent_span_id,
        "spanKind": "server" if alone else "internal",
    }
