"""A router as a process under `opentelemetry-instrument`, with everything it exported."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import httpx
from demo.otlp_receiver import OTLPReceiver
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from otel_lifecycle import LifecycleRecord, read_records
from tests.waiting import eventually

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 180.0


class Reply(NamedTuple):
    """A client's answer: the body as far as it arrived, and whether it is complete."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    is_whole: bool


class Finished(NamedTuple):
    """The telemetry of a router that has ended.

    Attributes:
        records: Records by request id.
        traces: All spans with their scopes, by trace id.
        in_flight: The last values of the load gauges.
    """

    records: dict[str, LifecycleRecord]
    traces: dict[str, list[tuple[str, Span]]]
    in_flight: set[float]


class TracedRouter:
    """Runs Python with some arguments and a port; a context manager.

    Args:
        arguments: Arguments for Python; `{port}` is replaced by the port.
        port: Its port.
        folder: Folder of the record file and the log.
        instrumented: Whether `opentelemetry-instrument` starts it.
        environment: Additional variables.
        heard: Told what a client has of its answer so far.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        port: int,
        folder: Path,
        *,
        instrumented: bool = True,
        environment: Mapping[str, str] | None = None,
        heard: Callable[[bytes], None] | None = None,
    ) -> None:
        self._heard = heard
        self.url = f"http://127.0.0.1:{port}"
        self.log = folder / "router.log"
        self._records = folder / "records.jsonl"
        self._receiver = OTLPReceiver()
        # After a body that it had to hold up, uvicorn serves the next request of the connection in
        # the context of that one, so that contrib's spans of both are one trace.
        unused = httpx.Limits(max_keepalive_connections=0)
        self._client = httpx.Client(timeout=60, trust_env=False, limits=unused)
        tool = [str(Path(sys.executable).with_name("opentelemetry-instrument"))]
        self._command = [*(tool if instrumented else []), sys.executable, *arguments]
        self._environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "examples")]),
            "OTEL_EXPORTER_OTLP_ENDPOINT": self._receiver.endpoint,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            # FastAPI exports all spans and metrics again if the variable is `otlp`.
            "OTEL_TRACES_EXPORTER": "otlp_proto_http",
            "OTEL_METRICS_EXPORTER": "otlp_proto_http",
            "OTEL_LOGS_EXPORTER": "none",
            "OTEL_PYTHON_EXCLUDED_URLS": "/health",
            "OTEL_LIFECYCLE_PERSISTENCE_OUTPUT_PATH": str(self._records),
            "OTEL_LIFECYCLE_PERSISTENCE_FLUSH_THRESHOLD": "1000",
            "OTEL_LIFECYCLE_CLOSE_TIMEOUT": "60s",  # the machine may be busy
            **(environment or {}),
        }

    def __enter__(self) -> TracedRouter:
        self._receiver.__enter__()
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command, env=self._environment, stdout=log, stderr=log
            )
        try:
            eventually(self._serves, PATIENCE_SECONDS)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._client.close()
        self._receiver.__exit__(None, None, None)

    def post(
        self, body: Mapping[str, Any] | bytes, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """Send one request, and read the answer."""
        content: dict[str, Any] = {"content": body} if isinstance(body, bytes) else {"json": body}
        received = bytearray()
        self._tell(received)
        with self._client.stream(
            "POST", f"{self.url}/v1/completions", headers=headers, **content
        ) as response:
            try:
                for chunk in response.iter_raw():
                    received += chunk
                    self._tell(received)
            except httpx.TransportError:
                is_whole = False
            else:
                is_whole = True
        return Reply(
            response.status_code, response.headers.multi_items(), bytes(received), is_whole
        )

    def _tell(self, received: bytearray) -> None:
        if self._heard is not None:
            self._heard(bytes(received))

    def post_and_leave(self, body: Mapping[str, Any], headers: Mapping[str, str]) -> None:
        """Send one request, and leave after the first bytes of the answer."""
        with self._client.stream(
            "POST", f"{self.url}/v1/completions", headers=headers, json=body
        ) as response:
            next(response.iter_raw())

    def stop(self) -> Finished:
        """End it as an orchestrator would, and return its telemetry."""
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(PATIENCE_SECONDS)
        traces: dict[str, list[tuple[str, Span]]] = {}
        for scope in self._receiver.scopes():
            for span in self._receiver.spans(scope):
                traces.setdefault(span.trace_id.hex(), []).append((scope, span))
        return Finished(
            records={record.request_id: record for record in read_records(self._records)}
            if self._records.exists()
            else {},
            traces=traces,
            in_flight={
                value
                for kind in ("requests", "tokens")
                for value in self._receiver.gauge(f"llm_router.inflight.{kind}").values()
            },
        )

    def _serves(self) -> bool:
        assert self._process.poll() is None, self.log.read_text()
        time.sleep(0.1)
        try:
            return self._client.get(f"{self.url}/health").status_code < 500
        except httpx.TransportError:
            return False


class Parent(NamedTuple):
    """The client's span."""

    trace_id: str
    span_id: str

    @property
    def headers(self) -> dict[str, str]:
        """The headers that the client sends."""
        return {
            "traceparent": f"00-{self.trace_id}-{self.span_id}-01",
            "x-request-id": self.trace_id,
        }


def new_parent() -> Parent:
    """Return a unique span of a client."""
    return Parent(uuid4().hex, uuid4().hex[:16])
