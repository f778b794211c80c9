"""What failed, and what was sent elsewhere?"""

from __future__ import annotations

from otel_lifecycle.analysis.page.elements import UNKNOWN, Section, plural, strong, table, text
from otel_lifecycle.analysis.page.facts import Facts

_SHOWN = 12
_FAILED = f"""SELECT outcome, coalesce(error_type, ''), coalesce(decoding, prefilling, ''), count(*)
FROM facts WHERE outcome <> 'completed' GROUP BY ALL ORDER BY 4 DESC, 1, 2, 3 LIMIT {_SHOWN}"""
_REROUTED = f"""SELECT regexp_replace(a, '[a-z]+://', '', 'g'),
    regexp_replace(b, '[a-z]+://', '', 'g'), reason, count(*) FROM (
    SELECT unnest(rerouted_from_endpoint) AS a, unnest(rerouted_to_endpoint) AS b,
        unnest(rerouted_reason) AS reason
    FROM facts
) GROUP BY ALL ORDER BY 4 DESC, 1, 2, 3 LIMIT {_SHOWN}"""
_COUNTS = """SELECT count(*) FILTER (outcome <> 'completed'),
    count(*) FILTER (len(rerouted_reason) > 0) FROM facts"""


def section(facts: Facts) -> Section | None:
    """The commonest failures and changes of route; None if there were none."""
    failed, rerouted = facts.one(_COUNTS)
    if not failed and not rerouted:
        return None
    result = Section(
        "failures",
        "What failed, and what was sent elsewhere?",
        "Failures",
        f"{strong(plural(failed, 'request'))} of {facts.count:,} did not complete; "
        f"{strong(f'{rerouted:,}')} changed their route on the way.",
        how=f"The {_SHOWN} commonest kinds of each.",
        queries=[_FAILED, _REROUTED],
    )
    if failed:
        rows = [
            [text(outcome), text(error or UNKNOWN), text(endpoint or UNKNOWN), f"{count:,}"]
            for outcome, error, endpoint, count in facts.rows(_FAILED)
        ]
        head = ["Outcome", "Error", "Endpoint", "Requests"]
        result.body.append(table("Requests that did not complete", head, rows))
    if rerouted:
        rows = [
            [text(before or UNKNOWN), text(after or UNKNOWN), text(reason), f"{count:,}"]
            for before, after, reason, count in facts.rows(_REROUTED)
        ]
        head = ["From", "To", "Because", "Times"]
        result.body.append(table("Changes of route", head, rows))
    return result
