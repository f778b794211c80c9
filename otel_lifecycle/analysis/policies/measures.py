"""What the records of one run say about its routing policy."""

from __future__ import annotations

from typing import Any

import msgspec

from otel_lifecycle.analysis.page.endpoints import balances
from otel_lifecycle.analysis.page.facts import Facts, Targets
from otel_lifecycle.analysis.page.goals import goodput
from otel_lifecycle.analysis.page.prefix_cache import from_cache
from otel_lifecycle.analysis.tables import Records

_LATENCIES = """SELECT quantile_cont(waited_ms, [0.5, 0.95, 0.99]),
    quantile_cont(tpot_ms, [0.5, 0.95, 0.99]) FROM facts WHERE outcome = 'completed'"""
_REGRET = "SELECT avg(decision_regret_ms[pick]) FROM facts"


class Measures(msgspec.Struct, frozen=True, rename="camel"):
    """The measures of one run; None is unknown.

    Attributes:
        goodput: Requests within the targets, as a share of all whose client did not leave.
        ttft_p50_ms: Time to first token of completed requests. So are `ttft_p95_ms` and
            `ttft_p99_ms`.
        tpot_p50_ms: Time per output token of completed requests. So are `tpot_p95_ms` and
            `tpot_p99_ms`.
        cached: Share of input tokens that came from prefix caches.
        busiest: Input tokens of the busiest endpoint that prefills, by an equal share; 1 is even.
            Where requests prefill in two roles, as a fallback from pairs does, the role of most.
        regret_ms: Mean of the predicted TTFT of the chosen endpoint minus the lowest of all.
    """

    goodput: float | None
    ttft_p50_ms: float | None
    ttft_p95_ms: float | None
    ttft_p99_ms: float | None
    tpot_p50_ms: float | None
    tpot_p95_ms: float | None
    tpot_p99_ms: float | None
    cached: float | None
    busiest: float | None
    regret_ms: float | None


def measure(records: Records, targets: Targets) -> Measures:
    """Return the measures of the records of one run.

    Args:
        records: At least one.
        targets: Latency targets; without any there is no goodput.
    """
    facts = Facts(records, targets)
    unknown: list[Any] = [None] * 3
    ttft, tpot = facts.one(_LATENCIES)
    (regret_ms,) = facts.one(_REGRET)
    prefilling = [balance for balance in balances(facts) if balance.role != "decode"]
    usual = max(prefilling, key=lambda balance: balance.requests, default=None)
    return Measures(
        goodput(facts).share if targets else None,
        *(ttft or unknown),
        *(tpot or unknown),
        cached=from_cache(facts),
        busiest=None if usual is None else usual.busiest,
        regret_ms=regret_ms,
    )
