"""A call of a router that is a library: followed like a request that comes in over HTTP."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import wrapt

from otel_lifecycle.instrumentation.http.exchange import Exchange
from otel_lifecycle.instrumentation.http.requests.inference_request import InferenceRequest
from otel_lifecycle.tracking.current_request import current_request, restore
from otel_lifecycle.tracking.tracker import RequestLifecycleTracker


class RouterCall(Exchange):
    """One call; it ends when its answer does, or when nobody waits for it any more.

    Args:
        tracker: Follows it.
        operation: What it asks for.
        request: What its arguments say.
        arguments: Those with names, which the router sends on as fields of a body.
    """

    def __init__(
        self,
        tracker: RequestLifecycleTracker,
        operation: str,
        request: InferenceRequest,
        arguments: Mapping[str, Any],
    ) -> None:
        super().__init__(tracker, operation, {}, request)
        try:
            self._inbound.say(arguments)
        except Exception:  # they may be mappings of the caller's own
            self.give_up()
        self.routing.rebuilds_answers = True

    def chunk(self) -> None:
        """A chunk reached the caller."""
        if self._tracked is not None:
            self._reached_client()
            self._tracked.chunk()

    def finished(self) -> None:
        """The caller has the whole answer."""
        self._response.assume_whole()
        self.sent(b"", more=False)

    def abandoned(self) -> None:
        """Nobody can read the rest of the answer."""
        # Runs in the garbage collector: the handle knows how to end there.
        self._tracked = None
        self.let_go()


async def follow(
    call: RouterCall, wrapped: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Awaits the router's answer; a stream comes back as one that is followed."""
    token = current_request.set(call.current)
    try:
        answer = await wrapped(*args, **kwargs)
    except BaseException as error:
        call.left(error)
        raise
    finally:
        restore(token)
    return _answered(call, answer, "__anext__")


def follow_blocking(
    call: RouterCall, wrapped: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """The same for a router that blocks."""
    token = current_request.set(call.current)
    try:
        answer = wrapped(*args, **kwargs)
    except BaseException as error:
        call.left(error)
        raise
    finally:
        restore(token)
    return _answered(call, answer, "__next__")


def _answered(call: RouterCall, answer: Any, streams_by: str) -> Any:
    if hasattr(answer.__class__, streams_by):
        return FollowedStream(answer, call)
    call.finished()
    return answer


class FollowedStream(wrapt.ObjectProxy):  # pyright: ignore[reportMissingTypeArgument]
    """The router's stream, of the same class to `isinstance` and with the same attributes."""

    def __init__(self, stream: Any, call: RouterCall) -> None:
        super().__init__(stream)  # pyright: ignore[reportUnknownMemberType]
        self._self_stream = stream
        self._self_call = call

    def __aiter__(self) -> FollowedStream:
        return self

    async def __anext__(self) -> Any:
        # The router may go on to another engine in mid-stream.
        token = current_request.set(self._self_call.current)
        try:
            chunk = await self._self_stream.__anext__()
        except BaseException as error:
            self._end(error, StopAsyncIteration)
            raise
        finally:
            restore(token)
        self._self_call.chunk()
        return chunk

    def __iter__(self) -> FollowedStream:
        return self

    def __next__(self) -> Any:
        token = current_request.set(self._self_call.current)
        try:
            chunk = next(self._self_stream)
        except BaseException as error:
            self._end(error, StopIteration)
            raise
        finally:
            restore(token)
        self._self_call.chunk()
        return chunk

    def __getattr__(self, name: str) -> Any:
        if name in ("aclose", "close"):  # not every version of a router has them
            close = getattr(self._self_stream, name)
            return wrapt.FunctionWrapper(close, self._close)
        return getattr(self._self_stream, name)

    def __del__(self) -> None:
        call = getattr(self, "_self_call", None)
        if call is not None and not call.done:
            call.abandoned()

    def _end(self, error: BaseException, end: type[Exception]) -> None:
        if isinstance(error, end):
            self._self_call.finished()
        else:
            self._self_call.left(error)

    def _close(
        self, wrapped: Any, _instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        self._self_call.left(GeneratorExit())
        return wrapped(*args, **kwargs)
