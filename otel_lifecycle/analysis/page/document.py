"""The whole page: one file that needs no network."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

import msgspec

from otel_lifecycle.analysis.exports.whole_file import whole_file
from otel_lifecycle.analysis.page import (
    decisions,
    endpoints,
    failures,
    freshness,
    goals,
    longest,
    predictor,
    prefix_cache,
    timeline,
    unseen,
    workload,
)
from otel_lifecycle.analysis.page.elements import (
    Section,
    duration,
    ms,
    number,
    percent,
    plural,
    short,
    text,
)
from otel_lifecycle.analysis.page.facts import Facts, Targets
from otel_lifecycle.analysis.page.verdicts import Found, verdicts
from otel_lifecycle.analysis.tables import Records

_ASSETS = files("otel_lifecycle.analysis.page") / "assets"
_MOST_NAMES = 3


@dataclass(frozen=True)
class ReportOptions:
    """What a report is about besides its records.

    Attributes:
        targets: Latency targets.
        link: A URL with `{trace_id}`, of the tool that shows traces; empty: no links.
        source: The name of the files, as the page shows it.
    """

    targets: Targets = field(default_factory=Targets)
    link: str = ""
    source: str = ""


class NoRecordsError(ValueError):
    """There is nothing to report."""


def write_page(records: Records, path: Path, options: ReportOptions) -> int:
    """Write the report; return the number of requests in it.

    The page has everything in it, its script and style included, and loads nothing: its content
    security policy forbids it.

    Raises:
        NoRecordsError: There is no record.
        OSError: The file cannot be written; nothing is left of it.
    """
    if not records.count():
        reason = "there is no record to report"
        if records.problem_count:
            found = plural(records.problem_count, "problem")
            reason += f"; {found}, the first: {records.problems[0]}"
        raise NoRecordsError(reason)
    facts = Facts(records, options.targets)
    page = _page(facts, options)
    with whole_file(path) as unfinished:
        unfinished.write_text(page, "utf-8")
    return facts.count


def _page(facts: Facts, options: ReportOptions) -> str:
    bins = workload.find_bins(facts)
    found = Found(
        goals.goodput(facts) if options.targets else None,
        predictor.accuracy(facts, "TTFT"),
        prefix_cache.cached(facts),
        freshness.age(facts),
        endpoints.balances(facts),
    )
    sections = [
        timeline.section(facts),
        goals.section(facts),
        endpoints.section(facts, found.balances),
        decisions.section(facts),
        workload.section(facts, bins),
        prefix_cache.section(facts, found.cached),
        predictor.section(facts, bins),
        freshness.section(facts, found.age),
        failures.section(facts),
        longest.section(facts, options.link),
        unseen.section(facts),
    ]
    shown = [section for section in sections if section is not None]
    body = "".join(
        [
            _header(facts, options),
            _tiles(facts, found),
            _verdicts(facts, found),
            _nav(shown),
            *(section.html() for section in shown),
        ]
    )
    data = {
        "start": facts.start,
        "step": facts.step,
        "steps": facts.steps,
        "charts": {place: spec for one in shown for place, spec in one.charts.items()},
    }
    return _document(body, data)


def _document(body: str, data: dict[str, Any]) -> str:
    scripts = [_asset("echarts.min.js"), _asset("page.js")]
    allowed = " ".join(f"'sha256-{_digest(script)}'" for script in scripts)
    policy = (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src {allowed}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    encoded = msgspec.json.encode(_rounded(data)).decode().replace("<", "\\u003c")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="color-scheme" content="light dark">'
        '<link rel="icon" href="data:,"><title>otel-lifecycle report</title>'
        f"<style>{_asset('page.css')}</style></head><body><main>{body}</main>"
        f'<script type="application/json" id="data">{encoded}</script>'
        f"{''.join(f'<script>{script}</script>' for script in scripts)}</body></html>\n"
    )


def _asset(name: str) -> str:
    return (_ASSETS / name).read_text("utf-8")


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _rounded(value: Any) -> Any:
    """Keep five digits of each number: no chart shows more."""
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) and value < 1e9 else value
    if isinstance(value, dict):
        entries = cast("dict[str, Any]", value)
        return {key: _rounded(one) for key, one in entries.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(one) for one in cast("list[Any]", value)]
    return value


def _header(facts: Facts, options: ReportOptions) -> str:
    begins = datetime.fromtimestamp(facts.start, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
    known = [
        _names(facts, "model"),
        begins,
        _names(facts, "policy", "policy "),
        text(options.source),
    ]
    return (
        f"<header><div><h1>{plural(facts.count, 'request')} in {duration(facts.span)}</h1>"
        f'<p class="about">{" · ".join(filter(None, known))}</p></div>'
        '<button type="button" id="theme">Dark</button></header>'
    )


def _names(facts: Facts, column: str, before: str = "") -> str:
    rows = facts.rows(
        f"SELECT {column}, count(*) FROM facts WHERE {column} <> '' GROUP BY ALL ORDER BY 2 DESC, 1"
    )
    names = [text(name) for name, _ in rows[:_MOST_NAMES]]
    if len(rows) > _MOST_NAMES:
        names.append(f"{len(rows) - _MOST_NAMES} more")
    return before + ", ".join(names) if names else ""


def _tiles(facts: Facts, found: Found) -> str:
    completed, ttft, tpot, queue, tokens_in, tokens_out = facts.one(
        """SELECT avg(CAST(outcome = 'completed' AS INTEGER)),
            quantile_disc(waited_ms, [0.5, 0.95, 0.99]) FILTER (outcome = 'completed'),
            quantile_disc(tpot_ms, [0.5, 0.95, 0.99]) FILTER (outcome = 'completed'),
            quantile_disc(queue_ms, [0.5, 0.95]), sum(input), sum(output)
        FROM facts"""
    )
    none = [None] * 3
    ttft, tpot = ttft or none, tpot or none
    tiles = [("Completed", percent(completed, 2), f"{number(facts.count / facts.span)} requests/s")]
    if found.goodput is not None:
        good = f"{number(found.goodput.per_second)} good/s"
        tiles.append(("Good (targets met)", percent(found.goodput.share), good))
    tiles += [
        ("TTFT p50", ms(ttft[0]), f"p95 {ms(ttft[1])} · p99 {ms(ttft[2])}"),
        ("TPOT p50", ms(tpot[0]), f"p95 {ms(tpot[1])} · p99 {ms(tpot[2])}"),
    ]
    if queue is not None:
        tiles.append(("In the router, p50", ms(queue[0]), f"p95 {ms(queue[1])} before dispatch"))
    tiles += [
        ("Tokens in", f"{_rate(tokens_in, facts)}/s", f"out {_rate(tokens_out, facts)}/s"),
        ("Input from cache", percent(prefix_cache.from_cache(facts)), "of input tokens"),
    ]
    return (
        '<dl class="tiles">'
        + "".join(
            f"<div><dt>{name}</dt><dd><b>{value}</b><span>{more}</span></dd></div>"
            for name, value, more in tiles
        )
        + "</dl>"
    )


def _rate(tokens: int | None, facts: Facts) -> str:
    return short(None if tokens is None else tokens / facts.span)


def _verdicts(facts: Facts, found: Found) -> str:
    items = "".join(
        f'<li><a href="#{one.section}"><span class="level {one.level}">{one.level}</span>'
        f"<span>{one.sentence}</span></a></li>"
        for one in verdicts(facts, found)
    )
    return f'<ol class="verdicts" aria-label="What to look at first">{items}</ol>' if items else ""


def _nav(sections: list[Section]) -> str:
    links = _links(sections)
    return f'<nav aria-label="Sections">{"".join(links)}</nav>'


def _links(sections: list[Section]) -> Iterator[str]:
    for section in sections:
        yield f'<a href="#{section.key}">{section.nav}</a>'
