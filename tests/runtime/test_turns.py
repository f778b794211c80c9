"""Turns: our threads let the router's run in between."""

from __future__ import annotations

import threading

import pytest

from otel_lifecycle.runtime import turns
from otel_lifecycle.runtime.background import Background
from otel_lifecycle.runtime.turns import Turn
from tests.turns import TurnClock
from tests.waiting import PATIENCE_SECONDS


def test_a_turn_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is over after a fraction of a millisecond, and begins anew after a pause."""
    now = 5.0

    class Clock:
        monotonic = staticmethod(lambda: now)
        sleep = staticmethod(lambda seconds: None)

    monkeypatch.setattr(turns, "time", Clock)
    turn, was_over = Turn(), []
    for seconds in (0.0001, 0.001):
        now = 5.0 + seconds
        was_over.append(turn.is_over)
    turn.give_way()

    assert (*was_over, turn.is_over) == (False, True, False)


@pytest.mark.parametrize(
    ("is_over", "jobs", "pauses"),
    [(False, 20, 0), (True, 20, 19), (True, 300, 255)],
    ids=["within one turn", "a turn each job", "too many wait at first"],
)
def test_background(monkeypatch: pytest.MonkeyPatch, is_over: bool, jobs: int, pauses: int) -> None:
    """Background jobs pause in between, unless too many wait."""
    clock = TurnClock(monkeypatch, is_over)
    background = Background()
    queued, done = threading.Event(), threading.Event()

    def begin(name: str) -> None:
        threading.current_thread().name = name
        queued.wait(PATIENCE_SECONDS)

    background.submit(begin, "ours")
    for _ in range(jobs - 2):
        background.submit(lambda _: None, None)
    background.submit(lambda _: done.set(), None)
    queued.set()

    assert done.wait(PATIENCE_SECONDS)
    assert clock.pauses["ours"] == pauses
    background.close(PATIENCE_SECONDS)
