"""Did the router decide on fresh data?"""

from __future__ import annotations

from typing import NamedTuple

from otel_lifecycle.analysis.page.elements import Section, ms, number, percent, strong
from otel_lifecycle.analysis.page.facts import Facts

_AGES = "scraped IS NOT NULL AND chosen >= scraped"
_AGE = f"""SELECT count(*), quantile_disc((chosen - scraped) * 1000, 0.5),
    quantile_disc((chosen - scraped) * 1000, 0.99), max((chosen - scraped) * 1000)
FROM facts WHERE {_AGES}"""
_MOST_EARLIER = 8
_EARLIER = f"""SELECT least({_MOST_EARLIER}, earlier), count(*) FROM (
    SELECT row_number() OVER (PARTITION BY prefilling, scraped ORDER BY chosen, n) - 1 AS earlier
    FROM facts WHERE {_AGES}
) GROUP BY ALL ORDER BY 1"""
_BARS = 24


class Age(NamedTuple):
    """The age of the engine's metrics at dispatch, in milliseconds."""

    requests: int
    median_ms: float
    p99_ms: float
    most_ms: float


def age(facts: Facts) -> Age | None:
    """Return the age of the metrics; None if it is nowhere known."""
    row = facts.one(_AGE)
    return Age(*row) if row[0] else None


def section(facts: Facts, found: Age | None) -> Section:
    """How old the metrics were, and how many requests they did not show yet."""
    result = Section(
        "fresh",
        "Did the router decide on fresh data?",
        "Fresh data",
        "The age of the engines' metrics is not recorded.",
        how="Age: from the scrape (<code>updateTime</code> of the endpoint that computes the "
        "prompt) to the last choice of a route. Earlier requests: those sent to the same endpoint "
        "since the same scrape.",
        queries=[_AGE, _EARLIER],
    )
    if found is None:
        return result
    earlier = dict(facts.rows(_EARLIER))
    unseen = 1 - earlier.get(0, 0) / found.requests
    result.answer = (
        f"The metrics were {strong(ms(found.median_ms))} old at the median, {ms(found.p99_ms)} at "
        f"p99. In {strong(percent(unseen))} of decisions the same endpoint had been given at least "
        "one request that these metrics did not show yet; only the router's own count of what is "
        "in flight could tell."
    )
    width = max(found.p99_ms, 1e-3) / (_BARS - 1)
    ages = f"""SELECT
    CAST(least({_BARS - 1}, floor((chosen - scraped) * 1000 / {width!r})) AS INTEGER), count(*)
FROM facts WHERE {_AGES} GROUP BY ALL"""
    counts = dict(facts.rows(ages))
    result.queries.append(ages)
    of_ages = result.chart(
        "age",
        "Age of the engine's metrics at dispatch, ms",
        220,
        kind="bars",
        labels=[number(i * width) + ("+" if i == _BARS - 1 else "") for i in range(_BARS)],
        values=[counts.get(i, 0) for i in range(_BARS)],
    )
    of_earlier = result.chart(
        "earlier",
        "Earlier requests to the same endpoint since these metrics",
        220,
        kind="bars",
        labels=[f"{i}{'+' if i == _MOST_EARLIER else ''}" for i in range(_MOST_EARLIER + 1)],
        values=[earlier.get(i, 0) for i in range(_MOST_EARLIER + 1)],
    )
    result.body = [f'<div class="two">{of_ages}{of_earlier}</div>']
    return result
