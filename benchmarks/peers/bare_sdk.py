"""The SDK alone: a span with the content of ours of 40 attributes, prepared in advance."""

from __future__ import annotations

from collections.abc import Callable

from opentelemetry.trace import Tracer

from benchmarks.peers.peer import Bench, Chunks, Peer, stream
from benchmarks.requests import FORTY_ATTRIBUTES, Told, told

DISTRIBUTION = "opentelemetry-sdk"


def saying(tracer: Tracer, said: Told) -> Callable[[int], None]:
    """Wrap an answer in such a span."""

    def serve(_: int) -> None:
        span = tracer.start_span("route", attributes=said.first)
        for _chunk in Chunks():
            pass
        span.set_attributes(said.rest)
        for name, _at_ns, attributes in said.events:
            span.add_event(name, attributes)
        span.end()

    return serve


def _open_peer(bench: Bench) -> Peer:
    _, said = told(bench.folder, FORTY_ATTRIBUTES)
    serve = saying(bench.tracer_provider().get_tracer("bare"), said)
    return Peer("bare SDK span, 40 attributes", serve, stream)


OPENERS = (_open_peer,)
