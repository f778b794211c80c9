"""A router without any telemetry, under `opentelemetry-instrument`."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import pytest
from demo.otlp_receiver import OTLPReceiver

from otel_lifecycle import Outcome, read_records
from otel_lifecycle.records import Follower, RecordError
from tests.examples.cluster import Cluster
from tests.ports import free_port
from tests.records.shipping.collectors import GRPC, HTTP_PROTOBUF, Collector
from tests.waiting import PATIENCE_SECONDS, eventually

ROOT = Path(__file__).parents[2]
ROUTER = r"""
import asyncio
import os
import threading
import uvicorn
from opentelemetry import trace
from tests.instrumentation.generic_routers import HttpxUpstream, make_router

router = make_router(HttpxUpstream([os.environ["ENGINE"]]))

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        for _ in range(int(os.environ.get("HANGING_CALLS", "0"))):
            asyncio.get_running_loop().run_in_executor(None, threading.Event().wait)
    elif "BROKEN_SPANS" in os.environ:
        trace.get_tracer("router").start_span("half a character: \ud800").end()
    await router(scope, receive, send)

if __name__ == "__main__":
    workers = int(os.environ.get("WORKERS", "0"))
    uvicorn.run(
        "router:app" if workers else app,
        port=int(os.environ["PORT"]),
        log_level="warning",
        workers=workers or None,
    )
"""


@pytest.fixture
def engine() -> Iterator[str]:
    """The URL of an engine."""
    cluster = Cluster()
    yield cluster.add_engine("engine").url
    cluster.stop()


@pytest.fixture
def receiver() -> Iterator[OTLPReceiver]:
    """The receiver of the router's exports."""
    with OTLPReceiver() as receiver:
        yield receiver


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal(
    tmp_path: Path, engine: str, receiver: OTLPReceiver, number: signal.Signals
) -> None:
    """A router that is stopped by a signal has written every record and exported every span."""
    records = tmp_path / "records.jsonl"
    serve_until(number, 10, tmp_path, receiver, ENGINE=engine, **persisted(records))

    written = list(read_records(records))
    exported = {span.span_id.hex() for span in receiver.spans("otel_lifecycle")}
    assert [record.outcome for record in written] == [Outcome.COMPLETED] * 10
    assert {record.span_id for record in written} == exported
    counted = receiver.gauge("llm_router.records.written")
    assert counted == {frozenset(): 10}


def test_signal_with_the_default_flush(tmp_path: Path, engine: str, receiver: OTLPReceiver) -> None:
    """Nor is anything lost of what waits for a flush when nobody says how long it may."""
    records = tmp_path / "records.jsonl"
    settings = {"OTEL_LIFECYCLE_PERSISTENCE_OUTPUT_PATH": str(records)}
    serve_until(signal.SIGTERM, 10, tmp_path, receiver, ENGINE=engine, **settings)

    assert [record.outcome for record in read_records(records)] == [Outcome.COMPLETED] * 10


