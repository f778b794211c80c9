"""Requests through the generic router, each with its expected trace and record."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from opentelemetry.proto.trace.v1.trace_pb2 import Span

from otel_lifecycle import LifecycleRecord
from tests.examples.cluster import Server
from tests.instrumentation.instrumented_process import closed_port
from tests.ports import free_port
from tests.routers.scripted_engine import GIGANTIC, ScriptedEngine
from tests.routers.traced_router import Finished, Parent, TracedRouter, new_parent

# A span or a call, and what is below it.
Tree: TypeAlias = "tuple[str, list[Tree]]"
Engines: TypeAlias = "list[tuple[ScriptedEngine, Server]]"

OURS = "otel_lifecycle"
CONTRIB = "opentelemetry.instrumentation"
CLIENT_SCOPES = {"httpx": f"{CONTRIB}.httpx", "aiohttp": f"{CONTRIB}.aiohttp_client"}
UPSTREAMS = ["httpx", "aiohttp"]


class Layers(NamedTuple):
    """The other instrumentations of the router.

    Attributes:
        options: Options of the router.
        server: Scope of the server's span; empty if there is none.
        clients: Whether the client library is instrumented.
        disabled: Contrib's disabled instrumentations.
    """

    options: tuple[str, ...]
    server: str
    clients: bool
    disabled: str


class Scenario(NamedTuple):
    """One request, and how it ends.

    Attributes:
        body: Fields of its body.
        status: Status of the client's answer.
        is_whole: Whether the answer is complete.
        outcome: Outcome in the record.
        error: Error type in the record.
        calls: Number of answered calls to engines.
        refused: Number of earlier calls that nobody answered.
        usage: Whether the usage is known.
        first_chunk: Whether the client got a first chunk of a stream.
    """

    body: dict[str, Any]
    status: int = 200
    is_whole: bool = True
    outcome: str = "completed"
    error: str | None = None
    calls: int = 1
    refused: int = 0
    usage: bool = True
    first_chunk: bool = False


def stream(**changes: Any) -> Scenario:
    """A stream; `does` and `model` are in its body, the rest says how it ends."""
    return whole(**{"stream": True, "first_chunk": True, **changes})


def whole(**changes: Any) -> Scenario:
    """An answer in one piece."""
    fields = {name: changes.pop(name) for name in ("does", "model", "stream") if name in changes}
    return Scenario({"model": "m", "prompt": "hello", "max_tokens": 8, **fields}, **changes)


UNANSWERED = {"outcome": "error", "usage": False, "first_chunk": False}
SCENARIOS = {
    "stream": stream(),
    "whole": whole(),
    "stream, prefill and decode": stream(model="pd", calls=2),
    "whole, prefill and decode": whole(model="pd", calls=2),
    "stream after a refused connection": stream(model="failover", refused=1),
    "whole after a refused connection": whole(model="failover", refused=1),
    "all connections refused": whole(
        model="refused", status=503, error="http_503", calls=0, refused=2, **UNANSWERED
    ),
    "stream of an engine with 500": stream(
        does="http_500", status=500, error="http_500", **UNANSWERED
    ),
    "engine with 500": whole(does="http_500", status=500, error="http_500", **UNANSWERED),
    "stream of an engine with 429": stream(
        does="http_429", status=429, error="http_429", **UNANSWERED
    ),
    "engine with 429": whole(does="http_429", status=429, error="http_429", **UNANSWERED),
    "hanging engine": whole(does="hang", status=504, error="http_504", **UNANSWERED),
    "dropped stream": stream(does="drop", is_whole=False, outcome="error", usage=False),
    "truncated stream": stream(
        does="truncate", outcome="error", error="stream_truncated", usage=False
    ),
    "truncated answer": whole(
        does="truncate", outcome="error", error="response_truncated", usage=False
    ),
    "slow stream": stream(does="slow"),
    "broken events": stream(does="broken", usage=False, first_chunk=False),
    "events in no encoding": stream(does="binary", usage=False, first_chunk=False),
    "gigantic event": stream(does="gigantic", usage=False, first_chunk=False),
    "gigantic answer": whole(does="gigantic"),
    "gigantic request": whole(model="x" * GIGANTIC),
    "stream without usage": stream(does="no_usage", usage=False),
    "answer without usage": whole(does="no_usage", usage=False),
    "handler that raises": whole(
        model="raise",
        status=500,
        error="RuntimeError",
        calls=0,
        **{**UNANSWERED, "outcome": "rejected"},
    ),
}
LEFT = stream(does="endless", outcome="client_disconnect", usage=False)
NOT_JSON = Scenario({}, status=400, outcome="rejected", error="http_400", calls=0, usage=False)


def start(
    engines: Engines,
    folder: Path,
    upstream: str,
    layers: Layers,
    **options: Any,
) -> TracedRouter:
    """Start a router in front of the engines."""
    port = free_port()
    arguments = [
        *("-m", "tests.routers.generic_router", str(port)),
        *(server.url for _, server in engines),
        *("--nowhere", closed_port(), "--upstream", upstream, *layers.options),
    ]
    environment = {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": layers.disabled}

    def heard(content: bytes) -> None:
        for engine, _ in engines:
            engine.heard = content

    return TracedRouter(arguments, port, folder, environment=environment, heard=heard, **options)


def check_traces(
    engines: Engines, folder: Path, upstream: str, layers: Layers, left_out: Collection[str] = ()
) -> None:
    """Send one request of each kind: each gives one complete trace and one record."""
    requests = {name: wanted for name, wanted in SCENARIOS.items() if name not in left_out}
    parents = {name: new_parent() for name in [*requests, "client that leaves", "not JSON"]}
    with start(engines, folder, upstream, layers) as router:
        for name, wanted in requests.items():
            reply = router.post(wanted.body, parents[name].headers)
            assert (name, reply.status, reply.is_whole) == (name, wanted.status, wanted.is_whole)
        router.post_and_leave(LEFT.body, parents["client that leaves"].headers)
        assert router.post(b"\xff{", parents["not JSON"].headers).status == 400
        finished = router.stop()

    requests |= {"client that leaves": LEFT, "not JSON": NOT_JSON}
    for name, parent in parents.items():
        seen = (tree(parent, finished, engines), ending(finished.records.pop(parent.trace_id)))
        wanted = requests[name]
        assert (name, *seen) == (
            name,
            expected_tree(wanted, layers, upstream),
            expected_ending(wanted, upstream),
        )
    assert (finished.records, finished.in_flight | {0}) == ({}, {0})


def tree(parent: Parent, finished: Finished, engines: Engines) -> list[Tree]:
    """The trace below the client's span; a span that was not exported would cut off a branch.

    Spans of single messages and steps, from contrib's ASGI middleware and FastAPI, are left out.
    """
    spans = finished.traces[parent.trace_id]
    calls = [
        span
        for engine, _ in engines
        for trace, span in engine.called_by
        if trace == parent.trace_id
    ]
    above = {span.span_id.hex(): span.parent_span_id.hex() for _, span in spans}
    left_out = {span.span_id.hex() for scope, span in spans if _is_detail(scope, span)}

    def below(span_id: str) -> list[Tree]:
        found: list[Tree] = [("engine", [])] * calls.count(span_id)
        for scope, span in spans:
            own = span.span_id.hex()
            nearest = above[own]
            while nearest in left_out:
                nearest = above[nearest]
            if own not in left_out and nearest == span_id:
                kind = Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_")
                found.append((f"{scope} {kind}", below(own)))
        return found

    return below(parent.span_id)


def _is_detail(scope: str, span: Span) -> bool:
    return scope != OURS and Span.SpanKind.Name(span.kind) == "SPAN_KIND_INTERNAL"


def expected_tree(wanted: Scenario, layers: Layers, upstream: str) -> list[Tree]:
    """The server's span if there is one, ours, the calls' if there are any, and the engines'."""
    calls: list[Tree] = [("engine", [])] * wanted.calls
    if layers.clients:
        scope = f"{CLIENT_SCOPES[upstream]} CLIENT"
        calls = [(scope, [])] * wanted.refused + [(scope, [call]) for call in calls]
    if layers.server:
        return [(f"{layers.server} SERVER", [(f"{OURS} INTERNAL", calls)])]
    return [(f"{OURS} SERVER", calls)]


def ending(record: LifecycleRecord) -> dict[str, Any]:
    """Return how a request ended, according to its record."""
    return {
        "outcome": record.outcome.value,
        "error": record.error and record.error.type,
        "usage": (record.output_length, record.cached_tokens),
        "first chunk": record.actual.ttft_ms is not None,
        "prefilled": record.actual.prefill_ms is not None,
        "attempt": record.attempt,
        "endpoints": len(record.tracked_endpoints),
    }


def expected_ending(wanted: Scenario, upstream: str) -> dict[str, Any]:
    """Return how a request should end."""
    error = wanted.error
    if wanted.outcome == "error" and error is None:
        error = {
            "httpx": "httpx.RemoteProtocolError",
            "aiohttp": "aiohttp.client_exceptions.ClientPayloadError",
        }[upstream]
    is_pair = wanted.body.get("model") == "pd"
    return {
        "outcome": wanted.outcome,
        "error": error,
        "usage": (7, 3) if wanted.usage else (None, None),
        "first chunk": wanted.first_chunk,
        "prefilled": is_pair,
        "attempt": max(1, wanted.refused + (not is_pair and wanted.calls)),
        "endpoints": 2 if is_pair else int(wanted.calls + wanted.refused > 0),
    }
