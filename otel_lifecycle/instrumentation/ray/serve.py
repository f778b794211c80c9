"""Instruments Ray Serve: the proxy's choice of a replica, and that of an ingress deployment.

Every process that routes sees the requests that pass through it: a proxy, and a replica that calls
other deployments. One of them follows a request, and the proxy decides which: itself in an
application of one deployment, the replica of the ingress deployment in one of several. The replica
learns it from the request's metadata.
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
from otel_lifecycle.instrumentation.http.exchange import Exchange, current_exchange
from otel_lifecycle.instrumentation.ray.replicas import (
    Applications,
    ReplicaEvents,
    asks_for_inference,
    chosen_replica,
)
from otel_lifecycle.runtime.logs import get_logger
from otel_lifecycle.tracking.current_request import CurrentRequest, current_request, restore
from otel_lifecycle.tracking.tracker import RequestLifecycleTracker

_logger = get_logger(__name__)

# In `RequestMetadata.tracing_context`, beside the W3C headers, which are all that Ray reads there.
_FOLLOWED: Final = "otel-lifecycle"
_TRACE_HEADERS: Final = (b"traceparent", b"tracestate")


class RayServeInstrumentor(RouterInstrumentor):
    """Follows OpenAI-style requests over HTTP through proxies and ingress deployments."""

    # There is one instrumentor, however often it is constructed.
    _applications: ClassVar = Applications()
    _watched: ClassVar[WeakSet[Any]] = WeakSet()
    _missing: ClassVar[set[str]] = set()
    _asked: ClassVar[WeakSet[Exchange]] = WeakSet()

    def wrappers(self) -> Mapping[str, Mapping[str, Wrapper]]:
        """Where a request comes in, where a replica is chosen, and where a replica serves it."""
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
        """`__call__(scope, receive, send)`, an ASGI application."""
        if self.tracker is None or len(args) != 3:
            return wrapped(*args, **kwargs)
        return follow(self.tracker, wrapped, *args)

    def _failed(
        self, wrapped: Any, _module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """`get_http_response_status(exc, ...)`: the proxy got an error instead of an answer."""
        exchange = current_exchange()
        if self.tracker is not None and exchange is not None and args:
            if _is_replica_failure(args[0]):
                exchange.claimed = False  # who should have told is gone
            exchange.left(args[0])
        return wrapped(*args, **kwargs)

    def _configured(
        self, wrapped: Any, owner: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """`update_deployment_config(...)`: from here on a router has its policy.

        Ray pickles policies by value, with all that their classes consist of: a class that is
        wrapped cannot be deployed, and one that is wrapped elsewhere is another class here.
        """
        result = wrapped(*args, **kwargs)
        if self.tracker is not None:
            try:
                self._watch(owner.request_router)
            except Exception:
                _logger.debug("the router is not known", exc_info=True)
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
                    "RequestRouter.%s does not exist: what it would tell is missing", name
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
                    _logger.debug("the choice of a replica is not known", exc_info=True)
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
        elif exchange in self._asked:  # this is another deployment's part in it
            return
        exchange.routing.policy = type(router).__name__
        exchange.routing.candidates = len(router.curr_replicas)
        carrier: dict[str, str] = {}
        if exchange.routed(chosen_replica(router, replica), carrier, retry=retry) is not None:
            metadata.tracing_context = {**carrier, _FOLLOWED: "1"}

    def _updating(self, router: Any, method: Any) -> Any:
        events = ReplicaEvents()

        def updated() -> None:
            tracker = self.tracker
            if tracker is None:
                return
            changes = events.since(router.curr_replicas.values())
            for event in changes:
                tracker.extract_endpoint(event)
            # Not whenever some replica has new routing stats.
            if changes and getattr(router, "_handle_source", None) == "PROXY":
                self._applications.look_up(router.app_name)

        @wraps(method)
        def update(*args: Any, **kwargs: Any) -> Any:
            result = method(*args, **kwargs)
            try:
                updated()
            except Exception:
                _logger.debug("the replicas are not known", exc_info=True)
            return result

        updated()
        return update

    def _serve(
        self, wrapped: Any, _callable: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """`call_http_entrypoint(request_metadata, callback, scope, receive)`: batches of ASGI."""
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
        """`_wrap_request(request_metadata, ...)`: what a replica does, it does for our span."""
        if self.tracker is not None and args:
            followed = _tracing_context(args[0])
            if _FOLLOWED in followed:
                # Each call of a replica is a task with a context of its own, which ends with it.
                context.attach(propagate.extract(followed))
        return wrapped(*args, **kwargs)

    def _ending(
        self, wrapped: Any, _replica: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """`shutdown()`, a coroutine: what the controller waits for before it kills the process.

        A proxy is killed too, and has nothing that could be wrapped: its class is an actor's, and
        goes to its process by value.
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
    """Ray's own `receive` is more than a function."""

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
    return getattr(metadata, "tracing_context", None) or {}  # no field of older ones


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
    # The error of another replica, which the replica passes on, is of both types.
    return isinstance(error, exceptions.RayActorError) and not isinstance(
        error, exceptions.RayTaskError
    )
