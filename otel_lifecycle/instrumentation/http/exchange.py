"""One inbound request and what the router does for it, seen from both of its sides."""

from __future__ import annotations

import time
from asyncio import CancelledError
from collections.abc import Callable, Mapping, MutableMapping
from contextvars import Token
from functools import wraps
from threading import Lock
from types import TracebackType
from typing import Concatenate, ParamSpec, TypeVar, cast
from uuid import uuid4

import msgspec
from opentelemetry import context, trace

from otel_lifecycle.instrumentation.http.answers import AnswerReader
from otel_lifecycle.instrumentation.http.caller import caller_span
from otel_lifecycle.instrumentation.http.inference_request import (
    InferenceRequest,
    RequestReader,
    is_prefill,
)
from otel_lifecycle.instrumentation.routing import DECODE, PREFILL, Routing
from otel_lifecycle.model import (
    InputTokenSource,
    Outcome,
    RequestCompletion,
    RequestStart,
    Route,
    RouteEndpoint,
)
from otel_lifecycle.tracking.current_request import CurrentRequest, current_request, restore
from otel_lifecycle.tracking.handle import TrackedRequest, ending
from otel_lifecycle.tracking.scheduling import error_type
from otel_lifecycle.tracking.tracker import RequestLifecycleTracker

_P = ParamSpec("_P")
_R = TypeVar("_R")


def _safely(
    method: Callable[Concatenate[Exchange, _P], _R],
) -> Callable[Concatenate[Exchange, _P], _R | None]:
    """Does nothing for a claimed exchange, and keeps what goes wrong away from the router."""

    @wraps(method)
    def safe(self: Exchange, *args: _P.args, **kwargs: _P.kwargs) -> _R | None:
        if self.claimed:
            return None
        try:
            return method(self, *args, **kwargs)
        except Exception:
            self.give_up()
            return None

    return safe


def exchange_of(current: CurrentRequest | None) -> Exchange | None:
    """What follows a request; None when it has ended."""
    return None if current is None else cast("Exchange | None", current.follower)


def current_exchange() -> Exchange | None:
    """What follows the request that this context serves; None when it has ended."""
    return exchange_of(current_request.get())


def current_routing() -> Routing | None:
    """Where the current request goes, to be told more; None when it is not followed."""
    exchange = current_exchange()
    return None if exchange is None or exchange.claimed else exchange.routing


class Attempt:
    """One call of the router to an engine.

    Attributes:
        leg: Which leg of the route it is.
        failure: Why it failed; empty when it did not.
        milliseconds: How long the engine took to answer.
        answer: What the engine said, where that is read at its own side.
    """

    __slots__ = ("_started_ns", "answer", "failure", "leg", "milliseconds")

    def __init__(self, leg: str) -> None:
        self.leg = leg
        self.failure = ""
        self.milliseconds: float | None = None
        self.answer: AnswerReader | None = None
        self._started_ns = time.monotonic_ns()

    def read(self, chunk: bytes) -> None:
        """The next bytes of the engine's answer."""
        if self.answer is not None:
            self.answer.feed(chunk)

    def answered(self, failure: str) -> None:
        """The engine answered (`failure` is empty), refused, or could not be reached."""
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
            self._attempt.answered(error_type(exc))


