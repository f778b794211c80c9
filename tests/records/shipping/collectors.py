"""Collectors with programmed answers, over both protocols."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import TracebackType
from typing import Any, TypeAlias

import grpc
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

from tests.backends.spans import PlainSpan, plain_spans

GRPC, HTTP_PROTOBUF = "grpc", "http/protobuf"


@dataclass(frozen=True)
class Reply:
    """A collector's answer to one export.

    Attributes:
        status: The HTTP status.
        code: The equivalent gRPC code.
        message: The message.
        rejected: Number of spans that a partial success rejects.
    """

    status: int = 200
    code: grpc.StatusCode = grpc.StatusCode.OK
    message: str = ""
    rejected: int = 0

    @property
    def response(self) -> ExportTraceServiceResponse:
        """Return the body of a success."""
        response = ExportTraceServiceResponse()
        if self.message or self.rejected:
            response.partial_success.error_message = self.message
            response.partial_success.rejected_spans = self.rejected
        return response


ACCEPT = Reply()
BAD_REQUEST = Reply(400, grpc.StatusCode.INVALID_ARGUMENT, "it is not to my taste")
UNPROCESSABLE = Reply(422, grpc.StatusCode.INVALID_ARGUMENT, "it is not to my taste")
TOO_LARGE = Reply(413, grpc.StatusCode.INVALID_ARGUMENT, "it is not to my taste")
UNAVAILABLE = Reply(503, grpc.StatusCode.UNAVAILABLE, "come back later")
REDIRECT = Reply(302, grpc.StatusCode.UNIMPLEMENTED, "elsewhere")
UNAUTHORIZED = Reply(401, grpc.StatusCode.UNAUTHENTICATED, "who are you?")

Answering: TypeAlias = Callable[["list[str]"], Reply]


def accept(request_ids: list[str]) -> Reply:
    """Accept everything."""
    return ACCEPT


@dataclass
class Collector:
    """A collector of the given protocol; a context manager.

    Attributes:
        answer: Returns the answer for the request ids of an export.
        port: Its port; 0 for any.
        largest: Limit of a request over gRPC, in bytes.
        exports: The accepted exports.
        asked: The request ids of every export, accepted or not.
        authorization: The header of the last export.
        encoding: How its body was compressed; None over gRPC, which does that by itself.
    """

    protocol: str
    answer: Answering = accept
    port: int = 0
    largest: int = 4 << 20
    exports: list[ExportTraceServiceRequest] = field(default_factory=list)
    asked: list[list[str]] = field(default_factory=list)
    authorization: str | None = None
    encoding: str | None = None

    def __enter__(self) -> Collector:
        if self.protocol == GRPC:
            limit = ("grpc.max_receive_message_length", self.largest)
            self._grpc = grpc.server(ThreadPoolExecutor(2), options=[limit])
            add_TraceServiceServicer_to_server(_Servicer(self), self._grpc)
            self.port = self._grpc.add_insecure_port(f"127.0.0.1:{self.port}")
            self._grpc.start()
        else:
            self._http = ThreadingHTTPServer(("127.0.0.1", self.port), partial(_Handler, self))
            self.port = self._http.server_port
            Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.protocol == GRPC:
            self._grpc.stop(None).wait()
        else:
            self._http.shutdown()
            self._http.server_close()

    @property
    def environment(self) -> dict[str, str]:
        """Return the standard variables that export to it."""
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self.port}",
            "OTEL_EXPORTER_OTLP_PROTOCOL": self.protocol,
        }

    @property
    def spans(self) -> list[PlainSpan]:
        """The accepted spans."""
        resource_spans = [each for export in self.exports for each in export.resource_spans]
        return plain_spans(TracesData(resource_spans=resource_spans))

    @property
    def request_ids(self) -> list[str]:
        """Return the requests whose spans an export contains."""
        return [each for export in self.exports for each in request_ids(export)]

    def take(self, export: ExportTraceServiceRequest) -> Reply:
        """Answer an export."""
        asked = request_ids(export)
        self.asked.append(asked)
        reply = self.answer(asked)
        if reply.status == 200:
            self.exports.append(export)
        return reply


def request_ids(export: ExportTraceServiceRequest) -> list[str]:
    """The requests whose spans an export holds."""
    return [
        attribute.value.string_value
        for resource in export.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
        for attribute in span.attributes
        if attribute.key == "llm_router.request.id"
    ]


class _Servicer(TraceServiceServicer):
    def __init__(self, collector: Collector) -> None:
        self._collector = collector

    def Export(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        metadata: dict[str, Any] = dict(context.invocation_metadata())
        self._collector.authorization = metadata.get("authorization")
        reply = self._collector.take(request)
        if reply.code is not grpc.StatusCode.OK:
            context.abort(reply.code, reply.message)
        return reply.response


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30

    def __init__(self, collector: Collector, *arguments: Any) -> None:
        self._collector = collector
        super().__init__(*arguments)

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("content-length", 0)))
        self._collector.encoding = self.headers.get("content-encoding")
        if self._collector.encoding == "gzip":
            content = gzip.decompress(content)
        elif self._collector.encoding == "deflate":
            content = zlib.decompress(content)
        self._collector.authorization = self.headers.get("authorization")
        reply = self._collector.take(ExportTraceServiceRequest.FromString(content))
        message = reply.response if reply.status == 200 else Status(message=reply.message)
        body = message.SerializeToString()
        self.send_response(reply.status)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Log nothing."""
