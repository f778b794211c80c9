"""A program that sets everything up itself, in two lines."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from demo.otlp_receiver import OTLPReceiver

import otel_lifecycle
from otel_lifecycle import ConfigError, LifecycleRecord, Outcome, read_records
from tests.examples.cluster import Cluster
from tests.ports import free_port
from tests.waiting import PATIENCE_SECONDS, eventually

# An application of no framework, and one of Starlette; each with the same server.
PROGRAM = r"""
import sys
import uvicorn
import otel_lifecycle
from tests.instrumentation.generic_routers import HttpxUpstream, make_router

kind, engine, port, path, endpoint = sys.argv[1:]
otel_lifecycle.configure(service_name="mine", record_path=path, otlp_endpoint=endpoint or None)
router = make_router(HttpxUpstream([engine]))

async def plain(scope, receive, send):
    await router(scope, receive, send)

app = otel_lifecycle.instrument(router if kind == "starlette" else plain)
assert (app is router) == (kind == "starlette")
assert otel_lifecycle.instrument(app) is app
uvicorn.run(app, port=int(port), log_level="warning")
"""


def serve_one(kind: str, folder: Path, endpoint: str) -> tuple[LifecycleRecord, str]:
    """Start the program, send one request, stop it; its record, and what it printed."""
    script, path, port = folder / "program.py", folder / "records.jsonl", free_port()
    script.write_text(PROGRAM)
    cluster = Cluster()
    engine = cluster.add_engine("engine").url
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_LIFECYCLE_CLOSE_TIMEOUT": f"{PATIENCE_SECONDS}s",  # the machine may be busy
    }
    arguments = [kind, engine, str(port), str(path), endpoint]
    process = subprocess.Popen(
        [sys.executable, script, *arguments], env=environment, stderr=subprocess.PIPE, text=True
    )
    try:
        eventually(lambda: answers(port) == 200)
    finally:
        process.send_signal(signal.SIGTERM)
        _, printed = process.communicate(timeout=PATIENCE_SECONDS)
        cluster.stop()
    (record,) = read_records(path)
    return record, printed


def answers(port: int) -> int:
    """The status of one request; 0 while nothing serves."""
    body = {"model": "m", "prompt": "hello", "max_tokens": 4, "stream": True}
    url = f"http://127.0.0.1:{port}/v1/completions"
    try:
        return httpx.post(url, json=body, timeout=PATIENCE_SECONDS).status_code
    except httpx.TransportError:
        return 0


@pytest.mark.parametrize("kind", ["starlette", pytest.param("plain", marks=pytest.mark.slow)])
def test_two_lines_follow_a_program(tmp_path: Path, kind: str) -> None:
    """Its request has a record and a span with the service's name, without any variable."""
    with OTLPReceiver() as receiver:
        record, printed = serve_one(kind, tmp_path, receiver.endpoint)
        spans = receiver.spans("otel_lifecycle")
        counted = receiver.gauge("llm_router.records.written")

    assert printed == ""
    assert record.outcome is Outcome.COMPLETED
    assert record.actual.ttft_ms is not None
    assert record.resource["service.name"] == "mine"
    assert [span.span_id.hex() for span in spans] == [record.span_id]
    assert counted == {frozenset(): 1}


def test_without_a_destination_there_is_a_record(tmp_path: Path) -> None:
    """Without an endpoint nothing is exported or logged; the record has its ids."""
    record, printed = serve_one("plain", tmp_path, "")

    assert printed == ""
    assert (record.outcome, record.trace_id is None) == (Outcome.COMPLETED, False)


async def wsgi(environ: object, start_response: object) -> None:
    """Takes what WSGI gives."""


@pytest.mark.parametrize("app", [None, 3, object, "app", wsgi])
def test_no_application_is_refused(app: Any) -> None:
    """What cannot be an ASGI application is refused in one sentence that shows it."""
    with pytest.raises(TypeError) as refused:
        otel_lifecycle.instrument(app)

    assert repr(app) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_invalid_setting_changes_nothing() -> None:
    """`configure` raises, names the setting, and sets up no provider."""
    program = (
        "import otel_lifecycle\n"
        "from opentelemetry import trace\n"
        "try: otel_lifecycle.configure(store_name=3)\n"
        "except otel_lifecycle.ConfigError as error: print(error)\n"
        "assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert (done.returncode, done.stderr) == (0, "")
    assert "storeName" in done.stdout
    with pytest.raises(ConfigError):
        otel_lifecycle.configure(nonsense=1)


def test_what_a_program_has_is_not_made_again() -> None:
    """With providers of the program, the variables of exporters are not looked at."""
    program = (
        "import otel_lifecycle\n"
        "from opentelemetry import metrics, trace\n"
        "from opentelemetry.sdk.metrics import MeterProvider\n"
        "from opentelemetry.sdk.trace import TracerProvider\n"
        "trace.set_tracer_provider(TracerProvider())\n"
        "metrics.set_meter_provider(MeterProvider())\n"
        "otel_lifecycle.configure()\n"
    )
    variables = {
        "OTEL_EXPORTER_OTLP_PROTOCOL": "none of these",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
        "OTEL_LIFECYCLE_PERSISTENCE_OUTPUT_PATH": os.devnull,
    }
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
    )

    assert (done.returncode, done.stderr) == (0, "")


def test_a_run_that_records_nothing_says_so_once() -> None:
    """Without an SDK and a record file, one line says so; with a file, none."""
    program = (
        "import otel_lifecycle\n"
        "from starlette.applications import Starlette\n"
        "otel_lifecycle.instrument(Starlette())\n"
        "otel_lifecycle.instrument(Starlette())\n"
    )
    clean = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    path = {"OTEL_LIFECYCLE_PERSISTENCE_OUTPUT_PATH": os.devnull}
    said = [
        subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True
        ).stderr.splitlines()
        for environment in (clean, {**clean, **path})
    ]

    assert len(said[0]) == 1
    assert "OTEL_LIFECYCLE_PERSISTENCE_OUTPUT_PATH" in said[0][0]
    assert said[0][0] not in said[1]
