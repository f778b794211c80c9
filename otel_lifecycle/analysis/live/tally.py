"""Counts and quantiles of requests, which can be added up and taken away again."""

from __future__ import annotations

import math
from collections import Counter

from otel_lifecycle.model import Outcome
from otel_lifecycle.model.record import LifecycleRecord

REQUESTS, RESENT = "requests", "resent"
INPUT, OUTPUT = "input", "output"
CACHED, CACHED_OF = "cached", "cached_of"
EXPECTED, EXPECTED_OF = "expected", "expected_of"

# Values within 2 % of each other are not told apart: they are at most 1 % from the one shown.
_GROWTH = math.log(1.02)
_SMALLEST, _LARGEST = 1e-6, 1e12


class Distribution:
    """Numbers from 0, rounded to steps of 2 %: it stays small, however many there are."""

    def __init__(self) -> None:
        self.total = 0
        self._counts: dict[int, int] = {}

    def add(self, step: int) -> None:
        """Take a value into account, as `step_of` returned it."""
        self._counts[step] = self._counts.get(step, 0) + 1
        self.total += 1

    def merge(self, other: Distribution, sign: int = 1) -> None:
        """Add all values of another one, or with the sign -1 take them away."""
        counts = self._counts
        for step, count in other._counts.items():
            left = counts.get(step, 0) + sign * count
            if left:
                counts[step] = left
            else:
                del counts[step]
        self.total += sign * other.total

    def quantile(self, fraction: float) -> float | None:
        """Return the nearest rank; None if there is no value."""
        rank = max(1, math.ceil(fraction * self.total))
        for step in sorted(self._counts):
            rank -= self._counts[step]
            if rank <= 0:
                return math.exp(step * _GROWTH) if step > step_of(0.0) else 0.0
        return None

    def share(self, lowest: float, highest: float) -> float | None:
        """Return the fraction of values between two; None if there is no value."""
        if not self.total:
            return None
        low, high = step_of(lowest), step_of(highest)
        return sum(n for step, n in self._counts.items() if low <= step <= high) / self.total


class Tally:
    """What is counted of some requests.

    Attributes:
        counts: Requests, by outcome too, and tokens.
        ttft_ms: Time to first token of those that completed, from their arrival if known.
        tpot_ms: Time per output token of those that completed.
        ttft_ratio: Predicted divided by actual time to first token.
        tpot_ratio: The same of the time per output token.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.ttft_ms = Distribution()
        self.tpot_ms = Distribution()
        self.ttft_ratio = Distribution()
        self.tpot_ratio = Distribution()

    def add(self, request: Ended, *, ttft: bool, tpot: bool) -> None:
        """Count a request.

        Args:
            request: The request.
            ttft: Whether its time to first token belongs here.
            tpot: Whether its time per output token belongs here.
        """
        counts = self.counts
        for name, number in request.counts:
            counts[name] += number
        if ttft:
            if request.ttft_step is not None:
                self.ttft_ms.add(request.ttft_step)
            if request.ttft_ratio_step is not None:
                self.ttft_ratio.add(request.ttft_ratio_step)
        if tpot:
            if request.tpot_step is not None:
                self.tpot_ms.add(request.tpot_step)
            if request.tpot_ratio_step is not None:
                self.tpot_ratio.add(request.tpot_ratio_step)

    def merge(self, other: Tally, sign: int = 1) -> None:
        """Add all that another one counted, or with the sign -1 take it away."""
        for name, number in other.counts.items():
            self.counts[name] += sign * number
        self.ttft_ms.merge(other.ttft_ms, sign)
        self.tpot_ms.merge(other.tpot_ms, sign)
        self.ttft_ratio.merge(other.ttft_ratio, sign)
        self.tpot_ratio.merge(other.tpot_ratio, sign)

    @property
    def failed(self) -> int:
        """Requests that neither completed nor lost their client."""
        counts = self.counts
        ended_well = counts[Outcome.COMPLETED.value] + counts[Outcome.CLIENT_DISCONNECT.value]
        return counts[REQUESTS] - ended_well

    def ratio(self, part: str, whole: str) -> float | None:
        """Return one count divided by another; None if the latter is 0."""
        return self.counts[part] / self.counts[whole] if self.counts[whole] else None


class Ended:
    """A finished request, as it is counted; it is counted in several tallies.

    Attributes:
        record: Its record.
        counts: What it adds to `Tally.counts`.
        ttft_ms: Time to first token, from its arrival if known; None also if it did not complete.
        ttft_step: The same, rounded.
        tpot_step: Time per output token, rounded; None also if it did not complete.
        ttft_ratio_step: Predicted divided by actual time to first token, rounded.
        tpot_ratio_step: The same of the time per output token.
    """

    __slots__ = (
        "counts",
        "record",
        "tpot_ratio_step",
        "tpot_step",
        "ttft_ms",
        "ttft_ratio_step",
        "ttft_step",
    )

    def __init__(self, record: LifecycleRecord) -> None:
        self.record = record
        actual, predicted = record.actual, record.prediction
        ttft, tpot = actual.ttft_ms, actual.tpot_ms
        completed = record.outcome is Outcome.COMPLETED
        self.ttft_ms = actual.since_arrival(ttft) if completed and ttft is not None else None
        self.ttft_step = None if self.ttft_ms is None else step_of(self.ttft_ms)
        self.tpot_step = step_of(tpot) if completed and tpot is not None else None
        self.ttft_ratio_step = _ratio_step(predicted.ttft_ms, ttft)
        self.tpot_ratio_step = _ratio_step(predicted.tpot_ms, tpot)
        self.counts = _counts(record)


def _counts(record: LifecycleRecord) -> list[tuple[str, int]]:
    counts: list[tuple[str, int]] = [(REQUESTS, 1), (record.outcome.value, 1)]
    if record.rerouted or record.attempt > 1:
        counts.append((RESENT, 1))
    if record.output_length is not None:
        counts.append((OUTPUT, record.output_length))
    length = record.input_token_length
    if length is None:
        return counts
    counts.append((INPUT, length))
    if record.cached_tokens is not None:
        counts += [(CACHED, min(record.cached_tokens, length)), (CACHED_OF, length)]
    if record.prefix_cache_score is not None:
        counts += [(EXPECTED, round(record.prefix_cache_score * length)), (EXPECTED_OF, length)]
    return counts


def step_of(value: float) -> int:
    """Return the step that a value is rounded to."""
    return round(math.log(min(max(value, _SMALLEST), _LARGEST)) / _GROWTH)


def _ratio_step(predicted: float | None, actual: float | None) -> int | None:
    return None if predicted is None or not actual else step_of(predicted / actual)
