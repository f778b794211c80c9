"""otel-lifecycle: span, record, load of the endpoints, prediction and its error."""

from __future__ import annotations

from collections.abc import Callable

from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased, Sampler

from benchmarks.peers.peer import Bench, Chunks, Peer, stream
from benchmarks.requests import (
    AGGREGATED,
    CACHED_TOKENS,
    DISAGGREGATED,
    FORTY_ATTRIBUTES,
    OUTPUT_TOKENS,
    start,
    tracker,
)
from otel_lifecycle import Route

DISTRIBUTION = "otel-lifecycle"


def _opener(name: str, route: Route, sampler: Sampler | None = None) -> Callable[[Bench], Peer]:
    def open_peer(bench: Bench) -> Peer:
        store = f"{bench.folder.name} {name}"
        provider = bench.tracer_provider(sampler, adopted=True)
        lifecycles = tracker(bench.folder, store, provider, bench.meter_provider)

        def serve(number: int) -> None:
            tracked = lifecycles.track(start(f"request-{number}", route))
            for _chunk in Chunks():
                tracked.chunk()
            tracked.complete(OUTPUT_TOKENS, CACHED_TOKENS)

        return Peer(
            name,
            serve,
            stream,
            lifecycles.flush,
            bench.folder / f"{store}.jsonl",
            close=lifecycles.close,
        )

    return open_peer


OPENERS = (
    _opener("ours, 40 attributes", FORTY_ATTRIBUTES),
    _opener("ours, one endpoint and its NPUs", AGGREGATED),
    _opener("ours, prefill and decode", DISAGGREGATED),
    _opener("ours, not sampled, recorded", FORTY_ATTRIBUTES, ParentBased(ALWAYS_OFF)),
)
