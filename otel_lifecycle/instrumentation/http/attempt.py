"""One call of the router to an engine."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextvars import Token
from types import TracebackType
from typing import Any

from opentelemetry import context, trace

from otel_lifecycle.instrumentation.http.answers import AnswerReader
from otel_lifecycle.tracking.current_request import CurrentRequest, current_request, restore
from otel_lifecycle.tracking.scheduling import error_type


class Attempt:
    """One call of the router to an engine, and the engine's answer.

    Attributes:
        leg: Which leg of the route it is.
        failure: Why the call, or the reading of its answer, failed; empty when it did not.
        milliseconds: How long the engine took to answer.
        answer: What the engine said; None where that is not read.
        is_over: The engine's answer came to its end: the router did not break it off.
        let_loose: Stops the reading of the answer; None when nothing is to be stopped.
    """

    __slots__ = (
        "_started_ns",
        "answer",
        "failure",
        "is_over",
        "leg",
        "let_loose",
        "milliseconds",
    )

    def __init__(self, leg: str) -> None:
        self.leg = leg
        self.failure = ""
        self.milliseconds: float | None = None
        self.answer: AnswerReader | None = None
        self.is_over = False
        self.let_loose: Callable[[], None] | None = None
        self._started_ns = time.monotonic_ns()

    @property
    def engine_status(self) -> str:
        """The status with which the engine refused, as an error type; empty when it did not."""
        return self.failure if self.failure.startswith("http_") else ""

    @property
    def is_cut(self) -> bool:
        """Whether the engine's answer ended before its proper end."""
        return self.is_over and self.answer is not None and self.answer.is_truncated

    def answered(self, status: int) -> None:
        """The engine answered."""
        self._take(f"http_{status}" if status >= 400 else "")

    def failed(self, error: BaseException) -> None:
        """The engine could not be called, or the library raised the status of its answer."""
        raised: Any = error
        try:
            status: Any = raised.status
        except Exception:  # it has none, or a property that raises
            status = 0
        refused = type(status) is int and status >= 400
        self._take(f"http_{status}" if refused else error_type(error))

    def broken(self, error: BaseException) -> None:
        """The engine's answer could not be read to its end."""
        self.failure = error_type(error)

    def read(self, chunk: bytes) -> None:
        """The next bytes of the engine's answer."""
        if self.answer is not None:
            self.answer.feed(chunk)

    def let_go(self) -> None:
        """Keeps nothing that the response, or its connection, could reach."""
        self.answer = None
        if self.let_loose is not None:
            self.let_loose()
            self.let_loose = None

    def _take(self, failure: str) -> None:
        self.failure = failure
        self.milliseconds = (time.monotonic_ns() - self._started_ns) / 1e6


class Call:
    """A call to an engine, as long as it lasts; a context manager.

    Our span is current, for the span of the client library. Connections are made here, and keep the
    context for as long as they live: so it holds the span's ids alone. What comes below is nobody's
    request yet: httpx may be set on top of aiohttp, and may call another router in this process.
    """

    __slots__ = ("_attempt", "_request_token", "_span_context", "_span_token")

    def __init__(self, attempt: Attempt, span_context: trace.SpanContext) -> None:
        self._attempt = attempt
        self._span_context = span_context

    def __enter__(self) -> None:
        self._request_token: Token[CurrentRequest | None] = current_request.set(None)
        self._span_token: Token[context.Context] | None = None
        # A span that could not start must not hide the router's own.
        if self._span_context.is_valid:
            span = trace.NonRecordingSpan(self._span_context)
            self._span_token = context.attach(trace.set_span_in_context(span))

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._span_token is not None:
            context.detach(self._span_token)
        restore(self._request_token)
        if exc is not None:
            self._attempt.failed(exc)
