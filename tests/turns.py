"""A clock by which turns are over at once, or never."""

from __future__ import annotations

import threading
from collections import Counter

import pytest


class TurnClock:
    """Stands for `time` where turns are measured.

    Args:
        monkeypatch: Puts it there.
        is_over: Whether each turn is over at once.

    Attributes:
        pauses: How often the threads of each name have let others run.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, is_over: bool) -> None:
        self.pauses: Counter[str] = Counter()
        self._step = 1.0 if is_over else 0.0
        self._now = 0.0
        monkeypatch.setattr("otel_lifecycle.runtime.turns.time", self)

    def monotonic(self) -> float:
        """Each look puts it forward."""
        self._now += self._step
        return self._now

    def sleep(self, seconds: float) -> None:
        """Count a pause."""
        assert seconds > 0, "a mere yield lets nobody run"
        self.pauses[threading.current_thread().name] += 1
