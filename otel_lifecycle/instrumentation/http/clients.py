"""The outbound side: calls to engines through aiohttp and httpx."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from functools import cache, wraps
from typing import Any, ParamSpec, TypeVar

import msgspec

from otel_lifecycle.instrumentation.http.attempt import Attempt
from otel_lifecycle.instrumentation.http.current import current_exchange
from otel_lifecycle.instrumentation.http.engine_answer import read_aiohttp, read_httpx
from otel_lifecycle.instrumentation.http.exchange import Exchange
from otel_lifecycle.instrumentation.http.requests.inference_request import asks_for_output
from otel_lifecycle.instrumentation.http.requests.marks import telling
from otel_lifecycle.instrumentation.http.requests.operations import judges, serves
from otel_lifecycle.instrumentation.http.unserved import MAX_SEEN, call_name
from otel_lifecycle.runtime.logs import get_logger

_logger = get_logger(__name__)

P = ParamSpec("P")
T = TypeVar("T")


async def observe_aiohttp(
    wrapped: Any, session: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Wraps `aiohttp.ClientSession._request(method, url, **options)`."""
    exchange = current_exchange()
    found = None if exchange is None else _aiohttp_attempt(exchange, session, args, kwargs)
    if exchange is None or found is None:
        return await wrapped(*args, **kwargs)
    attempt, headers = found
    kwargs["headers"] = headers
    with exchange.through(attempt):
        response = await wrapped(*args, **kwargs)
    attempt.answered(response.status)
    # After the request's end nothing would take back what reads the answer.
    if response.status < 400 and not exchange.done:
        read_aiohttp(attempt, response, unpacked=session.auto_decompress)
    return response


async def observe_httpx(
    wrapped: Any, _client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Wraps `httpx.AsyncClient.send(request, **options)`, and that of httpx2."""
    exchange = current_exchange()
    attempt = None if exchange is None else _httpx_attempt(exchange, args, kwargs)
    if exchange is None or attempt is None:
        return await wrapped(*args, **kwargs)
    with exchange.through(attempt):
        response = await wrapped(*args, **kwargs)
    _httpx_called(attempt, response)
    return response


def observe_httpx_blocking(
    wrapped: Any, _client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Wraps `httpx.Client.send(request, **options)`, and that of httpx2."""
    exchange = current_exchange()
    attempt = None if exchange is None else _httpx_attempt(exchange, args, kwargs)
    if exchange is None or attempt is None:
        return wrapped(*args, **kwargs)
    with exchange.through(attempt):
        response = wrapped(*args, **kwargs)
    _httpx_called(attempt, response)
    return response


def unless_it_fails(find: Callable[P, T]) -> Callable[P, T | None]:
    """What is not as expected in a client is no call that is followed, and no error."""

    @wraps(find)
    def find_safely(*args: P.args, **kwargs: P.kwargs) -> T | None:
        try:
            return find(*args, **kwargs)
        except Exception:
            _logger.debug("a call is not followed", exc_info=True)
            return None

    return find_safely


@unless_it_fails
def _aiohttp_attempt(
    exchange: Exchange, session: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Attempt, MutableMapping[str, str]] | None:
    if len(args) < 2 or str(args[0]).upper() != "POST":
        return None
    url = _aiohttp_url(session, args[1])
    if url.host is None:
        return None
    host, port = url.host, url.port or 80
    body = body_of_call(kwargs.get("data"), kwargs.get("json"))
    aside = is_aside(exchange, "aiohttp", host, port, url.path, body)
    if aside is None:
        return None
    headers = _aiohttp_headers(kwargs.get("headers"))
    attempt = exchange.calling(host, port, body, headers, aside=aside)
    return None if attempt is None else (attempt, headers)


@unless_it_fails
def _httpx_attempt(
    exchange: Exchange, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Attempt | None:
    request = args[0] if args else kwargs.get("request")
    if request is None or getattr(request, "method", "") != "POST":
        return None
    url = request.url
    port = url.port or (443 if url.scheme == "https" else 80)
    body = body_of_call(getattr(request, "_content", None), None)
    aside = is_aside(exchange, "httpx", url.host, port, url.path, body)
    if aside is None:
        return None
    return exchange.calling(url.host, port, body, request.headers, aside=aside)


def is_aside(
    exchange: Exchange, library: str, host: str, port: int, path: str, body: bytes
) -> bool | None:
    """Return whether a call asks a model for something else than the answer; None if for nothing.

    That is told by its path, or by what it asks for. Calls that are none to an engine are noted,
    for the case that there is no better one.
    """
    asked = exchange.paths.operation(path)
    only_judges = asked is None and judges(path)
    if asked is None and not only_judges and asks_for_output(body):
        asked = exchange.operation
    if asked is not None and serves(asked, exchange.operation):
        return False
    if len(exchange.calls_seen) < MAX_SEEN:
        exchange.calls_seen.append(call_name(library, host, port, path))
    return True if asked is not None or only_judges else None


def _httpx_called(attempt: Attempt, response: Any) -> None:
    attempt.answered(response.status_code)
    if response.status_code < 400:
        read_httpx(attempt, response)


@cache
def _aiohttp_types() -> tuple[Any, Any]:
    """Of its URLs and headers: aiohttp is there, and so are the libraries that they are of."""
    from multidict import CIMultiDict
    from yarl import URL

    return URL, CIMultiDict


def _aiohttp_url(session: Any, given: Any) -> Any:
    url = _aiohttp_types()[0](given)
    base = getattr(session, "_base_url", None)  # there is no public name for it
    return url if base is None or url.host is not None else base.join(url)


def _aiohttp_headers(given: Any) -> MutableMapping[str, str]:
    headers: MutableMapping[str, str] = _aiohttp_types()[1](given or ())
    return headers


def body_of_call(data: Any, json: Any) -> bytes:
    """The bytes of a call, as far as they are there: a streamed body is left alone.

    Of an object that is still to be encoded the names, and the few values that are read.
    """
    if isinstance(data, (bytes, str)):
        return data if isinstance(data, bytes) else data.encode("utf-8", "replace")
    if isinstance(json, dict):
        try:
            return msgspec.json.encode({**dict.fromkeys(json), **telling(json)})  # pyright: ignore[reportUnknownArgumentType]
        except (TypeError, ValueError, RecursionError):
            return b""
    return b""
