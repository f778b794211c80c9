"""The handle of one tracked request."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType

from opentelemetry.context import attach, detach
from opentelemetry.trace import (
    INVALID_SPAN_CONTEXT,
    NonRecordingSpan,
    Span,
    SpanContext,
    set_span_in_context,
)

from otel_lifecycle.model import (
    Candidate,
    Endpoint,
    LatencyPrediction,
    Outcome,
    RequestCompletion,
    RequestStart,
    Route,
)
from otel_lifecycle.tracking.recorder import LifecycleRecorder
from otel_lifecycle.tracking.scheduling import error_type

_STREAM_TRUNCATED = "stream_truncated"
_INCOMPLETE = "incomplete"
_NOTHING = nullcontext()


class TrackedRequest:
    """Follows one request to its end, in whatever task, thread or generator that comes.

    A context manager, plain and async. Leaving it by an exception fails the request, by a
    cancellation or a closed generator disconnects it, and without `complete` it counts as an error
    too. A handle that is collected without any of these ends as `abandoned`. Whichever end comes
    first counts; later ones do nothing. No method raises, and exceptions pass through untouched.

    A request that is not tracked (no id, the tracker closed, ...) has a handle that does nothing.
    Thread-safe.
    """

    __slots__ = ("__weakref__", "_first_chunk_seen", "_lifecycle", "_recorder")

    def __init__(
        self,
        recorder: LifecycleRecorder,
        start: RequestStart,
        headers: Mapping[str, str] | None,
        arrived_ns: int | None = None,
    ) -> None:
        self._recorder = recorder
        self._lifecycle = recorder.begin(start, headers, self, arrived_ns)
        self._first_chunk_seen = self._lifecycle is None

    @property
    def is_tracked(self) -> bool:
        """Whether the request is tracked and has not ended."""
        return self._lifecycle is not None and not self._lifecycle.finished

    @property
    def span_context(self) -> SpanContext:
        """Trace id and span id of the request; invalid when it has no span."""
        if self._lifecycle is None:
            return INVALID_SPAN_CONTEXT
        return self._lifecycle.context

    @property
    def epoch_ns(self) -> int:
        """Unix nanoseconds of the request less those of the monotonic clock; 0 if not tracked."""
        if self._lifecycle is None:
            return 0
        return self._lifecycle.started_ns - self._lifecycle.started_monotonic_ns

    def chunk(self) -> None:
        """A chunk of the response arrived; the first call marks the first chunk."""
        if self._first_chunk_seen:
            return
        self._first_chunk_seen = True
        if self._lifecycle is not None:
            self._recorder.mark_first_chunk(self._lifecycle)

    def first_byte(self) -> None:
        """The first byte of the response arrived, which need not be output; later calls do nothing.

        A reroute starts anew: what was sent by the former engine is no part of the answer.
        """
        if self._lifecycle is not None:
            self._recorder.mark_first_byte(self._lifecycle)

    def complete(
        self,
        output_tokens: int | None = None,
        cached_tokens: int | None = None,
        served_endpoint: Endpoint | None = None,
        input_tokens: int | None = None,
        finish_reason: str | None = None,
    ) -> None:
        """The response came to its proper end.

        Args:
            output_tokens: Completion tokens of the usage, never a count of chunks.
            cached_tokens: Prompt tokens the engine found in its prefix cache.
            served_endpoint: Who served it, where that may not be the selected endpoint.
            input_tokens: Prompt tokens of the usage, where the prompt was not tokenized before.
            finish_reason: Why the engine stopped, in its own word: `stop`, `length`, ...
        """
        self.end(
            RequestCompletion(
                output_tokens=output_tokens,
                cached_tokens=cached_tokens,
                served_endpoint=served_endpoint,
                input_tokens=input_tokens,
                finish_reason=finish_reason,
            )
        )

    def fail(self, error: BaseException | str) -> None:
        """The request failed.

        Args:
            error: The exception, or a short type name such as `stream_truncated`. Only the type is
                recorded, never the message.
        """
        self.end(RequestCompletion(outcome=Outcome.ERROR, error_type=error_type(error)))

    def disconnect(self) -> None:
        """The client went away."""
        self.end(RequestCompletion(outcome=Outcome.CLIENT_DISCONNECT))

    def end(self, completion: RequestCompletion) -> None:
        """The request ended as `completion` says."""
        if self._lifecycle is not None:
            self._recorder.end(self._lifecycle, completion)

    def reroute(
        self,
        route: Route,
        *,
        reason: str = "",
        prefix_cache_score: float | None = None,
        prediction: LatencyPrediction | None = None,
        candidates: int | Sequence[Candidate] | None = None,
        decision_reason: str = "",
    ) -> None:
        """The router sends the request somewhere else, before its first chunk.

        Load moves along, the attempt counts one up, and record and span tell of the new route; the
        change itself becomes an event.

        Args:
            route: The new route.
            reason: A short reason, such as `connect_error`.
            prefix_cache_score: Of the new route, 0 to 1.
            prediction: Of the new route.
            candidates: The endpoints considered this time, or their number, if it is another one.
            decision_reason: Why the new route was chosen.
        """
        if self._lifecycle is not None:
            self._recorder.reroute(
                self._lifecycle,
                reason,
                route=route,
                prefix_cache_score=prefix_cache_score,
                prediction=prediction,
                decision_reason=decision_reason,
                filtered=None,
                **({} if candidates is None else {"candidates": candidates}),
                attempt=self._lifecycle.attempt + 1,
            )

    def extend(self, route: Route, candidates: int | Sequence[Candidate] | None = None) -> None:
        """More of the route became known: the decode endpoint after the prefill, for instance.

        Load moves along; it is no other attempt, and no event.

        Args:
            route: The route as it is known now.
            candidates: The endpoints considered for it, or their number, if more of them are known.
        """
        if self._lifecycle is not None:
            changes = {} if candidates is None else {"candidates": candidates}
            self._recorder.reroute(self._lifecycle, None, route=route, **changes)

    def dispatched_at(self, monotonic_ns: int) -> None:
        """The first call to the engine was made then.

        For instrumentations; does nothing where the arrival is not known. That a call before was
        one to a guard may turn out when another one follows.

        Args:
            monotonic_ns: On the tracker's monotonic clock.
        """
        if self._lifecycle is not None:
            self._lifecycle.move_dispatch(monotonic_ns)

    def describe(self, start: RequestStart) -> None:
        """More of the request became known, by a router that chooses before it has read it all.

        Args:
            start: The request; its model, prompt, input tokens, streaming and labels are taken
                over.
        """
        if self._lifecycle is not None:
            prompt = {} if start.prompt is None else {"prompt": start.prompt}
            self._recorder.reroute(
                self._lifecycle,
                None,
                model=start.model,
                input_tokens=start.input_tokens,
                input_token_source=start.input_token_source,
                streaming=start.streaming,
                labels=start.labels,
                **prompt,
            )

    def inject(self, headers: MutableMapping[str, str]) -> None:
        """Adds the trace context to headers towards the engine, whose span becomes our child."""
        if self._lifecycle is not None:
            self._recorder.inject(self._lifecycle, headers)

    def active(self) -> AbstractContextManager[None]:
        """Makes the span current for one stretch of code that does not yield."""
        # A span that could not start must not hide the router's own.
        context = self.span_context
        if self._lifecycle is None or not context.is_valid:
            return _NOTHING
        return _Active(self._lifecycle.span or NonRecordingSpan(context))

    def __enter__(self) -> TrackedRequest:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._leave(exc)

    async def __aenter__(self) -> TrackedRequest:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._leave(exc)

    def _leave(self, exc: BaseException | None) -> None:
        if not self.is_tracked:
            return
        if exc is None:
            streaming = self._lifecycle is not None and self._lifecycle.streaming
            self.fail(_STREAM_TRUNCATED if streaming else _INCOMPLETE)
        else:
            self.end(ending(exc))


class _Active(AbstractContextManager[None]):
    """While a span is current. Not a generator, which would cost more than all it does."""

    __slots__ = ("_span", "_token")

    def __init__(self, span: Span) -> None:
        self._span = span

    def __enter__(self) -> None:
        self._token = attach(set_span_in_context(self._span))

    def __exit__(self, *_: object) -> None:
        detach(self._token)


def ending(error: BaseException) -> RequestCompletion:
    """What an exception says of the request that ended by it."""
    if isinstance(error, Exception):
        return RequestCompletion(outcome=Outcome.ERROR, error_type=error_type(error))
    if isinstance(error, (KeyboardInterrupt, SystemExit)):
        return RequestCompletion(outcome=Outcome.SHUTDOWN)
    # CancelledError, GeneratorExit, and what other event loops cancel with.
    return RequestCompletion(outcome=Outcome.CLIENT_DISCONNECT)
