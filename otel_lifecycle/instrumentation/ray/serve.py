"""Instruments Ray Serve: the choices of a replica in the proxy and in an ingress deployment.

A request passes through a proxy, and may pass through a replica that calls other deployments. Only
one of the two follows the request, and the proxy decides which: the proxy itself if the application
has one deployment, the replica of the ingress deployment if it has several. The request's metadata
tell the replica.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import AsyncIterator, Awaitable, Mapping
from functools import wraps
from typing import Any, ClassVar, Final
from weakref import WeakSet

from opentelemetry import context, propagate

from otel_lifecycle.instrumentation.base import RouterInstrumentor, Wrapper
from otel_lifecycle.instrumentation.http.asgi import (
    Message,
    flush,
    follow,
    is_inference,
    left,
    observe_received,
    observe_sent,
    open_exchange,
)
from otel_lifecycle.instrumentation.http.current import current_exchange
from otel_lifecycle.instrumentation.http.exchange import Exchange
from otel_lifecycle.instrumentation.ray.replicas import (
    Applications,
    ReplicaEvents,
    asks_for_inference,
    chosen_replica,
    considered,
)
from otel_lifecycle.runtime.logs import get_logger
from otel_lifecycle.tracking.current_request import CurrentRequest, current_request, restore
from otel_lifecycle.tracking.tracker import RequestLifecycleTracker

_logger = get_logger(__name__)

# A key in `RequestMetadata.tracing_context`; Ray reads only the W3C headers there.
_FOLLOWED: Final = "otel-lifecycle"
_TRACE_HEADERS: Final = (b"traceparent", b"tracestate")


class RayServeInstrumentor(RouterInstrumentor):
    """Follows inference requests over HTTP through proxies and ingress deployments."""

    # The instrumentor is a singleton, however often it is constructed.
    _applications: ClassVar = Applications()
    _watched: ClassVar[WeakSet[Any]] = WeakSet()
    _missing: ClassVar[set[str]] = set()
    _asked: ClassVar[WeakSet[Exchange]] = WeakSet()

    def wrappers(self) -> Mapping[str, Mapping[str, Wrapper]]:
        """Return the methods that receive a request, choose a replica, and serve it there."""
        return {
            "ray.serve._private.proxy": {
                "HTTPProxy.__call__": self._proxy,
                "get_http_response_status": self._failed,
            },
            "ray.serve._private.router": {
                "AsyncioRouter.update_deployment_config": self._configured
            },
            "ray.serve._private.replica": {
                "UserCallableWrapper.call_http_entrypoint": self._serve,
                "Replica._wrap_request": self._enter,
                "Replica.shutdown": self._ending,
            },
        }

    def _proxy(
        self, wrapped: Any, _proxy: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Wrap `__call__(scope, receive, send)`, an ASGI application."""
        if self.tracker is None or len(args) != 3:
            return wrapped(*args, **kwargs)
        return follow(self.tracker, wrapped, *args)

    def _failed(
        self, wrapped: Any, _module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Wrap `get_http_response_status(exc, ...)`: the proxy got an error, not an answer."""
        exchange = current_exchange()
        if self.tracker is not None and exchange is not None and args:
            if _is_replica_failure(args[0]):
                exchange.claimed = False  # the replica that claimed it is gone
            exchange.left(args[0])
        return wrapped(*args, **kwargs)

    def _configured(
        self, wrapped: Any, owner: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Wrap `update_deployment_config(...)`, after which a router has its policy.

        The policy is wrapped as an object. Ray pickles policy classes by value: a wrapped class
        cannot be deployed, and a class wrapped in another process is a different class here.
        """
        result = wrapped(*args, **kwargs)
        if self.tracker is not None:
            try:
                self._watch(owner.request_router)
            except Exception:
                _logger.debug("wrapping a router failed: it is not tracked", exc_info=True)
        return result

    def _watch(self, router: Any) -> None:
        if router is None or router in self._watched:
            return
        self._watched.add(router)
        for name, wrapper in (
            ("_choose_replica_for_request", self._choosing),
            ("update_replicas", self._updating),
        ):
            method = getattr(router, name, None)
            if method is not None:
                setattr(router, name, wrapper(router, method))
            elif name not in self._missing:
                self._missing.add(name)
                _logger.warning(
                    "RequestRouter.%s does not exist: its values stay unknown",
                    name,
                )

    def _choosing(self, router: Any, method: Any) -> Any:
        @wraps(method)
        async def choose(pending_request: Any, *args: Any, **kwargs: Any) -> Any:
            replica = await method(pending_request, *args, **kwargs)
            exchange = current_exchange()
            if self.tracker is not None and exchange is not None:
                try:
                    retry = kwargs.get("is_retry", False)
                    self._chosen(exchange, router, pending_request, replica, retry)
                except Exception:
                    _logger.debug("observing a choice failed: it is not tracked", exc_info=True)
            return replica

        return choose

    def _chosen(
        self, exchange: Exchange, router: Any, pending_request: Any, replica: Any, retry: bool
    ) -> None:
        metadata = pending_request.metadata
        if metadata.is_http_request and self._applications.has_several(
            replica.replica_id.deployment_id.app_name
        ):
            exchange.claimed = True  # by the replica
            return
        if asks_for_inference(pending_request):
            self._asked.add(exchange)
        elif exchange in self._asked:  # a call for another part of the same request
            return
        exchange.routing.policy = type(router).__name__
        exchange.routing.choose_from(considered(router))
        carrier: dict[str, str] = {}
        if exchange.routed(chosen_replica(router, replica), carrier, retry=retry) is not None:
            metadata.tracing_context = {**carrier, _FOLLOWED: "1"}

    def _updating(self, router: Any, method: Any) -> Any:
        events = ReplicaEvents()

        def updated() -> None:
            tracker = self.tracker
            if tracker is None:
                return
            changes = events.update(router.curr_replicas.values())
            for event in changes:
                tracker.extract_endpoint(event)
            # Not for every update: most only bring new routing stats.
            if changes and getattr(router, "_handle_source", None) == "PROXY":
                self._applications.look_up(router.app_name)

        @wraps(method)
        def update(*args: Any, **kwargs: Any) -> Any:
            result = method(*args, **kwargs)
            try:
                updated()
            except Exception:
                _logger.debug("observing the replicas failed: they are not tracked", exc_info=True)
            return result

        updated()
        return update

    def _serve(
        self, wrapped: Any, _callable: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Wrap `call_http_entrypoint(request_metadata, callback, scope, receive)`."""
        tracker = self.tracker
        if tracker is None or len(args) != 4:
            return wrapped(*args, **kwargs)
        metadata, callback, scope, receive = args
        if current_exchange() is not None or not is_inference(tracker, scope):
            return wrapped(*args, **kwargs)
        exchange = open_exchange(tracker, scope)
        followed = _tracing_context(metadata)
        if _FOLLOWED in followed:
            exchange.claimed = True
            scope = {**scope, "headers": _with_trace(scope["headers"], followed)}
        answer = wrapped(metadata, callback, scope, _Receive(receive, exchange.current), **kwargs)
        return _observe_answer(exchange.current, answer)

    def _enter(
        self, wrapped: Any, _replica: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Wrap `_wrap_request(request_metadata, ...)`, to make our span the replica's parent."""
        if self.tracker is not None and args:
            followed = _tracing_context(args[0])
            if _FOLLOWED in followed:
                # Each call of a replica is a task with its own context: no need to detach.
                context.attach(propagate.extract(followed))
        return wrapped(*args, **kwargs)

    def _ending(
        self, wrapped: Any, _replica: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Wrap `shutdown()`, a coroutine that the controller awaits before it kills the process.

        A proxy is killed too, but has no method that could be wrapped: it is an actor, whose class
        is sent to its process by value.
        """
        tracker = self.tracker
        ending = wrapped(*args, **kwargs)
        if tracker is None or not inspect.isawaitable(ending):
            return ending
        return _flushed(tracker, ending)


async def _flushed(tracker: RequestLifecycleTracker, ending: Awaitable[Any]) -> Any:
    try:
        return await ending
    finally:
        await flush(tracker)


class _Receive:
    """Wraps Ray's `receive`, which has attributes that Ray uses."""

    def __init__(self, receive: Any, current: CurrentRequest) -> None:
        self._receive = receive
        self._current = current

    def __getattr__(self, name: str) -> Any:
        return getattr(self._receive, name)

    async def __call__(self) -> Message:
        message: Message = await self._receive()
        observe_received(self._current, message)
        return message


async def _observe_answer(
    current: CurrentRequest, answer: AsyncIterator[list[Message]]
) -> AsyncIterator[list[Message]]:
    token = current_request.set(current)
    try:
        async for messages in answer:
            yield messages
            for message in messages:
                observe_sent(current, message)
    except BaseException as error:
        left(current, error)
        raise
    finally:
        restore(token)
    left(current, None)


def _tracing_context(metadata: Any) -> Mapping[str, str]:
    return getattr(metadata, "tracing_context", None) or {}  # older versions have no such field


def _with_trace(
    headers: list[tuple[bytes, bytes]], carrier: Mapping[str, str]
) -> list[tuple[bytes, bytes]]:
    kept = [(name, value) for name, value in headers if name not in _TRACE_HEADERS]
    return kept + [
        (name, carrier[name.decode()].encode())
        for name in _TRACE_HEADERS
        if name.decode() in carrier
    ]


def _is_replica_failure(error: BaseException) -> bool:
    exceptions: Any = sys.modules["ray.exceptions"]
    # An error of another replica that this replica passes on is of both types.
    return isinstance(error, exceptions.RayActorError) and not isinstance(
        error, exceptions.RayTaskError
    )
