"""Whatever is wrong with a collector, requests are not affected, and one line reports it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

import pytest
from demo.replay import Answer
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceResponse,
)

from tests.backends.certificates import HOST, make_certificates
from tests.backends.programs import GRPC, HTTP_PROTOBUF, Backends
from tests.backends.routers import Router, Routers, requests
from tests.ports import free_port
from tests.waiting import PATIENCE_SECONDS, eventually

pytestmark = pytest.mark.backends

PARTIAL_SUCCESS = ExportTraceServiceResponse(
    partial_success=ExportTracePartialSuccess(rejected_spans=1, error_message="too old")
).SerializeToString()

SOON = {"OTEL_EXPORTER_OTLP_TIMEOUT": "3", "OTEL_LIFECYCLE_CLOSE_TIMEOUT": "1s"}
PATIENT = {"OTEL_EXPORTER_OTLP_TIMEOUT": "60", "OTEL_LIFECYCLE_CLOSE_TIMEOUT": "60s"}


class _Handler(BaseHTTPRequestHandler):
    def __init__(self, status: int, content: bytes, asked: Event, *arguments: object) -> None:
        self._status, self._content, self._asked = status, content, asked
        super().__init__(*arguments)  # type: ignore[arg-type]

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self._asked.set()
        self.send_response(self._status)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", str(len(self._content)))
        self.end_headers()
        self.wfile.write(self._content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@contextmanager
def answering(status: int, content: bytes = b"") -> Iterator[tuple[dict[str, str], Event]]:
    """A collector with this answer: its variables, and whether anything was sent."""
    asked = Event()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, status, content, asked))
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield to(f"http://127.0.0.1:{server.server_port}", HTTP_PROTOBUF), asked
    finally:
        server.shutdown()
        server.server_close()


def to(endpoint: str, protocol: str) -> dict[str, str]:
    """Return the standard variables."""
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol}


def serve(routers: Routers, environment: Mapping[str, str]) -> Router:
    """A router with that collector, which has answered requests normally."""
    router = routers.start(("aggregated",), **{**SOON, **environment})

    answers = router.send(requests(20))

    assert answers[Answer.COMPLETE] + answers[Answer.LEFT] == 20
    router.records(20)
    return router


def assert_one_line_each(router: Router) -> None:
    """Assert at most one line each for spans and metrics, and a timely end."""
    eventually(lambda: "export" in router.log(), what="a line in the log")
    router.stop()
    lines = router.log().splitlines()
    assert 1 <= len(lines) <= 2, router.log()
    assert all("export" in line for line in lines)


@pytest.mark.parametrize("protocol", [GRPC, HTTP_PROTOBUF])
@pytest.mark.parametrize("host", ["127.0.0.1", "collector.invalid"])
def test_nobody_there(routers: Routers, protocol: str, host: str) -> None:
    """A port that refuses, and an unknown host name."""
    assert_one_line_each(serve(routers, to(f"http://{host}:{free_port()}", protocol)))


@pytest.mark.parametrize("status", [429, 503, 400])
def test_refused(routers: Routers, status: int) -> None:
    """A collector that is overloaded, and one that rejects the format."""
    with answering(status) as (environment, _):
        assert_one_line_each(serve(routers, environment))


def test_partial_success(routers: Routers) -> None:
    """If a collector drops some spans, nothing is logged, because the SDK ignores it."""
    with answering(200, PARTIAL_SUCCESS) as (environment, asked):
        router = serve(routers, {**environment, **PATIENT})  # the collector may be slow to answer
        assert asked.wait(PATIENCE_SECONDS)
        router.stop()

    assert router.log() == ""


@pytest.mark.parametrize("protocol", [GRPC, HTTP_PROTOBUF])
def test_wrong_protocol(backends: Backends, routers: Routers, protocol: str) -> None:
    """OTLP over gRPC sent to the HTTP port, and the reverse."""
    collector = backends.collector("local/collector.yaml")
    other = {GRPC: HTTP_PROTOBUF, HTTP_PROTOBUF: GRPC}[protocol]
    endpoint = collector.exporting(other)["OTEL_EXPORTER_OTLP_ENDPOINT"]

    assert_one_line_each(serve(routers, to(endpoint, protocol)))


@pytest.mark.parametrize("protocol", [GRPC, HTTP_PROTOBUF])
def test_expired_certificate(
    backends: Backends, routers: Routers, tmp_path: Path, protocol: str
) -> None:
    """Nothing is sent to a collector with an expired certificate."""
    certificates = make_certificates(tmp_path, mutual=False, expired=True)
    collector = backends.collector("local/collector.yaml", "tls.yaml", **certificates.collector)

    environment = collector.exporting(protocol, f"https://{HOST}")
    environment.update(certificates.router)
    # Otherwise gRPC's core logs every failed handshake, without Python's logging.
    assert_one_line_each(serve(routers, {**environment, "GRPC_VERBOSITY": "NONE"}))

    assert collector.metric("otelcol_receiver_accepted_spans") == 0


def test_no_client_certificate(backends: Backends, routers: Routers, tmp_path: Path) -> None:
    """A collector that requires a client certificate accepts nothing without one."""
    certificates = make_certificates(tmp_path, mutual=True)
    collector = backends.collector("local/collector.yaml", "tls.yaml", **certificates.collector)
    trust = {name: path for name, path in certificates.router.items() if "CLIENT" not in name}

    environment = collector.exporting(HTTP_PROTOBUF, f"https://{HOST}")
    assert_one_line_each(serve(routers, {**environment, **trust}))

    assert collector.metric("otelcol_receiver_accepted_spans") == 0
