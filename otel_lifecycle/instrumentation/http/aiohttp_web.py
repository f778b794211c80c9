"""The inbound side: any router on aiohttp's own server, which is not ASGI."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import wrapt

from otel_lifecycle.instrumentation.http.asgi import (
    is_inference,
    left,
    open_exchange,
    read_response_headers,
)
from otel_lifecycle.instrumentation.http.current import current_exchange, exchange_of
from otel_lifecycle.tracking.current_request import CurrentRequest, current_request, restore
from otel_lifecycle.tracking.tracker import RequestLifecycleTracker

Handler = Callable[[Any], Awaitable[Any]]


def follow_aiohttp(
    tracker: RequestLifecycleTracker,
    wrapped: Callable[..., Awaitable[Any]],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Awaitable[Any]:
    """Wraps `aiohttp.web_protocol.RequestHandler._handle_request(request, started, handler)`."""
    current: CurrentRequest | None = None
    try:
        if len(args) == 3 and current_exchange() is None:
            current = _followed(tracker, args[0])
    except Exception:
        tracker.failed("exchange")
    if current is None:
        return wrapped(*args, **kwargs)
    return _serve(current, wrapped, args)


async def observe_body(
    wrapped: Callable[..., Awaitable[bytes]],
    request: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> bytes:
    """Wraps `aiohttp.web_request.BaseRequest.read()`, which keeps what it has read."""
    is_first = request._read_bytes is None
    body = await wrapped(*args, **kwargs)
    if is_first and type(request._payload_writer) is _Writer:
        exchange = exchange_of(request._payload_writer.current)
        if exchange is not None:
            exchange.received(body)
    return body


def _followed(tracker: RequestLifecycleTracker, request: Any) -> CurrentRequest | None:
    scope = {"type": "http", "method": request.method, "path": request.path}
    if not is_inference(tracker, scope):
        return None
    scope["headers"] = [(name.lower(), value) for name, value in request.raw_headers]
    current = open_exchange(tracker, scope, _Client(request)).current
    request._payload_writer = _Writer(request._payload_writer, current)
    return current


async def _serve(
    current: CurrentRequest, wrapped: Callable[..., Awaitable[Any]], args: tuple[Any, ...]
) -> Any:
    request, started, handler = args
    token = current_request.set(current)
    try:
        answered = await wrapped(request, started, _telling(current, handler))
    except BaseException as error:
        left(current, error)
        raise
    finally:
        restore(token)
    left(current, None)
    return answered


def _telling(current: CurrentRequest, handler: Handler) -> Handler:
    """The handler, whose exception aiohttp would make a plain 500 of."""

    async def handle(request: Any) -> Any:
        try:
            return await handler(request)
        except Exception as error:
            exchange = exchange_of(current)
            # aiohttp's own exceptions are answers.
            if exchange is not None and not hasattr(error, "status_code"):
                exchange.leave_routing(error)
            raise

    return handle


class _Client:
    """Knows whether the client is still there."""

    def __init__(self, request: Any) -> None:
        self._request = request

    @property
    def disconnected(self) -> bool:
        transport = self._request.transport
        return transport is None or transport.is_closing() is True


class _Writer(wrapt.ObjectProxy):  # pyright: ignore[reportMissingTypeArgument]
    """aiohttp's writer of one response; it compresses below this, where it does."""

    def __init__(self, writer: Any, current: CurrentRequest) -> None:
        super().__init__(writer)  # pyright: ignore[reportUnknownMemberType]
        self._self_writer = writer
        self._self_current = current
        self._self_has_begun = False

    @property
    def current(self) -> CurrentRequest:
        """The request that is answered."""
        return self._self_current

    async def write_headers(self, status_line: str, headers: Any) -> None:
        await self._self_writer.write_headers(status_line, headers)
        exchange = exchange_of(self._self_current)
        # A handler may return another response than the one it has begun: the client has the first.
        if exchange is None or self._self_has_begun:
            return
        self._self_has_begun = True
        with suppress(Exception):
            read = read_response_headers(headers)
            if getattr(self._self_writer, "_compress", None) is not None:
                read.pop("content-encoding", None)
            exchange.answering(int(status_line.split(" ", 2)[1]), read)

    async def write(self, chunk: Any, *args: Any, **kwargs: Any) -> None:
        exchange = exchange_of(self._self_current)
        if exchange is None:
            return await self._self_writer.write(chunk, *args, **kwargs)
        exchange.look_at_client()
        try:
            await self._self_writer.write(chunk, *args, **kwargs)
        except OSError:
            exchange.disconnected()
            raise
        exchange.sent(bytes(chunk), more=True)

    async def write_eof(self, chunk: bytes = b"") -> None:
        exchange = exchange_of(self._self_current)
        if exchange is None:
            return await self._self_writer.write_eof(chunk)
        exchange.look_at_client()
        try:
            await self._self_writer.write_eof(chunk)
        except OSError:
            exchange.disconnected()
            raise
        exchange.sent(bytes(chunk), more=False)
