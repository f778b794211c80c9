"""A collector that does not answer does not delay the end of a process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from otel_lifecycle.instrumentation import providers

PATIENCE_SECONDS = 180  # the machine may be busy

PROGRAM = """
import starlette.routing  # it may serve
from opentelemetry import trace

trace.get_tracer("program").start_span("work").end()
"""


@pytest.fixture
def silent() -> Iterator[str]:
    """The URL of a collector that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def start(collector: str, **environment: str) -> subprocess.Popen[bytes]:
    """A program that has a span to export when it ends."""
    tool = Path(sys.executable).with_name("opentelemetry-instrument")
    return subprocess.Popen(
        [str(tool), sys.executable, "-c", PROGRAM],
        env={
            **os.environ,
            "OTEL_TRACES_EXPORTER": "otlp",
            "OTEL_METRICS_EXPORTER": "otlp",
            "OTEL_LOGS_EXPORTER": "none",
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_EXPORTER_OTLP_TIMEOUT": "600",
            **environment,
        },
    )


def test_exit_is_bounded(silent: str) -> None:
    """An instrumented router has ended while one without us still waits."""
    left_to_the_sdk = start(silent, OTEL_PYTHON_DISABLED_INSTRUMENTATIONS="*")
    try:
        instrumented = start(silent, OTEL_LIFECYCLE_CLOSE_TIMEOUT="500ms")
        try:
            assert instrumented.wait(PATIENCE_SECONDS) == 0
        finally:
            instrumented.kill()
            instrumented.wait()
        assert left_to_the_sdk.poll() is None
    finally:
        left_to_the_sdk.kill()
        left_to_the_sdk.wait()


def test_servers_that_stop_at_once() -> None:
    """Any number of servers in one process may flush concurrently."""
    with ThreadPoolExecutor(16) as servers:
        flushes = [servers.submit(providers.flush, 5.0) for _ in range(500)]

    assert [flush.exception() for flush in flushes] == [None] * 500
