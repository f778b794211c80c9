"""Sends spans through the SDK's OTLP exporters, and reports the result.

The exporters follow the standard variables, but report only success or failure of a batch: not
whether to retry it, nor which spans were rejected and why. Therefore the collector's answers are
intercepted before the exporters see them. The exporters measure their time-out with a clock that
may be changed, so each request gets its own deadline.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import grpc
import requests
from google.protobuf.message import DecodeError
from google.rpc.status_pb2 import Status
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk.environment_variables import (
    OTEL_EXPORTER_OTLP_TIMEOUT,
    OTEL_EXPORTER_OTLP_TRACES_TIMEOUT,
)
from opentelemetry.sdk.trace.export import SpanExporter

from otel_lifecycle.records.shipping.http_session import LONGEST_ANSWER, BoundedSession
from otel_lifecycle.records.shipping.redaction import (
    ENDPOINT_VARIABLES,
    Redactor,
    without_secrets,
)
from otel_lifecycle.telemetry.otlp.destinations import HTTP_PROTOBUF, protocol
from otel_lifecycle.telemetry.otlp.over_grpc import use_stub
from otel_lifecycle.telemetry.otlp.over_http import EncodedBodies
from otel_lifecycle.telemetry.otlp.request import EncodedSpan, encode_request
from otel_lifecycle.telemetry.otlp.transport import EncodedRequest, send

# Errors caused by the spans themselves. All other errors may be temporary.
_REFUSING_STATUS = frozenset({400, 413, 422})
_REFUSING_CODES = frozenset({grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.OUT_OF_RANGE})
_TOO_LARGE = "larger than max"  # part of gRPC's message; its code also means "too many requests"
_DEFAULT_TIMEOUT = "10"  # seconds


class Fate(Enum):
    """The result of sending spans.

    Attributes:
        ACCEPTED: The collector has them.
        REFUSED: It will never accept all of them.
        WAITING: They did not arrive, or the collector accepts no spans now.
    """

    ACCEPTED = "accepted"
    REFUSED = "refused"
    WAITING = "waiting"


@dataclass(frozen=True)
class Answer:
    """The collector's answer to some spans.

    Attributes:
        fate: The result.
        reason: The message of the collector or the network; for accepted spans, a warning.
        rejected: The number of accepted spans that the collector discarded.
    """

    fate: Fate
    reason: str = ""
    rejected: int = 0


_Note: TypeAlias = Callable[[Answer], None]


class _Deadline:
    """The deadline of the current request, independent of changes to the clock."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = 0.0

    def begin(self) -> None:
        self._end = time.monotonic() + self.seconds

    def remaining(self) -> float:
        """Return the seconds left; raise TimeoutError if there are none."""
        seconds = self._end - time.monotonic()
        if seconds <= 0:
            raise TimeoutError(f"no answer within {self.seconds:g} s")
        return seconds


def quiet_exporters() -> None:
    """Keep from the log what the exporters say of each attempt: who sends reports failures."""
    logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL)
    # Its messages would quote an invalid header, and secrets in it.
    logging.getLogger("opentelemetry.util.re").addFilter(_without_arguments)


def _without_arguments(record: logging.LogRecord) -> bool:
    record.args = ("***",) * len(record.args or ())
    return True


class Sender:
    """An OTLP exporter configured by OpenTelemetry's environment variables. Not thread-safe.

    Each `send` ends within the time-out of the variables. At most 64 KiB of an answer are read.

    Raises:
        ValueError: A variable is invalid; the text gives the reason.
    """

    def __init__(self) -> None:
        self._answers: list[Answer] = []
        self._redact = Redactor()
        make = _grpc
        if protocol("TRACES") == HTTP_PROTOBUF:
            make = _http
            _check_endpoint()
        try:
            self._deadline = _Deadline(_timeout())
            self._exporter = make(self._answers.append, self._deadline)
        except Exception as error:  # an invalid compression, for example, raises its own exception
            raise ValueError(f"OTEL_EXPORTER_OTLP_*: {self._redact(str(error))}") from error

    def send(self, spans: Iterable[EncodedSpan]) -> Answer:
        """Send spans in one request, including the exporter's own retries.

        Args:
            spans: The spans; none checks whether the collector accepts requests.
        """
        spans = list(spans)
        return self.send_encoded(EncodedRequest(encode_request(spans), len(spans)))

    def send_encoded(self, request: EncodedRequest) -> Answer:
        """Send a request, including the exporter's own retries."""
        answer = self._send(request)
        return replace(answer, reason=self._redact(answer.reason))

    def close(self) -> None:
        """End the retries of a running `send`; callable from any thread."""
        self._exporter.shutdown()

    def _send(self, request: EncodedRequest) -> Answer:
        self._answers.clear()
        self._deadline.begin()
        reason = "it was not sent"
        try:
            send(self._exporter, request)
        except Exception as raised:  # older exporters let those of the network pass
            reason = str(raised)
        if not (request.is_taken and self._answers):
            return Answer(Fate.WAITING, reason)
        # The gRPC exporter retries a message that is too large, until its time is over.
        refusals = [answer for answer in self._answers if answer.fate is Fate.REFUSED]
        last = self._answers[-1]
        return refusals[-1] if refusals and last.fate is Fate.WAITING else last


