"""A signal handler closes the tracker at any moment of its work."""

from __future__ import annotations

from otel_lifecycle import Load, Outcome, RequestLifecycleTracker, TrackerConfig
from tests.conftest import Bench
from tests.routes import disaggregated, start
from tests.tracking.interruption import interrupt


def serve(tracker: RequestLifecycleTracker) -> None:
    """A request that changes the load in every possible way."""
    with tracker.track(start(route=disaggregated())) as tracked:
        tracked.chunk()
        tracked.reroute(disaggregated(), reason="retry")
        tracked.complete(output_tokens=3)


def test_closed_in_the_middle(bench: Bench) -> None:
    """The request ends once, and gives back exactly the load it added."""
    store = bench.tracker.store
    moment = 0
    interrupted = True
    while interrupted:
        moment += 1
        ended = len(bench.telemetry.spans)
        tracker = RequestLifecycleTracker(
            TrackerConfig(store_name=store.name), bench.telemetry.tracer_provider
        )
        interrupted = interrupt(
            lambda: serve(tracker),  # noqa: B023 - called at once
            moment,
            tracker.close,
            "/store.py",
        )
        tracker.close()

        spans = bench.telemetry.spans[ended:]
        outcomes = [(span.attributes or {})["llm_router.outcome"] for span in spans]
        assert outcomes in ([Outcome.COMPLETED.value], [Outcome.SHUTDOWN.value]), moment
        assert store.active_requests == 0
        assert set(store.loads().values()) == {Load()}, moment

    assert moment > 30
