"""What a server and a routing below it have to tell each other."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.types import Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from otel_lifecycle.instrumentation.http.asgi import sends_directly


class Compressing(Starlette):
    """An application that may change what it sends."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves."""
        await super().__call__(scope, receive, send)


GZIP = [Middleware(GZipMiddleware)]


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (Starlette, True),
        (FastAPI, True),
        (lambda: Starlette(middleware=GZIP), False),
        (lambda: FastAPI(middleware=GZIP), False),
        (Compressing, False),
    ],
    ids=["Starlette", "FastAPI", "Starlette with middleware", "FastAPI with middleware", "other"],
)
def test_direct(make: Any, expected: bool) -> None:
    """Messages that anything may change on their way are told once more where they come from."""
    application = make()
    application.middleware_stack = application.build_middleware_stack()

    assert sends_directly(ProxyHeadersMiddleware(application), application.router) is expected
    assert not sends_directly(GZipMiddleware(application), application.router)
    assert not sends_directly(application, None)
    assert not sends_directly(application, FastAPI().router)


def test_before_the_first_request() -> None:
    """An application that has not built its middleware is one whose messages may change."""
    application = Starlette()

    assert not sends_directly(application, application.router)
