"""What an engine answers, read on its way to a router that makes an answer of its own of it.

Such a router may add a terminator that the engine never sent, hide the usage it asked for itself,
or put zeros where there was none.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import wrapt

from otel_lifecycle.instrumentation.http.answers import AnswerReader
from otel_lifecycle.instrumentation.http.exchange import Attempt
from otel_lifecycle.runtime.logs import get_logger
from otel_lifecycle.tracking.scheduling import error_type

_logger = get_logger(__name__)


def read_answer(attempt: Attempt, response: Any) -> None:
    """Reads a response of httpx, now or while the router does; a compressed stream is left alone.

    The bytes pass through untouched, as they come.
    """
    try:
        answer = AnswerReader()
        if response.is_stream_consumed:  # httpx has decoded it
            answer.begin(response.status_code, {})
            answer.feed(response.content)
        elif response.headers.get("content-encoding", "identity") == "identity":
            answer.begin(response.status_code, response.headers)
            response.stream = _Stream(response.stream, attempt)
        else:
            return
        attempt.answer = answer
    except Exception:
        _logger.debug("the engine's answer could not be read", exc_info=True)


class _Stream(wrapt.ObjectProxy):  # pyright: ignore[reportMissingTypeArgument]
    """The byte stream of a response; httpx checks its type."""

    def __init__(self, stream: Any, attempt: Attempt) -> None:
        super().__init__(stream)  # pyright: ignore[reportUnknownMemberType]
        self._self_stream = stream
        self._self_attempt = attempt

    async def __aiter__(self) -> AsyncIterator[bytes]:
        attempt = self._self_attempt
        try:
            async for chunk in self._self_stream:
                attempt.read(chunk)
                yield chunk
        except Exception as error:
            attempt.failure = error_type(error)
            raise

    def __iter__(self) -> Iterator[bytes]:
        attempt = self._self_attempt
        try:
            for chunk in self._self_stream:
                attempt.read(chunk)
                yield chunk
        except Exception as error:
            attempt.failure = error_type(error)
            raise
