"""Signal handlers that close the tracker or raise, whatever it is doing at that moment."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from otel_lifecycle import Load, Outcome, RequestLifecycleTracker, TrackerConfig
from tests.conftest import Bench
from tests.routes import disaggregated, start


def interrupt(
    call: Callable[[], Any], moment: int, handler: Callable[[], None], where: str
) -> bool:
    """Calls the handler at the given moment of the call; False when it has fewer.

    The moments are those at which the interpreter runs signal handlers while it is in a file whose
    path has `where` in it: when a function of Python begins, and when one of C returns.
    """
    passed = 0

    def profile(frame: FrameType, event: str, _: Any) -> None:
        nonlocal passed
        if event in ("call", "c_return") and where in frame.f_code.co_filename:
            passed += 1
            if passed == moment:
                sys.setprofile(None)
                handler()

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        call()
    finally:
        sys.setprofile(before)
    return passed >= moment


def serve(tracker: RequestLifecycleTracker) -> None:
    """A request that does everything a request can do to the load."""
    with tracker.track(start(route=disaggregated())) as tracked:
        tracked.chunk()
        tracked.reroute(disaggregated(), reason="retry")
        tracked.complete(output_tokens=3)


def test_closed_in_the_middle(bench: Bench) -> None:
    """The request ends once, and gives back exactly what it charged."""
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


@pytest.mark.parametrize("where", ["/otel_lifecycle/", "/"])
def test_raised_in_the_middle(bench: Bench, where: str) -> None:
    """It passes, and what it broke off is there once: request, span, record, and no load.

    In the middle of the SDK's `Span.end` it costs the span: the SDK takes no second call.
    """

    def control_c() -> None:
        raise KeyboardInterrupt

    def serve_one() -> None:
        with bench.tracker.track(start(request_id, route)) as tracked:
            dispatched.append(request_id)
            tracked.chunk()
            tracked.complete(output_tokens=3)

    store = bench.tracker.store
    route = disaggregated()
    dispatched: list[str] = []
    moment, request_id = 0, "the first, after which all take the same steps"
    serve_one()
    interrupted = True
    while interrupted:
        moment += 1
        request_id = f"request-{moment}"
        try:
            interrupted = interrupt(serve_one, moment, control_c, where)
        except KeyboardInterrupt:
            pass
        else:
            assert not interrupted, f"swallowed at moment {moment}"
        bench.tracker.flush()
        assert store.active_requests == 0, moment
        assert set(store.loads().values()) <= {Load()}, moment

    assert moment > 200
    records = [record.request_id for record in bench.records]
    spans = [(span.attributes or {})["llm_router.request.id"] for span in bench.telemetry.spans]
    assert len(set(records)) == len(records)
    assert len(set(spans)) == len(spans)
    assert set(dispatched) <= set(records)
    counted = sum(bench.telemetry.metrics()["llm_router.requests"].values())
    assert len(records) - 10 < counted <= len(records)
    if where == "/":
        assert len(set(dispatched) - set(spans)) < 30
    else:
        assert set(dispatched) <= set(spans)
