"""A router that knows nothing of telemetry, under the command of the ecosystem."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from otel_lifecycle import Outcome, read_records
from otel_lifecycle.cli.otlp_receiver import OTLPReceiver
from tests.examples.cluster import Cluster, eventually

ROOT = Path(__file__).parents[2]
ROUTER = """
import sys
import uvicorn
from tests.instrumentation.generic_routers import HttpxUpstream, make_router

uvicorn.run(make_router(HttpxUpstream([sys.argv[2]])), port=int(sys.argv[1]), log_level="warning")
"""


@pytest.fixture
def engine() -> Iterator[str]:
    """The URL of an engine."""
    cluster = Cluster()
    yield cluster.add_engine("engine").url
    cluster.stop()


@pytest.fixture
def receiver() -> Iterator[OTLPReceiver]:
    """Where the router exports to."""
    with OTLPReceiver() as receiver:
        yield receiver


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal(
    tmp_path: Path, engine: str, receiver: OTLPReceiver, number: signal.Signals
) -> None:
    """A router that is stopped by a signal has written every record and exported every span."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    script = tmp_path / "router.py"
    script.write_text(ROUTER)
    records = tmp_path / "records.jsonl"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "examples")]),
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_LOGS_EXPORTER": "none",
        "OTEL_LIFECYCLE_PERSISTENCE_OUTPUT_PATH": str(records),
        "OTEL_LIFECYCLE_PERSISTENCE_FLUSH_THRESHOLD": "1000",
    }
    command = [str(Path(sys.executable).with_name("opentelemetry-instrument"))]
    arguments = [sys.executable, str(script), str(port), engine]
    with subprocess.Popen([*command, *arguments], env=environment) as router:
        try:
            body = {"model": "m", "prompt": "hello", "max_tokens": 4, "stream": True}
            url = f"http://127.0.0.1:{port}/v1/completions"
            eventually(lambda: _answers(port), patience=30)
            for _ in range(10):
                assert httpx.post(url, json=body, timeout=30).status_code == 200
            router.send_signal(number)
            router.wait(30)
        finally:
            router.kill()

    written = list(read_records(records))
    exported = {span.span_id.hex() for span in receiver.spans("otel_lifecycle")}
    assert [record.outcome for record in written] == [Outcome.COMPLETED] * 10
    assert {record.span_id for record in written} == exported
    counted = receiver.gauge("llm_router.records.written")
    assert counted == {frozenset(): 10}


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
