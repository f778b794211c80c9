"""The inbound side: any ASGI router."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable
from contextlib import suppress
from typing import Any, TypeAlias

from otel_lifecycle.instrumentation import providers
from otel_lifecycle.instrumentation.http.exchange import Exchange, current_exchange, reset
from otel_lifecycle.instrumentation.http.operations import operation
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
    exchange = current_exchange.get()
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


def observe_received(exchange: Exchange, message: Message) -> None:
    """The next message of the client."""
    if message["type"] == "http.request":
        exchange.received(message.get("body", b""), more=message.get("more_body", False))
    elif message["type"] == "http.disconnect":
        exchange.disconnected()


def observe_sent(exchange: Exchange, message: Message) -> None:
    """The next message to the client was sent."""
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
    exchange = open_exchange(tracker, operation_name, scope, routed=routed)

    async def receiving() -> Message:
        message = await receive()
        observe_received(exchange, message)
        return message

    async def sending(message: Message) -> None:
        try:
            await send(message)
        except OSError:  # how servers say that the client is gone (ASGI, HTTP, 2.4)
            exchange.disconnected()
            raise
        observe_sent(exchange, message)

    # Whoever took over has calls of its own around these: they are to cost nothing.
    def observed_receive() -> Awaitable[Message]:
        return receive() if exchange.claimed else receiving()

    def observed_send(message: Message) -> Awaitable[None]:
        return send(message) if exchange.claimed else sending(message)

    token = current_exchange.set(exchange)
    try:
        await application(scope, observed_receive, observed_send)
    except BaseException as error:
        exchange.left(error)
        raise
    finally:
        reset(current_exchange, token)
    exchange.left(None)


def flush(tracker: RequestLifecycleTracker) -> None:
    """Writes queued records, and exports what the global providers have.

    Each within the `close_timeout`; never raises.
    """
    with suppress(Exception):
        timeout = tracker.config.close_timeout.total_seconds()
        tracker.flush(timeout)
        providers.flush(timeout)


def _headers(raw: Iterable[tuple[bytes, bytes]], names: Collection[bytes]) -> dict[str, str]:
    """The few headers that are read."""
    try:
        return {
            name.decode("latin-1"): value.decode("latin-1") for name, value in raw if name in names
        }
    except (AttributeError, TypeError, ValueError):  # not what ASGI says
        return {}
