"""What to look at first: at most six sentences, each with a link to its evidence."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from otel_lifecycle.analysis.page.elements import ms, percent, text, times
from otel_lifecycle.analysis.page.endpoints import SLOW, Balance, slowest
from otel_lifecycle.analysis.page.facts import Facts
from otel_lifecycle.analysis.page.freshness import Age
from otel_lifecycle.analysis.page.goals import Goodput
from otel_lifecycle.analysis.page.predictor import Accuracy
from otel_lifecycle.analysis.page.prefix_cache import Cached

PROBLEM, LOOK, FINE = "problem", "look", "fine"
_ORDER = (PROBLEM, LOOK, FINE)


class Verdict(NamedTuple):
    """One sentence.

    Attributes:
        level: `problem`, `look` or `fine`.
        sentence: HTML.
        section: Key of the section with the evidence.
    """

    level: str
    sentence: str
    section: str


class Found(NamedTuple):
    """What the sections found; None where nothing is known."""

    goodput: Goodput | None
    ttft: Accuracy | None
    cached: Cached | None
    age: Age | None
    balances: list[Balance]


def verdicts(facts: Facts, found: Found) -> list[Verdict]:
    """Return the verdicts, the worst first."""
    return sorted(_verdicts(facts, found), key=lambda one: _ORDER.index(one.level))


def _verdicts(facts: Facts, found: Found) -> Iterator[Verdict]:
    if found.goodput is not None and found.goodput.share is not None:
        missed = " and ".join(
            f"{name} was missed by {percent(1 - share)}"
            for name, share in (
                ("TTFT", found.goodput.ttft_share),
                ("TPOT", found.goodput.tpot_share),
            )
            if share is not None
        )
        yield Verdict(
            _level(found.goodput.share, 0.9, 0.99),
            f"{percent(found.goodput.share)} of requests met their targets; {missed}",
            "targets",
        )
    if found.ttft is not None:
        yield Verdict(
            _level(found.ttft.within, 0.7, 0.9),
            "Predicted TTFT is off by more than a factor of two in "
            f"{percent(1 - found.ttft.within)} of requests",
            "predictor",
        )
    if found.cached is not None:
        flatters = found.cached.delivered_mean > 1.5 * found.cached.delivered > 0
        yield Verdict(
            LOOK if flatters else FINE,
            f"{percent(found.cached.delivered)} of input tokens came from the cache; "
            + (
                f"the mean of requests, {percent(found.cached.delivered_mean)}, flatters it"
                if flatters
                else f"the router expected {percent(found.cached.expected)}"
            ),
            "prefix",
        )
    if found.age is not None:
        between = facts.span / facts.count * 1_000
        yield Verdict(
            LOOK if found.age.median_ms > 2 * between else FINE,
            f"Half of the decisions used engine metrics older than {ms(found.age.median_ms)}; a "
            f"request comes every {ms(between)}",
            "fresh",
        )
    compared = [
        (one.busiest, one.role)
        for one in found.balances
        if len(one.endpoints) > 1 and one.busiest is not None
    ]
    if compared:
        busiest, role = max(compared)
        level = PROBLEM if busiest > 1.5 else LOOK if busiest > 1.15 else FINE
        yield Verdict(
            level,
            f"Input tokens are spread {'evenly' if level == FINE else 'unevenly'}: the busiest "
            f"{role} endpoint has {times(busiest)} an equal share",
            "endpoints",
        )
    slow = slowest(found.balances)
    if slow is not None and slow.against_peers is not None:
        ratio = slow.against_peers
        yield Verdict(
            PROBLEM if ratio > 1.3 else LOOK if ratio > SLOW else FINE,
            f"{text(slow.endpoint)} takes {times(ratio)} as long as its peers for similar requests"
            if ratio > SLOW
            else "No endpoint is slower than its peers for similar requests (at most "
            f"{times(ratio)})",
            "endpoints",
        )


def _level(share: float, problem: float, look: float) -> str:
    return PROBLEM if share < problem else LOOK if share < look else FINE
