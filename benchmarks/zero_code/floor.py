"""The lean router with the least that tracing can do: one SDK span a request, without content."""

from __future__ import annotations

from typing import Any

from opentelemetry import trace
from starlette.types import ASGIApp, Receive, Scope, Send

from tests.routers import generic_router


class OneSpan:
    """An ASGI middleware."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._tracer = trace.get_tracer("floor")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        span = self._tracer.start_span("route")
        try:
            await self._app(scope, receive, send)
        finally:
            span.end()


def make(router: Any) -> OneSpan:
    """Served by Starlette."""
    return OneSpan(generic_router.make_starlette(router))


if __name__ == "__main__":
    generic_router.FRAMEWORKS["starlette"] = make
    generic_router.main()
