"""What happened, and when?"""

from __future__ import annotations

from otel_lifecycle.analysis.page.elements import Section, duration, ms, number, strong
from otel_lifecycle.analysis.page.facts import Facts


def section(facts: Facts) -> Section:
    """Requests by outcome, and quantiles of TTFT and TPOT, over time."""
    point = facts.bucket("started")
    by_outcome = f"SELECT {point} AS point, outcome, count(*) FROM facts GROUP BY ALL ORDER BY ALL"
    quantiles = f"""SELECT {point} AS point,
    quantile_disc(waited_ms, 0.5), quantile_disc(waited_ms, 0.95),
    quantile_disc(tpot_ms, 0.5), quantile_disc(tpot_ms, 0.95)
FROM facts WHERE outcome = 'completed' GROUP BY point"""
    outcomes: dict[str, list[float]] = {}
    for at, outcome, count in facts.rows(by_outcome):
        outcomes.setdefault(outcome, [0.0] * facts.steps)[at] = count / facts.step
    order = sorted(outcomes, key=lambda name: -sum(outcomes[name]))
    ttft_50, ttft_95, tpot_50, tpot_95 = facts.over_time(quantiles, 4)
    result = Section(
        "time",
        "What happened, and when?",
        "Time",
        _answer(facts, ttft_95),
        how=f"Requests are counted at <code>startedAt</code>, in stretches of "
        f"{duration(facts.step)}. Quantiles are the nearest rank, of completed requests that "
        "started in the stretch. TTFT counts from the arrival at the router where it is known, "
        "else from the dispatch.",
        queries=[by_outcome, quantiles],
    )
    result.body = [
        '<div class="linked" tabindex="0" role="group" '
        'aria-label="Charts over time. The left and right arrow keys move a cursor.">',
        result.chart(
            "requests",
            "Requests a second, by outcome",
            150,
            kind="time",
            stack=True,
            series=[{"name": name, "values": outcomes[name]} for name in order],
            unit="/s",
        ),
        result.chart(
            "ttft",
            "Time to first token, ms",
            150,
            kind="time",
            series=[{"name": "p50", "values": ttft_50}, {"name": "p95", "values": ttft_95}],
            unit="ms",
        ),
        result.chart(
            "tpot",
            "Time per output token, ms",
            150,
            kind="time",
            series=[{"name": "p50", "values": tpot_50}, {"name": "p95", "values": tpot_95}],
            unit="ms",
        ),
        *_queue(facts, result),
        f'<p class="readout" aria-live="polite">Each point: {duration(facts.step)}.</p></div>',
    ]
    return result


def _queue(facts: Facts, result: Section) -> list[str]:
    query = f"""SELECT {facts.bucket("started")} AS point,
    quantile_disc(queue_ms, 0.5), quantile_disc(queue_ms, 0.95)
FROM facts WHERE queue_ms IS NOT NULL GROUP BY point"""
    p50, p95 = facts.over_time(query, 2)
    if not any(value is not None for value in p50):
        return []
    result.queries.append(query)
    chart = result.chart(
        "queue",
        "Time in the router, from arrival to dispatch, ms",
        150,
        kind="time",
        series=[{"name": "p50", "values": p50}, {"name": "p95", "values": p95}],
        unit="ms",
    )
    return [chart]


def _answer(facts: Facts, ttft_95: list[float | None]) -> str:
    rate = f"{strong(number(facts.count / facts.span) + ' requests a second')}."
    (overall,) = facts.one(
        "SELECT quantile_disc(waited_ms, 0.95) FROM facts WHERE outcome = 'completed'"
    )
    known = [(value, at) for at, value in enumerate(ttft_95) if value is not None]
    if not known:
        return f"{rate} No completed request has a time to first token."
    worst, at = max(known)
    return (
        f"{rate} TTFT was worst at {strong(duration(at * facts.step))}: "
        f"p95 {ms(worst)}, against {ms(overall)} over all."
    )
