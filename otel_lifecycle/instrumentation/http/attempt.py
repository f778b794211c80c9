"""One call of the router to an engine."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import Token
from types import TracebackType
from typing import Any

from opentelemetry import context, trace

from otel_lifecycle.instrumentation.http.answers import AnswerReader, Relay
from otel_lifecycle.instrumentation.http.answers.relay import SMALL
from otel_lifecycle.instrumentation.http.requests.marks import NO_MARK, Mark
from otel_lifecycle.instrumentation.routing import ENCODE, PREFILL
from otel_lifecycle.model import RouteEndpoint
from otel_lifecycle.tracking.current_request import CurrentRequest, current_request, restore
from otel_lifecycle.tracking.scheduling import error_type


class Attempt:
    """One call of the router to an engine, and the engine's answer.

    Of whole answers `is_whole` and `is_cut` are final when the answer is finished.

    Attributes:
        leg: What it is for: `encode`, `prefill`, `decode` or `side`.
        endpoint: Where it goes.
        mark: What its body tells.
        is_hedge: The same call was made before, and is not answered yet.
        is_choice: The router only chose an endpoint; whether it called it is not known.
        failure: Why the call, or the reading of its answer, failed; empty when it did not.
        relay: What the engine says, on its way to the client; None where that is not read.
        room: Bytes of it that may be held.
        is_over: The engine's answer came to its end: the router did not break it off.
        is_cancelled: The router broke it off.
        started_ns: When it was made, on the tracker's monotonic clock.
        answered_ns: When the engine began to answer; None when it did not.
        ended_ns: When it ended; None as long as that is not known.
        monotonic_ns: Tells the time.
        let_loose: Stops the reading of the answer; None when nothing is to be stopped.
    """

    __slots__ = (
        "answered_ns",
        "ended_ns",
        "endpoint",
        "failure",
        "is_cancelled",
        "is_choice",
        "is_hedge",
        "is_over",
        "leg",
        "let_loose",
        "mark",
        "monotonic_ns",
        "relay",
        "room",
        "started_ns",
    )

    def __init__(
        self,
        leg: str,
        endpoint: RouteEndpoint,
        monotonic_ns: Callable[[], int],
        mark: Mark = NO_MARK,
    ) -> None:
        self.leg = leg
        self.endpoint = endpoint
        self.mark = mark
        self.is_hedge = False
        self.is_choice = False
        self.failure = ""
        self.relay: Relay | None = None
        self.room = SMALL
        self.is_over = False
        self.is_cancelled = False
        self.monotonic_ns = monotonic_ns
        self.started_ns = monotonic_ns()
        self.answered_ns: int | None = None
        self.ended_ns: int | None = None
        self.let_loose: Callable[[], None] | None = None

    @property
    def answer(self) -> AnswerReader | None:
        """What the engine has said so far; None where that is not read."""
        return None if self.relay is None else self.relay.read()

    @property
    def milliseconds(self) -> float | None:
        """How long the engine took to answer; None when it did not."""
        return None if self.answered_ns is None else (self.answered_ns - self.started_ns) / 1e6

    @property
    def engine_status(self) -> str:
        """The status with which the engine refused, as an error type; empty when it did not."""
        return self.failure if self.failure.startswith("http_") else ""

    @property
    def is_cut(self) -> bool:
        """Whether the engine's answer ended before its proper end."""
        answer = self.answer
        return self.is_over and answer is not None and answer.is_truncated

    @property
    def is_pending(self) -> bool:
        """Whether the router still waits for the engine."""
        if self.ended_ns is not None or self.answered_ns is None:
            return self.ended_ns is None
        # Of an answer that is not read the beginning is all that is known.
        return self.leg not in (ENCODE, PREFILL) and self.relay is not None

    @property
    def is_broken(self) -> bool:
        """Whether the call failed, or the router broke it off."""
        return bool(self.failure) or (self.is_cancelled and not self.is_whole)

    @property
    def is_whole(self) -> bool:
        """Whether the engine has answered, in full as far as that is known."""
        answer = self.answer
        if self.failure or self.answered_ns is None:
            return False
        if self.leg in (ENCODE, PREFILL):
            return answer is None or not answer.failed
        if answer is None:
            return not self.is_cancelled
        if answer.failed:
            return False
        return answer.ended or (self.is_over and not answer.is_truncated)

    def answered(self, status: int) -> None:
        """The engine answered."""
        self.answered_ns = self.now()
        if status >= 400:
            self._fail(f"http_{status}")

    def failed(self, error: BaseException) -> None:
        """The engine could not be called, or the library raised the status of its answer."""
        raised: Any = error
        try:
            status: Any = raised.status
        except Exception:  # it has none, or a property that raises
            status = 0
        refused = type(status) is int and status >= 400
        self.is_cancelled = not isinstance(error, Exception)
        self._fail(f"http_{status}" if refused else error_type(error))

    def broken(self, error: BaseException) -> None:
        """The engine's answer could not be read to its end."""
        self._fail(error_type(error))

    def over(self) -> None:
        """The engine's answer came to its end."""
        self.is_over = True
        self._end()

    def closed(self) -> None:
        """The router wants no more of the answer."""
        if self.ended_ns is None:
            self.is_cancelled = True
            self._end()

    def reads(self, status: int, content_type: str) -> Relay:
        """Has the engine's answer read; of its headers the client library sees to the others."""
        reader = AnswerReader()
        reader.begin(status, {"content-type": content_type})
        self.relay = Relay(reader, self.room)
        return self.relay

    def read(self, chunk: bytes) -> None:
        """The next bytes of the engine's answer."""
        if self.relay is not None:
            self.relay.feed(chunk)

    def finish(self, *, choices: int, samples: int) -> None:
        """Reads what the end of the engine's answer makes readable."""
        if self.relay is not None:
            self.relay.finish(choices=choices, samples=samples)

    def let_go(self) -> None:
        """Keeps nothing that the response, or its connection, could reach."""
        self.relay = None
        if self.let_loose is not None:
            self.let_loose()
            self.let_loose = None

    def _fail(self, failure: str) -> None:
        self.failure = failure
        self._end()

    def _end(self) -> None:
        self.ended_ns = self.now()

    def now(self) -> int:
        """The time, or the last known one if the clock raises: the router is calling."""
        try:
            return self.monotonic_ns()
        except Exception:
            return self.answered_ns or self.started_ns


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
