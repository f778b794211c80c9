"""The outbound side of routers that call their engines from threads: urllib3, and so requests."""

from __future__ import annotations

from collections.abc import Callable, Generator, MutableMapping
from concurrent.futures import Future
from contextlib import suppress
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from otel_lifecycle.instrumentation.http.attempt import Attempt
from otel_lifecycle.instrumentation.http.clients import (
    body_of_call,
    is_aside,
    unless_it_fails,
)
from otel_lifecycle.instrumentation.http.current import current_exchange
from otel_lifecycle.instrumentation.http.exchange import Exchange
from otel_lifecycle.tracking.current_request import CurrentRequest, current_request, restore

_HEADERS_INDEX = 3


def observe_urllib3(wrapped: Any, pool: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Wraps `urllib3.HTTPConnectionPool.urlopen(method, url, body, headers, ...)`."""
    exchange = current_exchange()
    found = None if exchange is None else _attempt(exchange, pool, args, kwargs)
    if exchange is None or found is None:
        return wrapped(*args, **kwargs)
    attempt, headers = found
    if len(args) > _HEADERS_INDEX:
        args = (*args[:_HEADERS_INDEX], headers, *args[_HEADERS_INDEX + 1 :])
    else:
        kwargs = {**kwargs, "headers": headers}
    with exchange.through(attempt):
        response = wrapped(*args, **kwargs)
    attempt.answered(response.status)
    if response.status < 400:
        with suppress(Exception):
            _read(attempt, response)
    return response


def observe_submit(
    wrapped: Callable[..., Future[Any]],
    _executor: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Future[Any]:
    """Wraps `ThreadPoolExecutor.submit(function, ...)`, also of `run_in_executor`.

    Only `asyncio.to_thread` and the likes of it carry the context over; here the request alone is.
    """
    current = current_request.get()
    if current is None or current.follower is None or not args:
        return wrapped(*args, **kwargs)
    function, *rest = args
    return wrapped(_Carried(function, current), *rest, **kwargs)


class _Carried:
    """A function that serves a request in another thread."""

    __slots__ = ("_current", "_function")

    def __init__(self, function: Callable[..., Any], current: CurrentRequest) -> None:
        self._function = function
        self._current = current

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        token = current_request.set(self._current)
        try:
            return self._function(*args, **kwargs)
        finally:
            restore(token)


@unless_it_fails
def _attempt(
    exchange: Exchange, pool: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Attempt, MutableMapping[str, str]] | None:
    method, url, body, headers = (
        args[index] if index < len(args) else kwargs.get(name)
        for index, name in enumerate(("method", "url", "body", "headers"))
    )
    if str(method).upper() != "POST":
        return None
    target = urlsplit(str(url))
    host = target.hostname or pool.host
    port = target.port or pool.port or (443 if pool.scheme == "https" else 80)
    content = body_of_call(body, None)
    aside = is_aside(exchange, "urllib3", host, port, target.path, content)
    if aside is None:
        return None
    given = pool.headers if headers is None else headers
    carrier: MutableMapping[str, str] = {} if given is None else given.copy()
    attempt = exchange.calling(host, port, content, carrier, aside=aside)
    return None if attempt is None else (attempt, carrier)


def _read(attempt: Attempt, response: Any) -> None:
    reading = _reading_response()
    is_here = response._body is not None  # the library has read it all
    if not is_here and type(response) is not reading.__base__:
        return
    attempt.reads(response.status, response.headers.get("content-type", ""))
    if is_here:
        attempt.read(response._body)
        attempt.over()
    else:
        response._otel_lifecycle_attempt = attempt
        response.__class__ = reading


@cache
def _reading_response() -> Any:
    """The class of a response while it is read: the same, and it tells what it unpacks."""
    from urllib3.response import HTTPResponse

    class ReadResponse(HTTPResponse):
        _otel_lifecycle_attempt: Attempt

        def _decode(self, data: bytes, decode_content: Any, *args: Any, **kwargs: Any) -> bytes:
            unpacked: bytes = super()._decode(data, decode_content, *args, **kwargs)
            if decode_content or self.headers.get("content-encoding", "identity") == "identity":
                # Where the request has ended in the meantime, in another thread.
                with suppress(Exception):
                    self._otel_lifecycle_attempt.read(unpacked)
            return unpacked

        def read(self, amt: Any = None, *args: Any, **kwargs: Any) -> bytes:
            try:
                data: bytes = super().read(amt, *args, **kwargs)
            except Exception as error:
                self._otel_lifecycle_attempt.broken(error)
                raise
            if amt is None:
                self._otel_lifecycle_attempt.over()
            return data

        def stream(self, *args: Any, **kwargs: Any) -> Generator[bytes, None, None]:
            try:
                yield from super().stream(*args, **kwargs)
            except Exception as error:
                self._otel_lifecycle_attempt.broken(error)
                raise
            self._otel_lifecycle_attempt.over()

    return ReadResponse
