"""Hundreds of targets at once, good and bad ones."""

from __future__ import annotations

import logging

import pytest

from benchmarks.collection import BAD, measure

pytestmark = pytest.mark.slow


def test_many_targets(caplog: pytest.LogCaptureFixture) -> None:
    """Bad targets neither delay the good ones nor fill the memory."""
    caplog.set_level(logging.CRITICAL)
    # A busy machine takes longer than a second for some.
    measured = measure(engines=200, bad_of_each=5, seconds=5, timeout=20)

    bad = 5 * len(BAD)
    up = measured.states.pop(("engine", "up"))
    assert (up, measured.with_metrics, measured.states.total()) == (200, 200, bad)
    # 32 scrapes of 4 MiB, twice: as received and as decoded.
    assert measured.memory_mb < 32 * 4 * 2
