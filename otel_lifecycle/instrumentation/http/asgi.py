"""The inbound side: any ASGI router."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from functools import lru_cache, partial
from typing import Any, TypeAlias

from otel_lifecycle.instrumentation import providers
from otel_lifecycle.instrumentation.http.current import current_exchange, exchange_of
from otel_lifecycle.instrumentation.http.exchange import Exchange
from otel_lifecycle.instrumentation.http.requests.operations import paths
from otel_lifecycle.tracking.current_request import CurrentRequest, current_request, restore
from otel_lifecycle.tracking.tracker import RequestLifecycleTracker

Message: TypeAlias = "dict[str, Any]"
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Application: TypeAlias = Callable[..., Awaitable[None]]

_READ_OF_REQUEST = frozenset({b"x-request-id", b"traceparent", b"tracestate"})
_READ_OF_RESPONSE = frozenset({b"content-length", b"content-type", b"content-encoding"})

# Where applications and middleware that change no message have the next one.
_PASS_ON = {
    ("uvicorn.middleware.proxy_headers", "ProxyHeadersMiddleware"): "app",
    ("starlette.applications", "Starlette"): "middleware_stack",
    ("fastapi.applications", "FastAPI"): "middleware_stack",
    ("fastapi._body_limit", "AppBodyLimitMiddleware"): "app",
    ("fastapi.telemetry._asgi", "ExceptionTelemetryMiddleware"): "app",
    ("starlette.middleware.errors", "ServerErrorMiddleware"): "app",
    ("starlette.middleware.exceptions", "ExceptionMiddleware"): "app",
    ("fastapi.middleware.asyncexitstack", "AsyncExitStackMiddleware"): "app",
}
_MAX_DEPTH = 8


def follow(
    tracker: RequestLifecycleTracker,
    application: Application,
    scope: Message,
    receive: Receive,
    send: Send,
    routing: Any = None,
) -> Awaitable[None]:
    """Serves one request with the application, and follows it if it is one for inference.

    A server does this first, and follows the request to its end; a routing below it only tells what
    passes there, or with which exception it ends, if nothing between the two changes a message.
    Where no server does it, the routing is the server.

    Args:
        tracker: Tracks the request.
        application: Serves it.
        scope: As ASGI has it.
        receive: Likewise.
        send: Likewise.
        routing: The object that routes, if the application is one.
    """
    current: CurrentRequest | None = None
    messages: _Messages | None = None
    is_direct = False
    try:
        operation = _operation(tracker, scope)
        if operation is not None:
            exchange = current_exchange()
            if exchange is None or exchange.answered:
                server = getattr(receive, "__self__", None)
                exchange = _open_exchange(tracker, operation, scope, server)
                exchange.application = application
                messages = _Messages(exchange.current, receive, send)
            else:
                is_direct = sends_directly(exchange.application, routing)
                if exchange.enter_routing(directly=is_direct):
                    current = exchange.current
    except Exception:
        tracker.failed("exchange")
    if messages is not None:
        return _serve(application, scope, messages)
    if current is not None:
        sends = send if is_direct else partial(_send_routed, current, send)
        return _route(application, scope, receive, sends, current)
    return application(scope, receive, send)


def open_exchange(tracker: RequestLifecycleTracker, scope: Message, server: Any = None) -> Exchange:
    """What follows one request; `server` knows whether the client is still there."""
    operation = paths(tracker.config.paths).operation(scope["path"]) or ""
    return _open_exchange(tracker, operation, scope, server)


def _open_exchange(
    tracker: RequestLifecycleTracker, operation: str, scope: Message, server: Any
) -> Exchange:
    asked = tracker.asked.raw_header_names
    names = _READ_OF_REQUEST | asked if asked else _READ_OF_REQUEST
    headers = _headers(scope.get("headers", ()), names)
    return Exchange(tracker, operation, headers, server=server, path=scope["path"])


def observe_received(current: CurrentRequest, message: Message) -> None:
    """The next message of the client."""
    exchange = exchange_of(current)
    if exchange is not None:
        _received(exchange, message)


def _received(exchange: Exchange, message: Message) -> None:
    try:
        if message["type"] == "http.request":
            exchange.received(message.get("body") or b"", more=bool(message.get("more_body")))
        elif message["type"] == "http.disconnect":
            exchange.disconnected()
    except Exception:  # middleware made up a message that ASGI does not know
        exchange.give_up()


def observe_sent(current: CurrentRequest, message: Message, *, routing: bool = False) -> None:
    """The next message to the client was sent; `routing` where there may be middleware above."""
    exchange = exchange_of(current)
    if exchange is not None:
        _sent(exchange, message, routing=routing)


def _sent(exchange: Exchange, message: Message, *, routing: bool = False) -> None:
    try:
        if message["type"] == "http.response.start":
            headers = _headers(message.get("headers", ()), _READ_OF_RESPONSE)
            exchange.answering(message.get("status", 0), headers, routing=routing)
        elif message["type"] == "http.response.body":
            body, more = message.get("body") or b"", bool(message.get("more_body"))
            exchange.sent(body, more=more, routing=routing)
    except Exception:  # middleware took a message that ASGI does not know
        exchange.give_up()


def left(current: CurrentRequest, error: BaseException | None) -> None:
    """The application is done with a request."""
    exchange = exchange_of(current)
    if exchange is not None:
        exchange.left(error)


async def _serve(application: Application, scope: Message, messages: _Messages) -> None:
    # No other name for the exchange: this may go on for long after the request's end.
    current = messages.current
    token = current_request.set(current)
    try:
        await application(scope, messages.receive, messages.send)
    except BaseException as error:
        left(current, error)
        raise
    finally:
        restore(token)
    left(current, None)


async def _route(
    application: Application, scope: Message, receive: Receive, send: Send, current: CurrentRequest
) -> None:
    error: BaseException | None = None
    try:
        await application(scope, receive, send)
    except BaseException as raised:
        error = raised
        raise
    finally:
        exchange = exchange_of(current)
        if exchange is not None:
            exchange.leave_routing(error)
        error = None


async def _send_routed(current: CurrentRequest, send: Send, message: Message) -> None:
    """Passes on what a routing sends, towards the server."""
    await send(message)
    observe_sent(current, message, routing=True)


class _Messages:
    """Passes the messages of one request on; applications keep these for as long as they like."""

    __slots__ = ("_receive", "_send", "current")

    def __init__(self, current: CurrentRequest, receive: Receive, send: Send) -> None:
        self.current = current
        self._receive = receive
        self._send = send

    async def receive(self) -> Message:
        message = await self._receive()
        exchange: Any = self.current.follower
        if exchange is not None and not exchange.claimed:
            _received(exchange, message)
        return message

    async def send(self, message: Message) -> None:
        exchange: Any = self.current.follower
        if exchange is None or exchange.claimed:
            return await self._send(message)
        flows = exchange.flows and message.get("more_body")
        if flows and exchange.is_routed:  # the routing below tells of it
            return await self._send(message)
        if not flows:
            exchange.look_at_client()
        try:
            await self._send(message)
        except OSError:  # how servers say that the client is gone (ASGI, HTTP, 2.4)
            exchange.disconnected()
            raise
        if flows:
            exchange.flowed(message.get("body"))
        else:
            _sent(exchange, message)


def sends_directly(application: object, routing: object) -> bool:
    """Return whether what a routing sends comes to the server as it is.

    Args:
        application: What the server serves.
        routing: An object that routes, somewhere within that.
    """
    for _ in range(_MAX_DEPTH):
        if application is routing:
            return routing is not None
        inner = _next_of(type(application))
        if inner is None:
            return False
        application = getattr(application, inner)
    return False


@lru_cache(maxsize=128)  # on the path of each request
def _next_of(kind: type) -> str | None:
    """Where an application of a kind that changes no message has the next one."""
    return _PASS_ON.get((kind.__module__, kind.__qualname__))


def is_inference(tracker: RequestLifecycleTracker, scope: Any) -> bool:
    """Whether a request is one to be followed."""
    return _operation(tracker, scope) is not None


def _operation(tracker: RequestLifecycleTracker, scope: Any) -> str | None:
    """What a request asks for; None if it is not one to be followed."""
    try:
        if scope["type"] != "http" or scope["method"] != "POST":
            return None
        path = scope["path"]
    except (KeyError, TypeError):  # not what ASGI says
        return None
    return paths(tracker.config.paths).operation(path) if isinstance(path, str) else None


async def flush(tracker: RequestLifecycleTracker) -> None:
    """Writes queued records, and exports what the global providers have.

    Both together within the `close_timeout`; never raises. In a thread of its own: another server
    may share the loop, and calls that hang may have all threads of the loop's executor.
    """
    loop, flushed = asyncio.get_running_loop(), asyncio.Event()

    def run() -> None:
        _flush(tracker)
        with suppress(RuntimeError):  # nobody waited, and the loop is closed
            loop.call_soon_threadsafe(flushed.set)

    thread = threading.Thread(target=run, name="otel-lifecycle-flush", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # no more threads: the interpreter is about to flush itself
        return
    await flushed.wait()


def _flush(tracker: RequestLifecycleTracker) -> None:
    with suppress(Exception):
        timeout = tracker.config.close_timeout.total_seconds()
        deadline = time.monotonic() + timeout
        tracker.flush(timeout)
        providers.flush(max(0.0, deadline - time.monotonic()))


def read_response_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """The few headers of a response that are read, of a mapping in any case."""
    names = [name.decode() for name in _READ_OF_RESPONSE]
    return {name: headers[name] for name in names if name in headers}


def _headers(raw: Iterable[tuple[bytes, bytes]], names: frozenset[bytes]) -> dict[str, str]:
    """The few headers that are read; what comes twice is read as W3C Trace Context says."""
    read: dict[str, str] = {}
    repeated: dict[str, list[str]] = {}
    try:
        pairs = list(raw)
        if names.isdisjoint(dict(pairs)):  # most requests have none of them
            return read
        for name, value in pairs:
            if name in names:
                key, text = name.decode("latin-1"), value.decode("latin-1")
                if key in read:
                    repeated.setdefault(key, [read[key]]).append(text)
                else:
                    read[key] = text
    except (AttributeError, TypeError, ValueError):  # not what ASGI says
        return {}
    for key, values in repeated.items():
        read[key] = _one_value(key, values)
    return read


def _one_value(name: str, values: list[str]) -> str:
    if name == "tracestate":
        return ",".join(values)
    if name == "traceparent":
        return ""  # whose child this is cannot be told: a new trace
    return values[-1]
