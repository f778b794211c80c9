"""What this report could not see."""

from __future__ import annotations

from otel_lifecycle.analysis.page.elements import Section, plural
from otel_lifecycle.analysis.page.facts import Facts

_QUERY = """SELECT count(*) FILTER (predicted_ttft_ms IS NULL AND predicted_tpot_ms IS NULL),
    count(*) FILTER (lacks_feature), count(*) FILTER (NOT has_route),
    count(*) FILTER (queue_ms IS NULL), count(*) FILTER (cached IS NULL),
    count(*) FILTER (outcome = 'completed' AND ttft_ms IS NULL)
FROM facts"""
_TEXTS = (
    "had no prediction",
    "lacked a feature of the predictor",
    "had no route",
    "came without a time of arrival at the router",
    "came without a number of cached tokens",
    "completed without a time to first token (not streamed)",
)


def section(facts: Facts) -> Section:
    """How many requests lack what a section needs, and which lines were left out."""
    counts = facts.one(_QUERY)
    seen = [
        f"{plural(count, 'request')} {what}"
        for count, what in zip(counts, _TEXTS, strict=True)
        if count
    ]
    if facts.problem_count:
        seen.append(f"{plural(facts.problem_count, 'line')} of the files were not records")
    answer = "; ".join(seen) + "." if seen else "Every request has every fact that is asked above."
    return Section(
        "unseen",
        "What this report could not see",
        "Not seen",
        answer[0].upper() + answer[1:],
        how="Each sentence counts the requests that lack a fact; they are left out where it is "
        "needed, and never counted as zero.",
        queries=[_QUERY],
    )
