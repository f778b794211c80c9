"""One inbound request and what the router does for it, seen from both of its sides."""

from __future__ import annotations

import logging
from asyncio import CancelledError
from collections.abc import Callable, Mapping, MutableMapping
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar
from uuid import uuid4

from otel_lifecycle.instrumentation.openai_api import (
    MAX_BUFFERED_BYTES,
    InferenceRequest,
    ResponseReader,
)
from otel_lifecycle.model import Endpoint, RequestStart, Route, RouteEndpoint
from otel_lifecycle.tracked import TrackedRequest
from otel_lifecycle.tracker import RequestLifecycleTracker

_logger = logging.getLogger(__name__)

# The object is shared by the tasks a handler starts, though each has a context of its own.
current_exchange: ContextVar[Exchange | None] = ContextVar("otel_lifecycle_exchange", default=None)


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
            self.claimed = True
            _logger.debug("the request is not followed any further", exc_info=True)
            return None

    return safe


def claim_exchange() -> None:
    """Tells the generic layer that another instrumentation tracks the current request."""
    exchange = current_exchange.get()
    if exchange is not None:
        exchange.claimed = True


class Attempt:
    """One call of the router to an engine."""

    __slots__ = ("endpoint", "failure", "is_prefill")

    def __init__(self, endpoint: Endpoint, *, is_prefill: bool) -> None:
        self.endpoint = endpoint
        self.is_prefill = is_prefill
        self.failure = ""


class Exchange:
    """Follows one inference request; every method may be called by code that must not fail.

    The lifecycle starts with the first call to an engine: that is when the router has chosen, and
    when the server's span, if any, is current.

    Attributes:
        claimed: Somebody else tracks this request.
    """

    def __init__(
        self, tracker: RequestLifecycleTracker, operation: str, headers: Mapping[str, str]
    ) -> None:
        self.claimed = False
        self._tracker = tracker
        self._operation = operation
        self._headers = headers
        self._body = bytearray()
        self._body_is_whole = True
        self._request: InferenceRequest | None = None
        self._response = ResponseReader()
        self._status = 0
        self._answered = False
        self._disconnected = False
        self._attempts: list[Attempt] = []
        self._tracked: TrackedRequest | None = None
        self._done = False

    @_safely
    def received(self, body: bytes) -> None:
        """The next bytes of the request's body."""
        room = MAX_BUFFERED_BYTES - len(self._body)
        if len(body) > room:
            self._body_is_whole = False
        self._body += body[: max(0, room)]

    def disconnected(self) -> None:
        """The client went away, before or after the end."""
        if not self._answered:
            self._disconnected = True

    @_safely
    def calling(
        self, host: str, port: int, body: bytes, headers: MutableMapping[str, str]
    ) -> Attempt | None:
        """The router calls an engine; adds the trace context to the call's headers."""
        if self._done:
            return None
        endpoint = Endpoint(address=host, port=str(port))
        attempt = Attempt(endpoint, is_prefill=InferenceRequest(body).is_prefill)
        self._attempts.append(attempt)
        if self._tracked is None:
            self._tracked = self._tracker.track(self._start(endpoint), self._headers)
        else:
            self._change_route(attempt)
        self._tracked.inject(headers)
        return attempt

    def called(self, attempt: Attempt, failure: str) -> None:
        """The engine answered (`failure` is empty), refused, or could not be reached."""
        attempt.failure = failure

    def active(self) -> AbstractContextManager[None]:
        """Makes our span current, for the span of the client library that makes the call."""
        return nullcontext() if self._tracked is None else self._tracked.active()

    @_safely
    def answering(self, status: int) -> None:
        """The response begins."""
        self._status = status

    @_safely
    def sent(self, body: bytes, *, more: bool) -> None:
        """The next bytes of the response's body went to the client."""
        if body:
            self._response.feed(body)
            if self._tracked is not None and self._response.is_stream and self._status < 400:
                self._tracked.chunk()
        if not more:
            self._answered = True
            self._finish()

    @_safely
    def left(self, error: BaseException | None) -> None:
        """The application is done with the request."""
        if self._done:
            return
        tracked = self._tracked
        self._done = True
        if tracked is None:
            if isinstance(error, CancelledError) or self._disconnected:
                self._reject("client_disconnect")
            else:
                self._reject("no_answer" if error is None else type(error).__name__)
        elif self._disconnected or (error is not None and not isinstance(error, Exception)):
            tracked.disconnect()
        else:
            tracked.fail("response_incomplete" if error is None else error)

    def _finish(self) -> None:
        if self._done:
            return
        self._done = True
        tracked, response = self._tracked, self._response
        if tracked is None:
            self._reject(f"http_{self._status}")
        elif self._status >= 400:
            tracked.fail(f"http_{self._status}")
        elif response.is_stream and not response.ended:
            tracked.fail("stream_truncated")
        else:
            tracked.complete(
                output_tokens=response.output_tokens,
                cached_tokens=response.cached_tokens,
                served_endpoint=self._attempts[-1].endpoint,
            )

    def _reject(self, reason: str) -> None:
        self._tracker.reject(self._start(None), reason, self._headers)

    def _start(self, endpoint: Endpoint | None) -> RequestStart:
        if self._request is None:
            self._request = InferenceRequest(bytes(self._body), whole=self._body_is_whole)
            self._body.clear()
        request = self._request
        return RequestStart(
            request_id=self._request_id(),
            route=None if endpoint is None else Route(RouteEndpoint(endpoint)),
            model=request.model,
            input_tokens=request.input_tokens,
            input_token_source=request.input_token_source,
            streaming=request.streaming,
            operation=self._operation,
        )

    def _request_id(self) -> str:
        """The client's id, unless another request with it is in flight: clients do repeat them."""
        request_id = self._headers.get("x-request-id", "")
        if not request_id or self._tracker.store.find(request_id) is not None:
            suffix = uuid4().hex
            return f"{request_id}-{suffix}" if request_id else suffix
        return request_id

    def _change_route(self, attempt: Attempt) -> None:
        assert self._tracked is not None
        previous = self._attempts[-2]
        if attempt.is_prefill != previous.is_prefill and not previous.failure:
            prefill, decode = (attempt, previous) if attempt.is_prefill else (previous, attempt)
            # The router itself leads a PD pair: its client talks to the decode endpoint.
            self._tracked.extend(
                Route(
                    RouteEndpoint(decode.endpoint),
                    RouteEndpoint(prefill.endpoint),
                    RouteEndpoint(decode.endpoint),
                )
            )
        else:
            self._tracked.reroute(
                Route(RouteEndpoint(attempt.endpoint)), reason=previous.failure or "retry"
            )