class Exchange:
    """Follows one inference request; every method may be called by code that must not fail.

    The lifecycle starts with the first call to an engine: that is when the router has chosen, and
    when the server's span, if any, is current.

    Attributes:
        claimed: Somebody else tracks this request, or nobody does.
        done: It has ended. uvicorn may serve the next one of a connection in this one's context.
        current: What contexts know of it.
        routing: Where it goes.
    """

    def __init__(
        self,
        tracker: RequestLifecycleTracker,
        operation: str,
        headers: Mapping[str, str],
        request: InferenceRequest | None = None,
        *,
        routed: bool = True,
    ) -> None:
        self.claimed = tracker.steps_aside()
        self.done = False
        self.current = CurrentRequest(self)
        self.routing = Routing()
        self._routed = routed
        self._tracker = tracker
        self._operation = operation
        self._headers = headers
        self._body = RequestReader()
        self._body_is_here = False
        # A router may choose in another thread than the one that reads the body.
        self._lock = Lock()
        self._request = request
        self._response = AnswerReader()
        self._status = 0
        self._answered = False
        self._disconnected = False
        self._attempts: list[Attempt] = []
        self._router_id = ""
        self._route: Route | None = None
        self._tracked: TrackedRequest | None = None

    def give_up(self) -> None:
        """Follows the request no further: an exception of ours is being handled."""
        self.claimed = True
        self._tracker.failed("exchange")

    def hand_over(self) -> bool:
        """The routing was reached of a request that its server follows.

        Returns:
            Whether the routing follows it from here on; not when it has been sent to an engine.
        """
        if self._routed or self.claimed or self._attempts:
            return False
        self.claimed = True
        return True

    @_safely
    def received(self, body: bytes, *, more: bool = False) -> None:
        """The next bytes of the request's body."""
        with self._lock:
            self._body.feed(body)
            self._body_is_here = not more
            if self._body_is_here and self._tracked is not None:
                self._tracked.describe(self._start(self._route))

    def yield_to_another(self) -> None:
        """Somebody else tracks the request."""
        self.claimed = True

    def disconnected(self) -> None:
        """The client went away, before or after the end."""
        if not self._answered:
            self._disconnected = True

    @_safely
    def calling(
        self, host: str, port: int, body: bytes, headers: MutableMapping[str, str]
    ) -> Attempt | None:
        """The router calls an engine; adds the trace context to the call's headers."""
        leg = self.routing.leg(host, str(port))
        if leg is None:
            leg = PREFILL if is_prefill(body) else DECODE
        return self.routed(self.routing.at(host, str(port)), headers, leg)

    @_safely
    def routed(
        self,
        endpoint: RouteEndpoint,
        headers: MutableMapping[str, str],
        leg: str = DECODE,
        *,
        retry: bool | None = None,
    ) -> Attempt | None:
        """The router has chosen an endpoint, or calls it.

        Args:
            endpoint: The endpoint.
            headers: What goes there with the request; the trace context is added.
            leg: The leg of a PD route.
            retry: Whether the same call was made before; None when only a second one tells.
        """
        with self._lock:
            if self.done:
                return None
            attempt = Attempt(leg)
            reason = self._enter(leg, endpoint, retry)
            self._attempts.append(attempt)
            route = self.routing.route
            if self._tracked is None:
                self._router_id = headers.get("x-request-id", "")
                with caller_span(self._headers, headers):
                    self._tracked = self._tracker.track(self._start(route), self._headers)
            elif reason:
                score = self.routing.prefix_cache_score
                self._tracked.reroute(route, reason=reason, prefix_cache_score=score)
            elif route != self._route:
                self._tracked.extend(route)
            self._route = route
            self._tracked.inject(headers)
            return attempt

    def through(self, attempt: Attempt) -> Call:
        """What surrounds the call of an attempt."""
        assert self._tracked is not None
        return Call(attempt, self._tracked.span_context)

    @_safely
    def answering(self, status: int, headers: Mapping[str, str]) -> None:
        """The response begins."""
        self._status = status
        self._response.begin(status, headers)

    @_safely
    def sent(self, body: bytes, *, more: bool) -> None:
        """The next bytes of the response's body went to the client."""
        if body:
            self._response.feed(body)
            if self._tracked is not None and self._response.has_output:
                self._tracked.chunk()
        if not more:
            self._answered = True
            self._finish()
            self.let_go()

    def left(self, error: BaseException | None) -> None:
        """The application is done with the request."""
        if not self.done:
            self._leave(error)
        self.let_go()

    def let_go(self) -> None:
        """Keeps nothing that contexts, connections or tasks could reach."""
        self.done = True
        self.current.follower = None
        for attempt in self._attempts:
            attempt.answer = None

    @_safely
    def _leave(self, error: BaseException | None) -> None:
        if self._tracked is None:
            if self._disconnected or isinstance(error, (CancelledError, GeneratorExit)):
                self._reject("", Outcome.CLIENT_DISCONNECT)
            else:
                self._reject("no_answer" if error is None else error_type(error))
        elif self._disconnected:
            self._end(RequestCompletion(outcome=Outcome.CLIENT_DISCONNECT))
        elif error is None:
            self._fail("response_incomplete")
        else:
            self._end(ending(error))

    def _finish(self) -> None:
        if self.done:
            return
        self.done = True
        answer = self._answer
        for reader in (answer, self._response):
            request = self._read_request()
            reader.finish(choices=request.choices, samples=request.samples)
        if self._tracked is None:
            if self._status < 400:
                # From a cache, or through a client nobody observes: who served it is not known.
                self._tracker.store.ignore("no_endpoint")
            else:
                self._reject(f"http_{self._status}")
        elif self._status >= 400:
            self._fail(f"http_{self._status}")
        elif self._failure and not answer.ended and answer.output_tokens is None:
            # Some routers begin a response of status 200 before they know.
            self._fail(self._failure)
        elif answer.failed or self._response.failed:
            self._fail("stream_error" if answer.is_stream else "response_error")
        elif answer.is_truncated or self._response.is_truncated:
            asked = self._request is not None and self._request.streaming
            self._fail("stream_truncated" if answer.is_stream or asked else "response_truncated")
        else:
            self._end(
                RequestCompletion(
                    output_tokens=answer.output_tokens,
                    input_tokens=answer.input_tokens,
                    # A decode engine counts as cached what the prefill engine has just computed.
                    cached_tokens=answer.cached_tokens
                    if self.routing.cached_tokens is None
                    else self.routing.cached_tokens,
                    served_endpoint=self.routing.route.leader.endpoint,
                )
            )

    def _fail(self, error: str) -> None:
        self._end(RequestCompletion(outcome=Outcome.ERROR, error_type=error))

    def _end(self, completion: RequestCompletion) -> None:
        assert self._tracked is not None
        prefills = [attempt for attempt in self._attempts if attempt.leg == PREFILL]
        if prefills and not prefills[-1].failure and self.routing.route.prefill is not None:
            milliseconds = prefills[-1].milliseconds
            completion = msgspec.structs.replace(completion, prefill_ms=milliseconds)
        self._tracked.end(completion)

    @property
    def _answering(self) -> Attempt:
        """The last call whose answer is the client's; there has to be a call."""
        answering = [attempt for attempt in self._attempts if attempt.leg == DECODE]
        return (answering or self._attempts)[-1]

    @property
    def _failure(self) -> str:
        return self._answering.failure

    @property
    def _answer(self) -> AnswerReader:
        """What the engine said, else what the router made of it for the client."""
        answer = self._answering.answer if self._attempts else None
        return self._response if answer is None else answer

    def _enter(self, leg: str, endpoint: RouteEndpoint, retry: bool | None) -> str:
        """Notes the call of a leg; returns why the route is another now, empty if it is not."""
        failure = ""
        if self._attempts and self._attempts[-1].failure:
            failure = self._attempts[-1].failure
            self.routing.drop(self._attempts[-1].leg)
        again = self.routing.call(leg, endpoint)
        return failure or ("retry" if (again if retry is None else retry) else "")

    def _reject(self, reason: str, outcome: Outcome = Outcome.REJECTED) -> None:
        self._tracker.reject(self._start(None), reason, self._headers, outcome)

    def _start(self, route: Route | None) -> RequestStart:
        request, routing = self._read_request(), self.routing
        tokens, source = request.input_tokens, request.input_token_source
        if routing.input_tokens is not None:
            tokens, source = routing.input_tokens, InputTokenSource.TOKENIZED.value
        return RequestStart(
            request_id=self._request_id(),
            route=route,
            model=request.model,
            input_tokens=tokens,
            input_token_source=source,
            streaming=request.streaming,
            prefix_cache_score=routing.prefix_cache_score,
            candidates=routing.candidates,
            policy=routing.policy,
            engine_request_id=self._router_id or None,
            operation=self._operation,
        )

    def _read_request(self) -> InferenceRequest:
        if self._request is not None:
            return self._request
        request = self._body.read(whole=self._body_is_here)
        if self._body_is_here:
            self._request = request
            self._body = RequestReader()
        return request

    def _request_id(self) -> str:
        """The client's id, else the one the router sent on or gave it.

        Unless another request with it is in flight: clients do repeat them.
        """
        request_id = (
            self._headers.get("x-request-id", "") or self._router_id or self.routing.request_id
        )
        if not request_id or self._tracker.store.find(request_id) is not None:
            suffix = uuid4().hex
            return f"{request_id}-{suffix}" if request_id else suffix
        return request_id
