"""Times variants in turns, so that disturbances of the machine affect all of them alike."""

from __future__ import annotations

import gc
import operator
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

WARM_UPS = 5


@dataclass(frozen=True)
class Spread:
    """Microseconds of CPU per request, over many short rounds."""

    median: float
    minimum: float
    p10: float
    p90: float

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        tenths = statistics.quantiles(values, n=10, method="inclusive")
        return Spread(statistics.median(values), min(values), tenths[0], tenths[-1])


@dataclass(frozen=True)
class Timed:
    """The rounds of one variant.

    Attributes:
        name: Name in the table.
        path_us: CPU of the working thread, by round, microseconds per request.
        all_us: CPU of the whole process, until everything is settled.
    """

    name: str
    path_us: list[float] = field(default_factory=list[float])
    all_us: list[float] = field(default_factory=list[float])

    @property
    def path(self) -> Spread:
        """CPU on the request's path."""
        return Spread.of(self.path_us)


class Variant:
    """One way to do the work.

    Args:
        name: Name in the table.
        run: Does the work once, given the number of the request.
        settle: Does the work that `run` left to other threads; counts only in `Timed.all_us`.
    """

    def __init__(
        self,
        name: str,
        run: Callable[[int], object],
        settle: Callable[[], object] = lambda: None,
    ) -> None:
        self.run = run
        self.settle = settle
        self.timed = Timed(name)

    def round(self, first: int, requests: int) -> None:
        """Run one round, whose requests are numbered from `first` on."""
        run = self.run
        for _ in range(WARM_UPS):  # the previous variant has filled the caches
            run(-1)
        self.settle()
        process, thread = time.process_time_ns(), time.thread_time_ns()
        for number in range(first, first + requests):
            run(number)
        self.timed.path_us.append((time.thread_time_ns() - thread) / requests / 1e3)
        self.settle()
        self.timed.all_us.append((time.process_time_ns() - process) / requests / 1e3)


def interleave(variants: Sequence[Variant], rounds: int, requests: int) -> None:
    """Run all variants in turns, without garbage collection.

    There is none between the rounds either: it would slow the next variant by a quarter.
    """
    for variant in variants:
        variant.run(-1)
        variant.settle()
    gc.collect()
    gc.disable()
    try:
        for number in range(rounds):
            for variant in variants:
                variant.round(number * requests, requests)
    finally:
        gc.enable()


def ratio(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the median of the ratios of neighbouring rounds, which a busy machine slows alike."""
    return statistics.median(map(operator.truediv, one, other))


def difference(one: Timed, other: Timed) -> float:
    """Return the median of the differences of neighbouring rounds on the path, microseconds."""
    return statistics.median(map(operator.sub, one.path_us, other.path_us))


def load() -> float:
    """Return the processes that want a CPU, including ours; an idle machine has one or two."""
    return os.getloadavg()[0]
