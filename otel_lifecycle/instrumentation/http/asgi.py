"""The inbound side: any ASGI router."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Collection, Iterable
from contextlib import suppress
from typing import Any, TypeAlias

from otel_lifecycle.instrumentation import providers
from otel_lifecycle.instrumentation.http.exchange import (
    Exchange,
    current_exchange,
    exchange_of,
)
from otel_lifecycle.instrumentation.http.operations import operation
from otel_lifecycle.tracking.current_request import CurrentRequest, current_request, restore
from otel_lifecycle.tracking.tracker import RequestLifecycleTracker

Message: TypeAlias = "dict[str, Any]"
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Application: TypeAlias = Callable[..., Awaitable[None]]

_READ_OF_REQUEST = (b"x-request-id", b"traceparent", b"tracestate", b"baggage")
_READ_OF_RESPONSE = (b"content-length", b"content-type", b"content-encoding")


def observed_operation(scope: Any, *, routed: bool) -> str | None:
    """The GenAI operation of a request that is to be tracked; None for all others.

    Args:
        scope: The ASGI scope.
        routed: Asked by the routing, which takes over from the server. It is nearer: below the
            server's span, above what middleware makes of the response.
    """
    if not isinstance(scope, dict) or scope.get("type") != "http":  # pyright: ignore[reportUnknownMemberType]
        return None
    if scope.get("method") != "POST":  # pyright: ignore[reportUnknownMemberType]
        return None
    path = scope.get("path")  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    name = operation(path) if isinstance(path, str) else None
    if name is None:
        return None
    exchange = current_exchange()
    if exchange is None or exchange.done or (routed and exchange.hand_over()):
        return name
    return None


def open_exchange(
    tracker: RequestLifecycleTracker,
    operation_name: str,
    scope: Message,
    *,
    routed: bool = True,
) -> Exchange:
    """What follows one request; for `routed` see above."""
    headers = _headers(scope.get("headers", ()), _READ_OF_REQUEST)
    return Exchange(tracker, operation_name, headers, routed=routed)


def observe_received(current: CurrentRequest, message: Message) -> None:
    """The next message of the client."""
    exchange = exchange_of(current)
    if exchange is None:
        return
    if message["type"] == "http.request":
        exchange.received(message.get("body", b""), more=message.get("more_body", False))
    elif message["type"] == "http.disconnect":
        exchange.disconnected()


def observe_sent(current: CurrentRequest, message: Message) -> None:
    """The next message to the client was sent."""
    exchange = exchange_of(current)
    if exchange is None:
        return
    if message["type"] == "http.response.start":
        headers = _headers(message.get("headers", ()), _READ_OF_RESPONSE)
        exchange.answering(message.get("status", 0), headers)
    elif message["type"] == "http.response.body":
        exchange.sent(message.get("body", b""), more=message.get("more_body", False))


async def observe(
    tracker: RequestLifecycleTracker,
    operation_name: str,
    application: Application,
    scope: Message,
    receive: Receive,
    send: Send,
    *,
    routed: bool = True,
) -> None:
    """Serves one request with the application, and follows it; for `routed` see above."""
    # No other name for the exchange: this may go on for long after the request's end.
    current = open_exchange(tracker, operation_name, scope, routed=routed).current
    messages = _Messages(current, receive, send)
    token = current_request.set(current)
    try:
        await application(scope, messages.receive, messages.send)
    except BaseException as error:
        left(current, error)
        raise
    finally:
        restore(token)
    left(current, None)


def left(current: CurrentRequest, error: BaseException | None) -> None:
    """The application is done with a request."""
    exchange = exchange_of(current)
    if exchange is not None:
        exchange.left(error)


class _Messages:
    """Passes the messages of one request on; applications keep these for as long as they like.

    Whoever took over has calls of its own around these: they are to cost nothing.
    """

    __slots__ = ("_current", "_receive", "_send")

    def __init__(self, current: CurrentRequest, receive: Receive, send: Send) -> None:
        self._current = current
        self._receive = receive
        self._send = send

    def receive(self) -> Awaitable[Message]:
        exchange = exchange_of(self._current)
        followed = exchange is not None and not exchange.claimed
        return self._receiving() if followed else self._receive()

    def send(self, message: Message) -> Awaitable[None]:
        exchange = exchange_of(self._current)
        followed = exchange is not None and not exchange.claimed
        return self._sending(message) if followed else self._send(message)

    async def _receiving(self) -> Message:
        message = await self._receive()
        observe_received(self._current, message)
        return message

    async def _sending(self, message: Message) -> None:
        try:
            await self._send(message)
        except OSError:  # how servers say that the client is gone (ASGI, HTTP, 2.4)
            exchange = exchange_of(self._current)
            if exchange is not None:
                exchange.disconnected()
            raise
        observe_sent(self._current, message)


def flush(tracker: RequestLifecycleTracker) -> None:
    """Writes queued records, and exports what the global providers have.

    Both together within the `close_timeout`; never raises.
    """
    with suppress(Exception):
        timeout = tracker.config.close_timeout.total_seconds()
        deadline = time.monotonic() + timeout
        tracker.flush(timeout)
        providers.flush(max(0.0, deadline - time.monotonic()))


def _headers(raw: Iterable[tuple[bytes, bytes]], names: Collection[bytes]) -> dict[str, str]:
    """The few headers that are read."""
    try:
        return {
            name.decode("latin-1"): value.decode("latin-1") for name, value in raw if name in names
        }
    except (AttributeError, TypeError, ValueError):  # not what ASGI says
        return {}
