"""A signal handler that closes the tracker, whatever the tracker is doing at that moment."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from otel_lifecycle import (
    Load,
    Outcome,
    RequestLifecycleTracker,
    TrackedRequest,
    TrackerConfig,
)
from tests.conftest import Bench
from tests.routes import disaggregated, start


def interrupt(call: Callable[[], Any], moment: int, handler: Callable[[], None]) -> bool:
    """Calls the handler at the given moment of the call; False when it has fewer.

    The moments are those at which the interpreter runs signal handlers while it is in the store:
    when a function of Python begins, and when one of C returns.
    """
    passed = 0

    def profile(frame: FrameType, event: str, _: Any) -> None:
        nonlocal passed
        if event in ("call", "c_return") and frame.f_code.co_filename.endswith("store.py"):
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
        interrupted = interrupt(lambda: serve(tracker), moment, tracker.close)  # noqa: B023 - called at once
        tracker.close()

        spans = bench.telemetry.spans[ended:]
        outcomes = [(span.attributes or {})["llm_router.outcome"] for span in spans]
        assert outcomes in ([Outcome.COMPLETED.value], [Outcome.SHUTDOWN.value]), moment
        assert store.active_requests == 0
        assert set(store.loads().values()) == {Load()}, moment

    assert moment > 30


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_raised_before_the_handle_was_made() -> None:
    """A handle whose constructor never ran is collected without a word."""
    handle = TrackedRequest.__new__(TrackedRequest)

    assert handle is not None
    del handle
