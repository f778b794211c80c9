"""Does prefix affinity work?"""

from __future__ import annotations

from typing import NamedTuple

from otel_lifecycle.analysis.page.elements import (
    Cell,
    Section,
    percent,
    plural,
    short,
    strong,
    table,
    times,
)
from otel_lifecycle.analysis.page.facts import Facts

_KNOWN = "input > 0 AND cached IS NOT NULL AND score IS NOT NULL"
_SUMS = f"""SELECT count(*), sum(input), sum(cached),
    sum(score * input) / sum(input), sum(cached) / sum(input),
    avg(score), avg(least(1, cached / input)),
    count(*) FILTER (abs(score - cached / input) > 0.1)
FROM facts WHERE {_KNOWN}"""
_CELLS = 20
_DENSITY = f"""SELECT CAST(least({_CELLS - 1}, floor(score * {_CELLS})) AS INTEGER) AS expected,
    CAST(least({_CELLS - 1}, floor(cached / input * {_CELLS})) AS INTEGER) AS delivered, count(*)
FROM facts WHERE {_KNOWN} GROUP BY ALL"""
_CACHED = """SELECT count(*), sum(cached) / sum(input) FROM facts
WHERE input > 0 AND cached IS NOT NULL"""


class Cached(NamedTuple):
    """What came from the cache, of the requests whose score is known too.

    Attributes:
        requests: Their number.
        input: Their input tokens.
        delivered_tokens: How many of these came from the cache.
        expected: Expected by the router, as a share of tokens.
        delivered: Delivered by the engine, as a share of tokens.
        expected_mean: The mean of what was expected of each request.
        delivered_mean: The mean of what was delivered to each.
        wrong: Requests whose expectation was wrong by more than 10 points.
    """

    requests: int
    input: int
    delivered_tokens: int
    expected: float
    delivered: float
    expected_mean: float
    delivered_mean: float
    wrong: int


def cached(facts: Facts) -> Cached | None:
    """Return what came from the cache; None if nothing is known of it."""
    row = facts.one(_SUMS)
    return Cached(*row) if row[0] else None


def from_cache(facts: Facts) -> float | None:
    """Return the share of input tokens that came from the cache."""
    count, share = facts.one(_CACHED)
    return share if count else None


def section(facts: Facts, found: Cached | None) -> Section:
    """Expected and delivered shares, and their density."""
    result = Section(
        "prefix",
        "Does prefix affinity work?",
        "Prefix cache",
        "",
        how="Of requests in which prompt length, <code>cachedTokens</code> and "
        "<code>prefixCacheScore</code> are known. By tokens: a sum over a sum. By requests: the "
        "mean of each request's own share, which lets a short prompt count as much as a long one.",
        queries=[_SUMS, _DENSITY],
    )
    if found is None:
        share = from_cache(facts)
        result.answer = (
            "No request tells both what the router expected and what the engine found."
            + (
                ""
                if share is None
                else f" {strong(percent(share))} of input tokens came from the cache."
            )
        )
        result.queries = [_CACHED]
        return result
    result.answer = (
        f"{strong(percent(found.delivered))} of {short(found.input)} input tokens came from the "
        f"cache; the router expected {strong(percent(found.expected))}. It was wrong by more than "
        f"10 points in {percent(found.wrong / found.requests)} of "
        f"{plural(found.requests, 'request')}."
    )
    if found.delivered_mean > 1.2 * found.delivered > 0:
        result.answer += (
            f" The mean of requests ({percent(found.delivered_mean)}) is "
            f"{times(found.delivered_mean / found.delivered)} as high: short prompts have high "
            "shares."
        )
    most = max(found.expected, found.delivered, found.expected_mean, found.delivered_mean) or 1.0
    rows = [
        [name, Cell(percent(tokens), bar=tokens / most), Cell(percent(mean), bar=mean / most)]
        for name, tokens, mean in (
            ("Expected by the router", found.expected, found.expected_mean),
            ("Delivered by the engine", found.delivered, found.delivered_mean),
        )
    ]
    shares = table(
        "Input that came from the cache", ["Who", "Of all tokens", "Mean of requests"], rows
    )
    density = result.chart(
        "density",
        "Delivered against expected, each request",
        320,
        kind="density",
        cells=facts.rows(_DENSITY),
        size=_CELLS,
        low=0,
        high=1,
        log=False,
        x="expected",
        y="delivered",
    )
    result.body = [f'<div class="two"><div>{shares}</div>{density}</div>']
    return result
