"""vLLM production-stack's tracing: the calls its router makes to the SDK for one request.

Its router is not on PyPI and needs vLLM's dependencies; the cost is in these calls.
"""

from __future__ import annotations

from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Tracer

from benchmarks.peers.peer import Bench, Chunks, Peer, stream
from benchmarks.requests import MODEL

DISTRIBUTION = None

_ENGINE = "http://10.0.0.7:8000"
_TARGET = "/v1/chat/completions"


def _open_span(
    tracer: Tracer, name: str, parent: Context, kind: SpanKind, attributes: dict[str, str]
) -> tuple[Span, Context]:
    span = tracer.start_span(name, context=parent, kind=kind)
    for key, value in attributes.items():
        span.set_attribute(key, value)
    return span, trace.set_span_in_context(span, parent)


def _open_peer(bench: Bench) -> Peer:
    tracer = bench.tracer_provider().get_tracer("vllm-router")

    def serve(number: int) -> None:
        request_id = f"request-{number}"
        caller = propagate.extract({"host": "router", "content-type": "application/json"})
        server, context = _open_span(
            tracer,
            f"router {_TARGET}",
            caller,
            SpanKind.SERVER,
            {
                "http.method": "POST",
                "http.url": f"http://router{_TARGET}",
                "http.target": _TARGET,
                "vllm.request_id": request_id,
            },
        )
        server.set_attribute("vllm.model", MODEL)
        server.set_attribute("vllm.backend_url", _ENGINE)
        server.set_attribute("vllm.routing_logic", "PrefixAwareRouter")
        client, context = _open_span(
            tracer,
            "process_request",
            context,
            SpanKind.CLIENT,
            {
                "http.method": "POST",
                "http.url": _ENGINE + _TARGET,
                "vllm.backend_url": _ENGINE,
                "vllm.request_id": request_id,
            },
        )
        client.set_attribute("vllm.is_streaming", True)
        propagate.inject({}, context=context)
        client.set_attribute("http.status_code", 200)
        for _chunk in Chunks():
            pass
        client.end()
        server.set_attribute("http.status_code", 200)
        server.end()

    return Peer("production-stack's tracing", serve, stream)


OPENERS = (_open_peer,)
