"""Instruments any ASGI router that calls its engines through aiohttp or httpx."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from otel_lifecycle.instrumentation.asgi import (
    flush_on_shutdown,
    observe,
    observed_operation,
)
from otel_lifecycle.instrumentation.base import RouterInstrumentor, Wrapper
from otel_lifecycle.instrumentation.clients import observe_aiohttp, observe_httpx


class GenericRouterInstrumentor(RouterInstrumentor):
    """Follows OpenAI-style requests through a router that nothing else here knows.

    It sees outcome, first chunk, end, usage, endpoints, retries and both legs of a PD route. What
    only the router knows (candidates, scores, predictions, engine state) stays unknown.
    """

    def wrappers(self) -> Mapping[str, Mapping[str, Wrapper]]:
        """Starlette's and FastAPI's routing, below any server span, and the two clients."""
        return {
            "starlette.routing": {"Router.__call__": self._serve},
            "aiohttp.client": {"ClientSession._request": self._through(observe_aiohttp)},
            "httpx": {"AsyncClient.send": self._through(observe_httpx)},
        }

    def _serve(
        self, wrapped: Any, _router: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        tracker = self.tracker
        if tracker is None or len(args) != 3:
            return wrapped(*args, **kwargs)
        if isinstance(args[0], dict) and args[0].get("type") == "lifespan":  # pyright: ignore[reportUnknownMemberType]
            return flush_on_shutdown(tracker, wrapped, *args)
        operation = observed_operation(args[0])
        if operation is None:
            return wrapped(*args, **kwargs)
        return observe(tracker, operation, wrapped, *args)

    def _through(self, observe_call: Wrapper) -> Wrapper:
        def wrapper(
            wrapped: Any, client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> Any:
            if self.tracker is None:
                return wrapped(*args, **kwargs)
            return observe_call(wrapped, client, args, kwargs)

        return wrapper
