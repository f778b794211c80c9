"""Means with confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean, stdev

import msgspec

CONFIDENCE = 0.95


class Estimate(msgspec.Struct, frozen=True):
    """A value and the interval that contains the true one, with 95 % confidence.

    Attributes:
        value: The best estimate; None if there are only bounds.
        low: Lower end of the interval; None if there is no interval.
        high: Upper end of the interval; None if there is no interval.
    """

    value: float | None
    low: float | None = None
    high: float | None = None


def mean(values: Sequence[float]) -> Estimate:
    """Return the mean of independent runs, with the interval of Student's t; one has no interval.

    Args:
        values: At least one.
    """
    middle = fmean(values)
    if len(values) < 2:
        return Estimate(middle)
    half = student_t(len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return Estimate(middle, middle - half, middle + half)


def ratio(pairs: Sequence[tuple[float, float]], batches: int) -> Estimate | None:
    """Return the sum of the first numbers by that of the second, with an interval.

    The interval comes from leaving out one batch of consecutive pairs at a time (the jackknife), so
    that neighbours may depend on each other.

    Args:
        pairs: In order of time.
        batches: Number of batches; with fewer pairs there is no interval.

    Returns:
        None if the second numbers add up to 0.
    """
    whole = _quotient(pairs)
    if whole is None or len(pairs) < batches:
        return None if whole is None else Estimate(whole)
    sums = [
        [math.fsum(column) for column in zip(*pairs[start:end], strict=True)]
        for start, end in _edges(len(pairs), batches)
    ]
    top, bottom = (math.fsum(column) for column in zip(*sums, strict=True))
    without = [(top - a) / (bottom - b) for a, b in sums if bottom - b]
    if len(without) < 2:
        return Estimate(whole)
    middle = fmean(without)
    variance = (len(without) - 1) / len(without) * math.fsum((x - middle) ** 2 for x in without)
    half = student_t(len(without) - 1) * math.sqrt(variance)
    return Estimate(whole, whole - half, whole + half)


def _quotient(pairs: Sequence[tuple[float, float]]) -> float | None:
    bottom = math.fsum(pair[1] for pair in pairs)
    return math.fsum(pair[0] for pair in pairs) / bottom if bottom else None


def _edges(length: int, batches: int) -> list[tuple[int, int]]:
    ends = [round(length * number / batches) for number in range(batches + 1)]
    return list(pairwise(ends))


def student_t(freedom: int) -> float:
    """Return the t that Student's distribution stays within, in both directions, with confidence.

    Args:
        freedom: Degrees of freedom, at least 1.
    """
    low, high = 0.0, 1e3
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if _within(middle, freedom) > CONFIDENCE else (middle, high)
    return high


def _within(t: float, freedom: int) -> float:
    """The probability of a value from -t to t (Abramowitz and Stegun, 26.7.3 and 26.7.4)."""
    angle = math.atan(t / math.sqrt(freedom))
    odd = freedom % 2
    term = math.cos(angle) if odd else 1.0
    total = 0.0 if freedom == 1 else term
    for step in range(2 + odd, freedom - 1, 2):
        term *= (step - 1) / step * math.cos(angle) ** 2
        total += term
    total *= math.sin(angle)
    return 2 / math.pi * (angle + total) if odd else total
