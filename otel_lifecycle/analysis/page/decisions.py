"""Why did requests go where they went, and what did it cost?"""

from __future__ import annotations

from otel_lifecycle.analysis.page.elements import (
    UNKNOWN,
    Section,
    ms,
    number,
    percent,
    plural,
    strong,
    table,
    text,
)
from otel_lifecycle.analysis.page.facts import Facts

# The leader of a pair is a proxy: nothing was chosen.
_PICKS = """(
    SELECT * FROM (
        SELECT policy, list_contains(decision_role, 'prefill') AS is_pair,
            unnest(decision_role) AS role, unnest(decision_chosen_rank) AS chosen_rank,
            unnest(decision_margin) AS margin, unnest(decision_regret_ms) AS regret_ms
        FROM facts
    ) WHERE NOT (is_pair AND role = 'leader')
)"""
_BY_POLICY = f"""SELECT policy, role, count(*), avg(CAST(chosen_rank = 1 AS INTEGER)),
    quantile_disc(margin, 0.5), count(regret_ms), quantile_disc(regret_ms, 0.5),
    quantile_disc(regret_ms, 0.95), avg(regret_ms)
FROM {_PICKS} GROUP BY ALL ORDER BY 3 DESC, 1, 2"""
_OVERALL = f"""SELECT count(*), avg(CAST(chosen_rank = 1 AS INTEGER)),
    avg(CAST(regret_ms > 0 AS INTEGER)), avg(regret_ms)
FROM {_PICKS} WHERE role <> 'decode'"""


def section(facts: Facts) -> Section | None:
    """Rank, margin and regret of the choices; None if no record has its candidates."""
    rows = facts.rows(_BY_POLICY)
    if not rows:
        return None
    result = Section(
        "decisions",
        "Why did requests go where they went, and what did it cost?",
        "Decisions",
        _answer(facts),
        how="Of the first dispatch of each request whose candidates are recorded. <b>Best "
        "score</b>: no candidate had a higher one. <b>Margin</b>: the score of the chosen endpoint "
        "less the highest of the others. <b>Regret</b>: the latency predicted for the chosen "
        "endpoint (TTFT, on decode TPOT) less the lowest predicted for a candidate, where all were "
        "predicted.",
        queries=[_BY_POLICY, _OVERALL],
    )
    result.body.append(
        table(
            "Choices by policy and role",
            [
                "Policy", "Role", "Choices", "Best score taken", "Margin, median", "Predicted",
                "Regret p50", "Regret p95", "Regret, mean",
            ],
            (
                [
                    text(policy or UNKNOWN),
                    text(role),
                    f"{count:,}",
                    percent(best),
                    number(margin),
                    f"{predicted:,}",
                    ms(median),
                    ms(p95),
                    ms(mean),
                ]
                for policy, role, count, best, margin, predicted, median, p95, mean in rows
            ),
        )
    )  # fmt: skip
    return result


def _answer(facts: Facts) -> str:
    count, best, regretted, mean = facts.one(_OVERALL)
    if not count:
        return "Only decodes were chosen among recorded candidates."
    sentences = [f"{plural(count, 'choice')} of an endpoint for the prompt are recorded."]
    if best is not None:
        sentences.append(f"{strong(percent(best))} took the best score.")
    if mean is not None:
        sentences.append(
            f"By the router's own predictions, {strong(percent(regretted))} could have been faster "
            f"elsewhere, by {strong(ms(mean))} in the mean of all."
        )
    return " ".join(sentences)
