"""The outbound side: calls to engines through aiohttp and httpx."""

from __future__ import annotations

from collections.abc import MutableMapping
from contextvars import ContextVar
from typing import Any

import msgspec

from otel_lifecycle.instrumentation.exchange import Attempt, Exchange, current_exchange, reset
from otel_lifecycle.instrumentation.openai_api import MAX_BUFFERED_BYTES, operation
from otel_lifecycle.scheduling import error_type

# httpx may be set on top of aiohttp: the outer call is the one that counts.
_calling: ContextVar[bool] = ContextVar("otel_lifecycle_calling", default=False)


async def observe_aiohttp(
    wrapped: Any, session: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Wraps `aiohttp.ClientSession._request(method, url, **options)`."""
    exchange = _exchange()
    if exchange is None or len(args) < 2 or str(args[0]).upper() != "POST":
        return await wrapped(*args, **kwargs)
    url = _aiohttp_url(session, args[1])
    if url is None or operation(url.path) is None or url.host is None:
        return await wrapped(*args, **kwargs)
    headers = _aiohttp_headers(kwargs.get("headers"))
    body = _body(kwargs.get("data"), kwargs.get("json"))
    attempt = exchange.calling(url.host, url.port or 80, body, headers)
    if attempt is None:
        return await wrapped(*args, **kwargs)
    return await _call(exchange, attempt, wrapped, args, {**kwargs, "headers": headers}, "status")


async def observe_httpx(
    wrapped: Any, _client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Wraps `httpx.AsyncClient.send(request, **options)`."""
    exchange = _exchange()
    request = args[0] if args else kwargs.get("request")
    if (
        exchange is None
        or getattr(request, "method", "") != "POST"
        or operation(request.url.path) is None  # pyright: ignore[reportOptionalMemberAccess]
    ):
        return await wrapped(*args, **kwargs)
    url = request.url  # pyright: ignore[reportOptionalMemberAccess]
    port = url.port or (443 if url.scheme == "https" else 80)
    body = _body(getattr(request, "_content", None), None)
    attempt = exchange.calling(url.host, port, body, request.headers)  # pyright: ignore[reportOptionalMemberAccess]
    if attempt is None:
        return await wrapped(*args, **kwargs)
    return await _call(exchange, attempt, wrapped, args, kwargs, "status_code")


async def _call(
    exchange: Exchange,
    attempt: Attempt,
    wrapped: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    status_attribute: str,
) -> Any:
    token = _calling.set(True)
    try:
        with exchange.active():
            response = await wrapped(*args, **kwargs)
    except BaseException as error:
        attempt.answered(error_type(error))
        raise
    finally:
        reset(_calling, token)
    status = getattr(response, status_attribute, 0)
    attempt.answered(f"http_{status}" if status >= 400 else "")
    return response


def _exchange() -> Exchange | None:
    return None if _calling.get() else current_exchange.get()


def _aiohttp_url(session: Any, given: Any) -> Any:
    """The `yarl.URL` of a call; None when there is none, of which aiohttp makes its own error."""
    from yarl import URL  # aiohttp is there, and so is its yarl

    try:
        url = URL(given)
    except (TypeError, ValueError):
        return None
    base = getattr(session, "_base_url", None)  # there is no public name for it
    return url if base is None or url.absolute else base.join(url)


def _aiohttp_headers(given: Any) -> MutableMapping[str, str]:
    from multidict import CIMultiDict

    return CIMultiDict(given or ())


def _body(data: Any, json: Any) -> bytes:
    """The bytes of a call, as far as they are there: a streamed body is left alone."""
    if isinstance(data, (bytes, str)) and len(data) <= MAX_BUFFERED_BYTES:
        return data if isinstance(data, bytes) else data.encode("utf-8", "replace")
    if isinstance(json, dict):
        telling = ("max_tokens", "max_completion_tokens", "kv_transfer_params")
        try:
            return msgspec.json.encode({name: json[name] for name in telling if name in json})  # pyright: ignore[reportUnknownVariableType]
        except (TypeError, ValueError, RecursionError):
            return b""
    return b""