def _check_endpoint() -> None:
    """Check the URL now: the exporter accepts any text and fails on each request."""
    name = next(filter(os.environ.get, ENDPOINT_VARIABLES), None)
    if name is None:
        return
    endpoint = os.environ[name]
    try:
        url = urlsplit(endpoint.strip())
        valid = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:
        valid = False
    if not valid:
        shown = without_secrets(endpoint)
        raise ValueError(f"{name}: must be a URL with http:// or https://, got {shown!r}")


def _timeout() -> float:
    name = next(filter(os.environ.get, _TIMEOUT_VARIABLES), None)
    return float(os.environ[name] if name else _DEFAULT_TIMEOUT)


def _accepted(response: ExportTraceServiceResponse) -> Answer:
    partial = response.partial_success
    return Answer(Fate.ACCEPTED, partial.error_message, partial.rejected_spans)


def _grpc(note: _Note, deadline: _Deadline) -> SpanExporter:
    class Watcher(grpc.UnaryUnaryClientInterceptor):  # pyright: ignore[reportMissingTypeArgument, reportUntypedBaseClass]
        def intercept_unary_unary(
            self, continuation: Callable[..., Any], client_call_details: Any, request: Any
        ) -> Any:
            details = client_call_details._replace(timeout=deadline.remaining())
            call = continuation(details, request)
            note(_answer_of_call(call))
            return call

    exporter = GrpcExporter(channel_options=_CHANNEL_OPTIONS)
    use_stub(exporter, Watcher())
    return exporter


def _answer_of_call(call: Any) -> Answer:
    code, details = call.code(), call.details() or ""
    if code is grpc.StatusCode.OK:
        return _accepted(call.result())
    refused = code in _REFUSING_CODES or _TOO_LARGE in details
    return Answer(Fate.REFUSED if refused else Fate.WAITING, f"{code.name}: {details}")


class _Session(EncodedBodies, BoundedSession):
    def __init__(self, note: _Note, deadline: _Deadline) -> None:
        super().__init__(deadline.remaining)
        self._note = note
        self._seconds = deadline.seconds

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        try:
            response = super().send(request, **kwargs)
        except Exception as error:
            self._note(Answer(Fate.WAITING, self._why(error)))
            raise
        self._note(_answer_of_response(response))
        return response

    def _why(self, error: BaseException) -> str:
        """Unwrap the cause from the exceptions of `requests`, which contain the whole URL."""
        if isinstance(error, (TimeoutError, requests.Timeout)):
            return f"no answer within {self._seconds:g} s"
        inner = error.__cause__ or error.__context__
        while inner is not None:
            error, inner = inner, inner.__cause__ or inner.__context__
        if isinstance(error, TimeoutError):
            return f"no answer within {self._seconds:g} s"
        return (isinstance(error, OSError) and error.strerror) or str(error)


def _http(note: _Note, deadline: _Deadline) -> SpanExporter:
    return HttpExporter(session=_Session(note, deadline))


def _answer_of_response(response: requests.Response) -> Answer:
    status = response.status_code
    if 200 <= status < 300:
        try:
            return _accepted(ExportTraceServiceResponse.FromString(response.content))
        except DecodeError:  # the status is enough
            return Answer(Fate.ACCEPTED)
    # The exporters do not follow a redirect but treat it as success.
    refused = status in _REFUSING_STATUS
    return Answer(
        Fate.REFUSED if refused else Fate.WAITING, f"{status} {response.reason}: {_said(response)}"
    )


def _said(response: requests.Response) -> str:
    text = response.text
    if response.headers.get("content-type") == "application/x-protobuf":
        with suppress(DecodeError):
            text = Status.FromString(response.content).message
    return text.strip() or "no reason given"


_CHANNEL_OPTIONS: Any = (("grpc.max_receive_message_length", LONGEST_ANSWER),)
_TIMEOUT_VARIABLES = (OTEL_EXPORTER_OTLP_TRACES_TIMEOUT, OTEL_EXPORTER_OTLP_TIMEOUT)
