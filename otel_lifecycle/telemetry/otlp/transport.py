"""Encoded requests through the SDK's own OTLP exporters.

Endpoint, headers, certificates, credentials, time-outs, retries and logs stay those of the
exporter, in every version of it: it is given a batch of spans of which it encodes none, and our
bytes take the place of the empty message that it sends.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any, NoReturn

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult


class EncodedRequest(Sequence[ReadableSpan]):
    """A batch as an exporter is given it: as many spans as there are, and none to encode.

    Args:
        body: The request.
        spans: How many spans are in it.

    Attributes:
        is_taken: Whether the body was sent, or tried to.
        is_refused: Whether a collector has said that it will not take it.
    """

    def __init__(self, body: bytes, spans: int) -> None:
        self._body = body
        self._spans = spans
        self.is_taken = False
        self.is_refused = False

    def __len__(self) -> int:
        return self._spans

    def __getitem__(self, index: Any) -> NoReturn:
        raise IndexError

    def take(self) -> bytes:
        """Return the request, to send it."""
        self.is_taken = True
        return self._body


_current: ContextVar[EncodedRequest | None] = ContextVar("otlp_request", default=None)


def current() -> EncodedRequest | None:
    """Return the request that this thread exports."""
    return _current.get()


def send(exporter: SpanExporter, request: EncodedRequest) -> SpanExportResult:
    """Export a request through an exporter whose session or stub is one of these."""
    token = _current.set(request)
    try:
        # Not by the instance, whose `export` may be ours.
        return type(exporter).export(exporter, request)
    finally:
        _current.reset(token)


def refuse() -> None:
    """The collector will not take the request that is being sent."""
    request = _current.get()
    if request is not None:
        request.is_refused = True
