"""Which requests waited longest, and why did they go there?"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any
from urllib.parse import quote

from otel_lifecycle.analysis.page.elements import (
    UNKNOWN,
    Section,
    duration,
    ms,
    number,
    percent,
    plural,
    short,
    text,
)
from otel_lifecycle.analysis.page.facts import Facts

TRACE_ID = "{trace_id}"
_SHOWN = 12
_QUERY = f"""SELECT request_id, trace_id, started, waited_ms, predicted_ttft_ms, e2e_ms, queue_ms,
    input, cached, output, tpot_ms, inflight_requests, inflight_tokens, waiting, policy, candidates,
    score, attempt, (chosen - scraped) * 1000, prefilling, decoding, considered
FROM facts WHERE outcome = 'completed' AND waited_ms IS NOT NULL
ORDER BY waited_ms DESC, n LIMIT {_SHOWN}"""
_HEAD = (
    "Request", "TTFT", "Predicted", "First token, then the rest", "Input", "Cached", "Output",
    "TPOT", "In flight there", "At",
)  # fmt: skip


def section(facts: Facts, link: str) -> Section | None:
    """The requests with the longest TTFT, each with what the router knew; None if there is none.

    Args:
        facts: The requests.
        link: A URL with `{trace_id}`, of the tool that shows traces; empty: no links.
    """
    rows = facts.rows(_QUERY)
    if not rows:
        return None
    longest = max(row[5] or row[3] for row in rows) or 1.0
    head = "".join(f'<th scope="col">{name}</th>' for name in _HEAD)
    body = "".join(_row(row, facts.start, longest, link) for row in rows)
    result = Section(
        "longest",
        "Which requests waited longest, and why did they go there?",
        "Longest waits",
        f"{plural(len(rows), 'request')} with the longest TTFT. Open one for what the router knew "
        "when it chose.",
        how="TTFT counts from the arrival at the router where it is known.",
        queries=[_QUERY],
    )
    result.body = [
        '<div class="wrap" tabindex="0" role="region" aria-label="Longest waits">'
        f'<table class="open"><caption>Longest waits</caption><thead><tr>{head}</tr></thead>'
        f"{body}</table></div>"
    ]
    return result


def _row(row: tuple[Any, ...], start: float, longest: float, link: str) -> str:
    (
        request_id, trace_id, started, waited, predicted, e2e, queued, size, cached, output, tpot,
        requests, tokens, waiting, policy, candidates, score, attempt, age, prefilling, decoding,
        considered,
    ) = row  # fmt: skip
    total = max(e2e or 0.0, waited)
    first = waited / total if total else 1.0
    bar = f'<span class="parts" style="--w:{total / longest:.3f};--p:{first:.3f}"></span>'
    off = predicted and waited and not 0.5 <= predicted / waited <= 2
    cells = [
        ms(waited),
        f'<span class="bad">{ms(predicted)}</span>' if off else ms(predicted),
        bar,
        short(size),
        short(cached),
        number(output),
        ms(tpot),
        f"{number(requests)} · {short(tokens)}",
        duration(started - start),
    ]
    route = " → ".join(text(name) for name in (prefilling, decoding) if name) or UNKNOWN
    at = datetime.fromtimestamp(started, timezone.utc).isoformat(" ", "milliseconds")
    facts = [
        f"Route: {route}.",
        f"Policy {text(policy) if policy else UNKNOWN}, {number(candidates)} candidates, attempt "
        f"{attempt}.",
        f"The router expected {percent(score)} of the prompt in the cache there, saw "
        f"{number(requests)} requests ({short(tokens)} tokens) in flight and {number(waiting)} "
        f"waiting in the engine, by metrics {ms(age)} old.",
        f"Time in the router before dispatch: {ms(queued)}." if queued is not None else "",
        _considered(considered),
        f"Dispatched {at[:23]} UTC. {_trace(trace_id, link)}",
    ]
    columns = len(_HEAD)
    return (
        "<tbody><tr><th scope='row'><button type='button' aria-expanded='false'>"
        f"{text(request_id)}</button></th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
        f'<tr class="details" hidden><td colspan="{columns}"><div>'
        f"{' '.join(filter(None, facts))}</div></td></tr></tbody>"
    )


def _considered(candidates: list[dict[str, Any]] | None) -> str:
    """Return what the router considered for the prompt, the best score first."""
    if not candidates:
        return ""
    shown = "; ".join(
        f"{text(one['name'])} (score {number(one['score'])}, {percent(one['cached'])} of the "
        f"prompt cached, TTFT {ms(one['predicted'])} predicted, "
        f"{number(one['requests'])} in flight)"
        for one in candidates
    )
    return f"It considered, the best score first: {shown}."


def _trace(trace_id: str | None, link: str) -> str:
    if not trace_id:
        return ""
    if not link:
        return f"Trace <code>{text(trace_id)}</code>."
    url = text(link.replace(TRACE_ID, quote(trace_id, safe="")))
    return f'<a href="{url}" rel="noreferrer">Trace {text(trace_id)}</a>.'
