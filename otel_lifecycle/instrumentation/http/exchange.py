"""One inbound request and what the router does for it, seen from both of its sides."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from threading import RLock
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.trace import INVALID_SPAN_CONTEXT, SpanContext

from otel_lifecycle.instrumentation.http.answers import AnswerReader
from otel_lifecycle.instrumentation.http.answers.relay import MAX_HELD
from otel_lifecycle.instrumentation.http.attempt import Attempt, Call
from otel_lifecycle.instrumentation.http.caller import caller_span, unless_current
from otel_lifecycle.instrumentation.http.client import has_left
from otel_lifecycle.instrumentation.http.client_answer import ClientAnswer
from otel_lifecycle.instrumentation.http.current import safely
from otel_lifecycle.instrumentation.http.inbound import InboundRequest
from otel_lifecycle.instrumentation.http.legs import Legs
from otel_lifecycle.instrumentation.http.requests.inference_request import (
    InferenceRequest,
)
from otel_lifecycle.instrumentation.http.requests.marks import NO_MARK, Mark, read_mark
from otel_lifecycle.instrumentation.http.requests.operations import paths
from otel_lifecycle.instrumentation.http.unserved import unserved
from otel_lifecycle.instrumentation.http.verdict import End, judge, judge_unserved
from otel_lifecycle.instrumentation.routing import SIDE, Routing
from otel_lifecycle.model import (
    Outcome,
    RequestCompletion,
    RequestStart,
    Route,
    RouteEndpoint,
)
from otel_lifecycle.runtime.clock import Clock
from otel_lifecycle.tracking.current_request import CurrentRequest
from otel_lifecycle.tracking.handle import TrackedRequest
from otel_lifecycle.tracking.tracker import RequestLifecycleTracker

_MANY: Final = 256  # requests in flight, of which each may hold as much as it needs


class Exchange:
    """Follows one inference request; every method may be called by code that must not fail.

    The lifecycle starts with the first call to an engine: that is when the router has chosen, and
    when the server's span, if any, is current.

    The server tells what the client gets, and when the request ends. The routing below it, where
    there is one, tells what the application answers: before middleware compresses it, once more
    when middleware has the request routed again, and with the exception if there is one.

    Attributes:
        claimed: Somebody else tracks this request, or nobody does.
        done: It has ended. uvicorn may serve the next one of a connection in this one's context.
        application: What serves it; None when unknown.
        current: What contexts know of it.
        routing: Where it goes.
        answered: The client has the whole answer.
        flows: The client has some output, and its answer goes on.
        is_routed: A routing below the server tells what the application answers.
        paths: The paths of inference requests.
        calls_seen: Calls of the router that were none to an engine.
    """

    __slots__ = (
        "__weakref__",
        "_arrived_ns",
        "_disconnected",
        "_error",
        "_has_output",
        "_has_reached_client",
        "_inbound",
        "_is_direct",
        "_is_routing",
        "_is_starting",
        "_legs",
        "_lock",
        "_response",
        "_route",
        "_server",
        "_span_above",
        "_status",
        "_tracked",
        "_tracker",
        "answered",
        "application",
        "calls_seen",
        "claimed",
        "current",
        "done",
        "flows",
        "is_routed",
        "paths",
        "routing",
    )

    def __init__(
        self,
        tracker: RequestLifecycleTracker,
        operation: str,
        headers: Mapping[str, str],
        request: InferenceRequest | None = None,
        server: Any = None,
        path: str = "",
    ) -> None:
        self.claimed = tracker.steps_aside()
        self.application: Any = None
        self.current = CurrentRequest(self)
        self.routing = Routing()
        self._tracker = tracker
        self.paths = paths(tracker.config.paths)
        self.calls_seen: list[str] = []
        self._inbound = InboundRequest(operation, headers, path, request, tracker.asked)
        self._server = server
        # A router may choose in another thread than the one that reads the body. Reentrant: a span
        # processor of others may call an engine too.
        self._lock = RLock()
        self._response = ClientAnswer()
        self._error: BaseException | None = None
        self._status = 0
        self.is_routed = self.flows = False
        self._is_routing = self._is_direct = self._is_starting = False
        self._has_reached_client = self._has_output = False
        self.done = self.answered = self._disconnected = False
        self._legs = Legs(self.routing, tracker.clock.monotonic_ns)
        self._arrived_ns: int | None = None
        self._route: Route | None = None
        self._tracked: TrackedRequest | None = None
        self._span_above: SpanContext | None = None
        try:
            self._arrived_ns = tracker.clock.monotonic_ns()
        except Exception:
            self.give_up()

    @property
    def operation(self) -> str:
        """What it asks for."""
        return self._inbound.operation

    def give_up(self) -> None:
        """Follows the request no further: an exception of ours is being handled."""
        self.claimed = True
        self._tracker.failed("exchange")

    @safely
    def received(self, body: bytes, *, more: bool = False) -> None:
        """The next bytes of the request's body."""
        with self._lock:
            self._inbound.feed(body, more=more)
            if not more and self._tracked is not None:
                self._tracked.describe(self._start(self._route))

    def yield_to_another(self, clock: Clock | None) -> int | None:
        """Somebody else tracks the request, unless that began here; returns its arrival."""
        if not self._is_starting and self._tracked is None:
            self.claimed = True
        return self._arrived_ns if clock is self._tracker.clock else None

    def disconnected(self) -> None:
        """The client went away, before or after the end."""
        if not self.answered:
            self._disconnected = True

    def look_at_client(self) -> None:
        """Notes whether the client is still there, as far as the server can tell."""
        if not self._disconnected and not self.answered:
            self._disconnected = has_left(self._server)

    @safely
    def calling(
        self,
        host: str,
        port: int,
        body: bytes,
        headers: MutableMapping[str, str],
        *,
        aside: bool = False,
    ) -> Attempt | None:
        """The router calls an engine, or `aside` a model that does not answer the client."""
        where = host, str(port)
        planned = "" if aside else self.routing.leg(*where) or ""
        mark = Mark(SIDE) if aside else read_mark(body)
        return self._routed(self.routing.at(*where), headers, mark, planned)

    @safely
    def routed(
        self,
        endpoint: RouteEndpoint,
        headers: MutableMapping[str, str],
        mark: Mark = NO_MARK,
        *,
        planned: str = "",
        retry: bool | None = None,
    ) -> Attempt | None:
        """The router has chosen an endpoint, or calls it.

        Args:
            endpoint: The endpoint.
            headers: What goes there with the request; the trace context is added.
            mark: What the body of the call tells.
            planned: The leg of a PD route that it was chosen for; empty when unknown.
            retry: Whether the same call was made before; None when only a second one tells.
        """
        return self._routed(endpoint, headers, mark, planned, retry)

    def _routed(
        self,
        endpoint: RouteEndpoint,
        headers: MutableMapping[str, str],
        mark: Mark,
        planned: str,
        retry: bool | None = None,
    ) -> Attempt | None:
        with self._lock:
            if self.done:
                return None
            attempt, reason = self._legs.enter(
                endpoint, self._inbound.read(), mark, planned=planned, retry=retry
            )
            if self._tracker.store.active_requests < _MANY:
                attempt.room = MAX_HELD
            if attempt.leg == SIDE and self._tracked is None:
                return attempt  # before the router has chosen
            route = self.routing.route
            if self._tracked is None:
                self._inbound.sent_id = headers.get("x-request-id", "")
                self._is_starting = True
                self.routing.news()  # `_start` tells all of it
                inbound = self._inbound.headers
                with caller_span(inbound, headers):
                    self._tracked = self._tracker.track(
                        self._start(route), inbound, arrived_ns=self._arrived_ns
                    )
            elif reason:
                self._tracked.reroute(route, reason=reason, **self.routing.news())
                # What it got is no part of the answer.
                self._has_reached_client = self.flows = False
            elif route != self._route:
                self._tracked.extend(route, self.routing.news()["candidates"])
            self._route = route
            self._tracked.dispatched_at(self._legs.dispatched_ns)
            self._tracked.inject(headers)
            return attempt

    def through(self, attempt: Attempt) -> Call:
        """What surrounds the call of an attempt."""
        tracked = self._tracked
        return Call(attempt, INVALID_SPAN_CONTEXT if tracked is None else tracked.span_context)

    def enter_routing(self, *, directly: bool = False) -> bool:
        """The request comes to the routing; returns whether this one is to tell of its end.

        Args:
            directly: Whether the server sees what is sent there as it is; else that is to be told.
        """
        if self.claimed or self.done or self._is_routing or self._is_direct:
            return False
        if directly:
            self._is_direct = True
            return True
        if self.is_routed:  # middleware did not like the first answer
            self._response.leave()
            self._response = ClientAnswer()
            self._error = None
        self.is_routed = self._is_routing = True
        return True

    @safely
    def leave_routing(self, error: BaseException | None) -> None:
        """The routing is done with the request."""
        self._is_routing = False
        self._error = error
        if self._tracked is None:
            self._span_above = trace.get_current_span().get_span_context()
        if self.answered:
            self._conclude(None)

    @safely
    def answering(self, status: int, headers: Mapping[str, str], *, routing: bool = False) -> None:
        """The response begins."""
        if not routing:
            self._status = status
        if routing or not self.is_routed:
            self._response.begin(status, headers)

    @safely
    def sent(self, body: bytes, *, more: bool, routing: bool = False) -> None:
        """The next bytes of the response's body went to the client, or to the middleware."""
        if routing or (more and self._is_direct):
            self.look_at_client()
        if body:
            # What nobody got does not count as the answer's end.
            if (routing or not self.is_routed) and not self._disconnected:
                self._response.feed(body, self._legs.attempts)
            if not routing:
                self._reached_client()
            if not self._has_output and self._response.has_output and self._has_reached_client:
                self._mark_output()
        if more:
            return
        if routing:
            self._is_routing = False
        else:
            self.answered = True
        if self.answered and not self._is_routing and not self._may_call_later:
            self._conclude(None)

    def flowed(self, body: bytes) -> None:
        """Like `sent`, of bytes that are neither the first output nor the last."""
        try:  # not `safely`, which costs as much as the rest
            self.look_at_client()
            if body and not self._disconnected:
                self._response.feed(body, self._legs.attempts)
        except Exception:
            self.give_up()

    @property
    def _may_call_later(self) -> bool:
        """Whether the engine may be called behind an answer that has nothing of an engine in it.

        Applications have background tasks, which they are not done without.
        """
        is_empty = self._tracked is None and not self._response.has_output
        return is_empty and 0 < self._status < 400

    def left(self, error: BaseException | None) -> None:
        """The application is done with the request."""
        self._conclude(error)
        self.let_go()

    def let_go(self) -> None:
        """Keeps nothing that contexts, connections or tasks could reach."""
        self.done = True
        self.current.follower = None
        for attempt in self._legs.attempts:
            attempt.let_go()

    def _reached_client(self) -> None:
        if self._has_reached_client or self._disconnected:
            return
        self._has_reached_client = True
        self.flows = self._has_output
        if self._status < 400 and self._tracked is not None:
            self._tracked.first_byte()

    def _mark_output(self) -> None:
        if self._disconnected or self._status >= 400:
            return
        self._has_output = True
        self.flows = self._has_reached_client
        if self._tracked is not None and self._response.is_stream:
            self._tracked.chunk()

    @safely
    def _conclude(self, error: BaseException | None) -> None:
        """Ends the request, with the exception that left the application if there is one."""
        if self.done:
            return
        self.look_at_client()
        self.done = True
        request = self._inbound.read()
        response = self._response.finish(choices=request.choices, samples=request.samples)
        self._legs.finish(request)
        if self._tracked is None:
            self._conclude_without_engine(response, error)
        else:
            self._tracked.end(self._judge(self._tracked, response, error))
        self.let_go()

    def _conclude_without_engine(self, response: AnswerReader, error: BaseException | None) -> None:
        """Records what the client got; who served it, if anybody did, is not known."""
        inbound = self._inbound
        completion = judge_unserved(
            response,
            self._response.is_truncated,
            self._status,
            self.answered,
            self._disconnected,
            error or self._error,
        )
        if self.calls_seen or completion.outcome in (Outcome.COMPLETED, Outcome.ERROR):
            unserved(self._tracker).tell(inbound.path or inbound.operation, self.calls_seen)
        self._is_starting = True
        with unless_current(self._span_above):  # of a middleware that has been left since
            self._tracker.record_unserved(
                self._start(None), completion, inbound.headers, arrived_ns=self._arrived_ns
            )

    def _judge(
        self, tracked: TrackedRequest, response: AnswerReader, error: BaseException | None
    ) -> RequestCompletion:
        legs = self._legs
        attempt = legs.deciding(response)
        route = self.routing.route
        if route is not self._route and route != self._route:
            tracked.extend(route, self.routing.news()["candidates"])
        if len(legs.attempts) > 1:  # else it is that of the only call
            tracked.dispatched_at(legs.dispatched_ns)
        end = End(
            response=response,
            is_truncated=self._response.is_truncated,
            attempt=attempt,
            prefill=legs.prefill,
            status=self._status,
            answered=self.answered,
            disconnected=self._disconnected,
            error=error or self._error,
            streaming=self._inbound.read().streaming,
            counts_itself=self.routing.rebuilds_answers,
            served=attempt.endpoint.endpoint,
        )
        return legs.complete(judge(end), attempt, tracked.epoch_ns)

    def _start(self, route: Route | None) -> RequestStart:
        tracker = self._tracker
        return self._inbound.start(
            route, self.routing, tracker.store, takes_prompts=tracker.takes_prompts
        )
