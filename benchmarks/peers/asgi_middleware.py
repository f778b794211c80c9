"""OpenTelemetry's ASGI middleware around a streamed response."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Literal

from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware

from benchmarks.peers.peer import Bench, Chunks, Peer

DISTRIBUTION = "opentelemetry-instrumentation-asgi"

_SCOPE = {
    "type": "http",
    "asgi": {"version": "3.0"},
    "http_version": "1.1",
    "method": "POST",
    "scheme": "http",
    "path": "/v1/chat/completions",
    "raw_path": b"/v1/chat/completions",
    "query_string": b"",
    "headers": [(b"host", b"router"), (b"content-length", b"120")],
    "client": ("10.0.0.1", 40_000),
    "server": ("10.0.0.2", 80),
}
_Message = dict[str, Any]
_Send = Callable[[_Message], Awaitable[None]]


async def _router(_: object, receive: Callable[[], Awaitable[_Message]], send: _Send) -> None:
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _chunk in Chunks():
        await send({"type": "http.response.body", "body": b"data: {}\n\n", "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _receive() -> _Message:
    return {"type": "http.request", "body": b"{}", "more_body": False}


async def _send(_: _Message) -> None:
    return


def _run(work: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine that never waits, without an event loop to measure."""
    try:
        work.send(None)
    except StopIteration:
        return
    raise RuntimeError("the application waited")


def _opener(name: str, exclude: list[Literal["receive", "send"]]) -> Callable[[Bench], Peer]:
    def open_peer(bench: Bench) -> Peer:
        app = OpenTelemetryMiddleware(
            _router,
            tracer_provider=bench.tracer_provider(),
            meter_provider=bench.meter_provider,
            exclude_spans=exclude,
        )
        return Peer(
            name,
            lambda _: _run(app(dict(_SCOPE), _receive, _send)),
            lambda _: _run(_router(_SCOPE, _receive, _send)),
        )

    return open_peer


OPENERS = (
    _opener("ASGI middleware", []),
    _opener("ASGI middleware, exclude_spans", ["receive", "send"]),
)
