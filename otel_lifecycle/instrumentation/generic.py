"""Instruments any ASGI router that calls its engines through aiohttp or httpx."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import wrapt

from otel_lifecycle.instrumentation.base import RouterInstrumentor, Wrapper
from otel_lifecycle.instrumentation.http.aiohttp_web import follow_aiohttp, observe_body
from otel_lifecycle.instrumentation.http.asgi import flush, follow
from otel_lifecycle.instrumentation.http.clients import (
    observe_aiohttp,
    observe_httpx,
    observe_httpx_blocking,
)
from otel_lifecycle.instrumentation.http.urllib3_client import observe_submit, observe_urllib3
from otel_lifecycle.runtime.logs import get_logger

_logger = get_logger(__name__)

_HTTPX: Mapping[str, Wrapper] = {
    "AsyncClient.send": observe_httpx,
    "Client.send": observe_httpx_blocking,
}
_CLIENTS: Mapping[str, Mapping[str, Wrapper]] = {
    "aiohttp.client": {"ClientSession._request": observe_aiohttp},
    "httpx": _HTTPX,
    "httpx2": _HTTPX,
    "urllib3.connectionpool": {"HTTPConnectionPool.urlopen": observe_urllib3},
    "concurrent.futures.thread": {"ThreadPoolExecutor.submit": observe_submit},
}


class GenericRouterInstrumentor(RouterInstrumentor):
    """Follows OpenAI-style requests through a router that nothing else here knows.

    It sees outcome, first chunk, end, usage, endpoints, retries and both legs of a PD route. What
    only the router knows (candidates, scores, predictions, engine state) stays unknown.
    """

    def wrappers(self) -> Mapping[str, Mapping[str, Wrapper]]:
        """Routing, servers and clients.

        Starlette's and FastAPI's routing is below any server span; the servers are for all other
        applications; the clients only look for a request that is followed.
        """
        return {
            "starlette.routing": {"Router.__call__": self._route},
            "uvicorn.config": {"Config.load": self._serving("loaded_app")},
            "uvicorn.server": {"Server.shutdown": self._shut_down},
            "aiohttp.web_protocol": {"RequestHandler._handle_request": self._serve_aiohttp},
            "aiohttp.web_request": {"BaseRequest.read": observe_body},
            "hypercorn.app_wrappers": {"ASGIWrapper.__init__": self._serving("app")},
            **_CLIENTS,
        }

    def needs_tracker(self, module: str) -> bool:
        """Where requests come in; any program may have a client."""
        return module not in (*_CLIENTS, "aiohttp.web_request")

    def _serving(self, attribute: str) -> Wrapper:
        """Observes an application, once its server has it in this attribute."""

        def wrapper(
            wrapped: Any, server: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> Any:
            result = wrapped(*args, **kwargs)
            try:
                # uvicorn serves WSGI through a thread, where no client is observed.
                if self.tracker is not None and getattr(server, "interface", "") != "wsgi":
                    application = getattr(server, attribute)
                    setattr(server, attribute, wrapt.FunctionWrapper(application, self.serve))
            except Exception:
                _logger.debug("the application is not observed", exc_info=True)
            return result

        return wrapper

    def serve(self, wrapped: Any, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Wraps an ASGI application."""
        if self.tracker is None or len(args) != 3:
            return wrapped(*args, **kwargs)
        return follow(self.tracker, wrapped, *args)

    def _route(
        self, wrapped: Any, routing: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if self.tracker is None or len(args) != 3:
            return wrapped(*args, **kwargs)
        return follow(self.tracker, wrapped, *args, routing)

    def _serve_aiohttp(
        self, wrapped: Any, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if self.tracker is None:
            return wrapped(*args, **kwargs)
        return follow_aiohttp(self.tracker, wrapped, args, kwargs)

    async def _shut_down(
        self, wrapped: Any, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Writes what is queued when uvicorn has served its last request.

        uvicorn ends a process by the signal it got, and Python then runs no exit handlers: this is
        the last chance for records, and for the spans and metrics of the global providers.
        """
        try:
            return await wrapped(*args, **kwargs)
        finally:
            if self.tracker is not None:
                await flush(self.tracker)
