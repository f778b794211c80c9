"""The inbound side: any ASGI router."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeAlias

from otel_lifecycle.instrumentation import providers
from otel_lifecycle.instrumentation.exchange import Exchange, current_exchange, reset
from otel_lifecycle.instrumentation.openai_api import operation
from otel_lifecycle.tracker import RequestLifecycleTracker

Message: TypeAlias = "dict[str, Any]"
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Application: TypeAlias = Callable[..., Awaitable[None]]


def observed_operation(scope: Any) -> str | None:
    """The GenAI operation of a request that is to be tracked; None for all others."""
    if not isinstance(scope, dict) or scope.get("type") != "http":  # pyright: ignore[reportUnknownMemberType]
        return None
    if scope.get("method") != "POST" or current_exchange.get() is not None:  # pyright: ignore[reportUnknownMemberType]
        return None
    path = scope.get("path")  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return operation(path) if isinstance(path, str) else None


async def observe(
    tracker: RequestLifecycleTracker,
    operation_name: str,
    application: Application,
    scope: Message,
    receive: Receive,
    send: Send,
) -> None:
    """Serves one request with the application, and follows it."""
    exchange = Exchange(tracker, operation_name, _headers(scope.get("headers", ())))

    async def observed_receive() -> Message:
        message = await receive()
        if message["type"] == "http.request":
            exchange.received(message.get("body", b""))
        elif message["type"] == "http.disconnect":
            exchange.disconnected()
        return message

    async def observed_send(message: Message) -> None:
        if message["type"] == "http.response.start":
            exchange.answering(message.get("status", 0))
        try:
            await send(message)
        except OSError:  # how servers say that the client is gone (ASGI, HTTP, 2.4)
            exchange.disconnected()
            raise
        if message["type"] == "http.response.body":
            exchange.sent(message.get("body", b""), more=message.get("more_body", False))

    token = current_exchange.set(exchange)
    try:
        await application(scope, observed_receive, observed_send)
    except BaseException as error:
        exchange.left(error)
        raise
    finally:
        reset(current_exchange, token)
    exchange.left(None)


async def flush_on_shutdown(
    tracker: RequestLifecycleTracker,
    application: Application,
    scope: Message,
    receive: Receive,
    send: Send,
) -> None:
    """Runs an application's lifespan, and writes what is queued when it is over.

    uvicorn ends a process by the signal it got, and Python then runs no exit handlers: this is the
    last chance for records, and for the spans and metrics of the global providers.
    """

    async def flushing_send(message: Message) -> None:
        if message["type"].startswith("lifespan.shutdown."):
            timeout = tracker.config.close_timeout.total_seconds()
            tracker.flush(timeout)
            providers.flush(timeout)
        await send(message)

    await application(scope, receive, flushing_send)


def _headers(raw: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """The few headers that are read."""
    names = (b"x-request-id", b"traceparent", b"tracestate", b"baggage")
    try:
        return {
            name.decode("latin-1"): value.decode("latin-1") for name, value in raw if name in names
        }
    except (AttributeError, TypeError, ValueError):  # not what ASGI says
        return {}
