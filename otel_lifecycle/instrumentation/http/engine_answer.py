"""What an engine answers, read on its way to the router.

A router may add a terminator that the engine never sent, hide the usage it asked for itself, put
zeros where there was none, or go on when the engine's connection broke. The bytes pass through
untouched, as they come; compressed ones are read where the client library unpacks them, else not.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from functools import cache, partial
from typing import Any

import wrapt

from otel_lifecycle.instrumentation.http.attempt import Attempt
from otel_lifecycle.runtime.logs import get_logger

_logger = get_logger(__name__)

# aiohttp's streams have no room for it; an entry goes when its stream or its request ends.
_reading: dict[int, Attempt] = {}


def read_httpx(attempt: Attempt, response: Any) -> None:
    """Reads a response of httpx, now or while the router does."""
    try:
        is_here = response.is_stream_consumed
        headers = response.headers
        if not is_here and headers.get("content-encoding", "identity") != "identity":
            return
        attempt.reads(response.status_code, headers.get("content-type", ""))
        if is_here:
            attempt.read(response.content)
            attempt.over()
        else:
            response.stream = _Stream(response.stream, attempt)
    except Exception:
        attempt.relay = None
        _logger.debug("the engine's answer could not be read", exc_info=True)


def read_aiohttp(attempt: Attempt, response: Any, *, unpacked: bool) -> None:
    """Reads a response of aiohttp while it arrives.

    Args:
        attempt: Its call.
        response: The response.
        unpacked: Whether the session unpacks what is compressed.
    """
    try:
        content, reading = response.content, _reading_stream()
        headers = response.headers
        if type(content) is not reading.__base__:
            return
        if not unpacked and headers.get("content-encoding", "identity") != "identity":
            return
        attempt.reads(response.status, headers.get("content-type", ""))
        for chunk in content._buffer:  # what came with the headers
            attempt.read(chunk)
        if content.is_eof():
            attempt.over()
        else:
            _reading[id(content)] = attempt

            attempt.let_loose = partial(_let_loose, content)
            content.__class__ = reading
    except Exception:
        _logger.debug("the engine's answer could not be read", exc_info=True)


def _let_loose(content: Any) -> None:
    """Has a stream of aiohttp tell nothing any more."""
    _reading.pop(id(content), None)
    content.__class__ = _reading_stream().__base__


class _Stream(wrapt.ObjectProxy):  # pyright: ignore[reportMissingTypeArgument]
    """The byte stream of a response; httpx checks its type."""

    def __init__(self, stream: Any, attempt: Attempt) -> None:
        super().__init__(stream)  # pyright: ignore[reportUnknownMemberType]
        self._self_stream = stream
        self._self_attempt = attempt

    async def aclose(self) -> None:
        self._self_attempt.closed()
        await self._self_stream.aclose()

    def close(self) -> None:
        self._self_attempt.closed()
        self._self_stream.close()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        attempt = self._self_attempt
        try:
            async for chunk in self._self_stream:
                attempt.read(chunk)
                yield chunk
        except Exception as error:
            attempt.broken(error)
            raise
        attempt.over()

    def __iter__(self) -> Iterator[bytes]:
        attempt = self._self_attempt
        try:
            for chunk in self._self_stream:
                attempt.read(chunk)
                yield chunk
        except Exception as error:
            attempt.broken(error)
            raise
        attempt.over()


@cache
def _reading_stream() -> Any:
    """The class of a stream of aiohttp while it is read: the same, and it tells what it is fed."""
    from aiohttp import ClientConnectionError, StreamReader

    feed_data: Any = StreamReader.feed_data

    class ReadStream(StreamReader):
        __slots__ = ()

        def feed_data(self, data: bytes, *args: Any, **kwargs: Any) -> Any:
            attempt = _reading.get(id(self))
            relay = None if attempt is None else attempt.relay
            if relay is not None:
                relay.feed(data)
            return feed_data(self, data, *args, **kwargs)

        def feed_eof(self) -> None:
            attempt = _reading.get(id(self))
            if attempt is not None:
                attempt.over()
            super().feed_eof()

        def set_exception(self, exc: Any, *args: Any, **kwargs: Any) -> None:
            attempt = _reading.get(id(self))
            # The very class stands for a response that the router closed itself.
            if attempt is not None and type(exc) is ClientConnectionError:
                attempt.closed()
            elif attempt is not None:
                attempt.broken(exc)
            super().set_exception(exc, *args, **kwargs)

    return ReadStream
