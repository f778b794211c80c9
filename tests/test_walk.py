"""Counting file changes follows a request from the router to its line in the file."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from otel_lifecycle import RequestLifecycleTracker
from scripts.walk import through_the_handle, through_the_hooks, walk


@pytest.mark.parametrize(
    "request_of",
    [through_the_hooks, through_the_handle],
)
def test_the_whole_walk_is_counted(
    request_of: Callable[[RequestLifecycleTracker], None],
) -> None:
    """It starts at the router, passes store, span and metrics, and ends in the record file."""
    steps = walk(request_of)

    assert ("the router", "tracking/tracker") in steps
    assert {entered for _, entered in steps} >= {
        "tracking/store",
        "telemetry/live_span",
        "telemetry/metrics",
        "records/segment",
    }
    assert all(left != entered for left, entered in steps)