IN_PROCESS = """
import asyncio
import httpx
import signal
import sys
import time
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

async def answer(request):
    return JSONResponse({"usage": {"completion_tokens": 1}})

async def serve(requests):
    app = Starlette(routes=[Route("/v1/completions", answer, methods=["POST"])])
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://router") as client:
        for _ in range(requests):
            await client.post("/v1/completions", json={"model": "m", "prompt": "hello"})

asyncio.run(serve(7))
"""
ENDINGS = {
    "normal": ("", 0),
    "Control-C": (
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "signal.raise_signal(signal.SIGINT)",
        -signal.SIGINT,
    ),
    "the default of SIGTERM, later": (
        # It runs no code of Python, so what is in the file by then was written in time.
        "while open(sys.argv[1]).read().count('\\n') < 7: time.sleep(0.01)\n"
        "signal.raise_signal(signal.SIGTERM)",
        -signal.SIGTERM,
    ),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_plain_program(tmp_path: Path, name: str) -> None:
    """A program without uvicorn writes all as well: after a moment, and when its Python exits."""
    ending, code = ENDINGS[name]
    records, script = tmp_path / "records.jsonl", tmp_path / "router.py"
    script.write_text(IN_PROCESS + ending)
    environment = {
        **os.environ,
        "OTEL_TRACES_EXPORTER": "none",
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
        "OTEL_LIFECYCLE_PERSISTENCE_OUTPUT_PATH": str(records),
    }
    instrument = str(Path(sys.executable).with_name("opentelemetry-instrument"))
    command = [instrument, sys.executable, str(script), str(records)]
    process = subprocess.run(command, env=environment, timeout=60, capture_output=True, text=True)

    assert process.returncode == code, process.stderr
    assert len(list(read_records(records))) == 7


def test_signal_beside_calls_that_hang(tmp_path: Path, engine: str, receiver: OTLPReceiver) -> None:
    """A router whose threads all hang still ends at its signal, without losses."""
    records = tmp_path / "records.jsonl"
    settings = {"ENGINE": engine, "HANGING_CALLS": "100", **persisted(records)}
    serve_until(signal.SIGTERM, 2, tmp_path, receiver, **settings)

    assert [record.outcome for record in read_records(records)] == [Outcome.COMPLETED] * 2


@pytest.mark.parametrize(
    ("protocol", "settings", "arrive"),
    [
        (GRPC, {}, True),
        (HTTP_PROTOBUF, {}, True),
        (HTTP_PROTOBUF, {"OTEL_LIFECYCLE_OTLP_ENCODER": "sdk"}, False),
        (
            HTTP_PROTOBUF,
            {"OTEL_LIFECYCLE_OTLP_ENCODER": "sdk", "OTEL_TRACES_EXPORTER": "otlp_lifecycle"},
            True,
        ),
    ],
    ids=["grpc", "http", "the SDK's encoder", "our exporter"],
)
def test_encoder(
    tmp_path: Path, engine: str, protocol: str, settings: dict[str, str], arrive: bool
) -> None:
    """The exporter's spans are encoded by us: one that cannot be costs no others, as with the SDK.

    That is so for the SDK's exporter, unless the SDK's encoder is asked for, and for ours.
    """
    records = tmp_path / "records.jsonl"
    with Collector(protocol) as collector:
        settings = {
            **collector.environment,
            "OTEL_METRICS_EXPORTER": "none",
            # One batch, at the end: each request's span is in one with a broken span.
            "OTEL_BSP_SCHEDULE_DELAY": "3600000",
            "BROKEN_SPANS": "1",
            **persisted(records),
            **settings,
        }
        serve_until(signal.SIGTERM, 2, tmp_path, None, ENGINE=engine, **settings)

    ids = [record.request_id for record in read_records(records)]
    assert len(ids) == 2
    assert collector.request_ids == (ids if arrive else [])


GUNICORN = [
    "-m",
    "gunicorn",
    "router:app",
    "--workers",
    "2",
    "--worker-class",
    "uvicorn.workers.UvicornWorker",
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("server", "writer", "name"),
    [
        ("uvicorn", "thread", "records.jsonl"),
        ("uvicorn", "thread", "records-{pid}.jsonl"),
        ("uvicorn", "process", "records.jsonl"),
        ("gunicorn", "thread", "records-{pid}.jsonl"),
        ("gunicorn", "process", "records.jsonl"),
    ],
)
def test_workers(
    tmp_path: Path, engine: str, receiver: OTLPReceiver, server: str, writer: str, name: str
) -> None:
    """The workers, which are spawned or forked, write every record once, to one file or each."""
    folder = tmp_path / "records"
    settings = persisted(folder / name, ROTATE_BYTES="4096", COMPRESSION="gzip")
    settings |= {"ENGINE": engine, "WORKERS": "2", "OTEL_LIFECYCLE_WRITER": writer}
    program = GUNICORN if server == "gunicorn" else ()
    serve_until(signal.SIGTERM, 40, tmp_path, receiver, program, **settings)

    written = [entry for entry in Follower(folder).read() if not isinstance(entry, RecordError)]
    assert [entry.record.outcome for entry in written] == [Outcome.COMPLETED] * 40
    exported = {span.span_id.hex() for span in receiver.spans("otel_lifecycle")}
    assert {entry.record.span_id for entry in written} == exported
    assert len(exported) == 40


def persisted(path: Path, **settings: str) -> dict[str, str]:
    """Settings of the record file."""
    settings = {"OUTPUT_PATH": str(path), "FLUSH_THRESHOLD": "1000", **settings}
    return {f"OTEL_LIFECYCLE_PERSISTENCE_{name}": value for name, value in settings.items()}


def serve_until(
    number: signal.Signals,
    requests: int,
    folder: Path,
    receiver: OTLPReceiver | None,
    program: Sequence[str] = (),
    **settings: str,
) -> None:
    """Serve some requests with an instrumented router, a script or a program, until a signal."""
    port = free_port()
    script = folder / "router.py"
    script.write_text(ROUTER)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "examples"), str(folder)]),
        **({} if receiver is None else _exported_to(receiver)),
        "OTEL_LOGS_EXPORTER": "none",
        "OTEL_LIFECYCLE_CLOSE_TIMEOUT": f"{PATIENCE_SECONDS}s",  # the machine may be busy
        "PORT": str(port),  # gunicorn reads it, too
        **settings,
    }
    instrument = str(Path(sys.executable).with_name("opentelemetry-instrument"))
    command = [instrument, sys.executable, *(program or [str(script)])]
    with subprocess.Popen(command, env=environment) as router:
        try:
            body = {"model": "m", "prompt": "hello", "max_tokens": 4, "stream": True}
            url = f"http://127.0.0.1:{port}/v1/completions"
            eventually(lambda: answers(port))
            for _ in range(requests):
                assert httpx.post(url, json=body, timeout=PATIENCE_SECONDS).status_code == 200
            router.send_signal(number)
            router.wait(PATIENCE_SECONDS)
        finally:
            router.kill()


def _exported_to(receiver: OTLPReceiver) -> dict[str, str]:
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
        "OTEL_EXPORTER_OTLP_PROTOCOL": HTTP_PROTOBUF,
    }


def answers(port: int) -> bool:
    """Return whether something listens on a port."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
