"""What the instrumentations share that only add to what the generic layer follows."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, TypeAlias

from otel_lifecycle.instrumentation.base import RouterInstrumentor, Wrapper
from otel_lifecycle.instrumentation.http.current import current_routing
from otel_lifecycle.instrumentation.routing import Routing
from otel_lifecycle.runtime.logs import get_logger

_logger = get_logger(__name__)


class Call(NamedTuple):
    """A call of one of the router's functions, and its result, None before it has one."""

    instance: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: Any = None

    def argument(self, index: int, name: str) -> Any:
        """An argument, passed by position or by name; None when it was not passed."""
        return self.args[index] if index < len(self.args) else self.kwargs.get(name)


Observer: TypeAlias = Callable[[Routing, Call], None]


class EnrichingInstrumentor(RouterInstrumentor):
    """Tells more of requests that `asgi_router` follows; without that one it does nothing.

    So there is one lifecycle a request, whoever contributes to it.
    """

    def needs_tracker(self, module: str) -> bool:
        """Never: that of `asgi_router` tracks the request."""
        return False

    def before(self, observe: Observer) -> Wrapper:
        """Observes the arguments; the call itself is the router's own, whatever its kind."""

        def wrapper(
            wrapped: Callable[..., Any],
            instance: Any,
            args: tuple[Any, ...],
            kwargs: dict[str, Any],
        ) -> Any:
            self._observe(observe, Call(instance, args, kwargs))
            return wrapped(*args, **kwargs)

        return wrapper

    def after(self, observe: Observer) -> Wrapper:
        """Observes the result, or what it gives when it is awaited, if nothing was raised."""

        def wrapper(
            wrapped: Callable[..., Any],
            instance: Any,
            args: tuple[Any, ...],
            kwargs: dict[str, Any],
        ) -> Any:
            result = wrapped(*args, **kwargs)
            if inspect.isawaitable(result):
                return self._awaited(observe, result, Call(instance, args, kwargs))
            self._observe(observe, Call(instance, args, kwargs, result))
            return result

        return wrapper

    async def _awaited(self, observe: Observer, result: Awaitable[Any], call: Call) -> Any:
        value = await result
        self._observe(observe, call._replace(result=value))
        return value

    def _observe(self, observe: Observer, call: Call) -> None:
        routing = current_routing() if self.is_instrumented_by_opentelemetry else None
        if routing is None:
            return
        try:
            observe(routing, call)
        except Exception:
            _logger.debug("a call of the router could not be observed", exc_info=True)
