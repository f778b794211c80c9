"""Were the latency targets met?"""

from __future__ import annotations

from typing import NamedTuple

from otel_lifecycle.analysis.page.elements import Section, ms, number, percent, strong
from otel_lifecycle.analysis.page.facts import Facts

_POINTS = 160


class Goodput(NamedTuple):
    """How many requests met the targets.

    Attributes:
        share: Of all requests but those whose client left.
        per_second: Good requests a second.
        ttft_share: Those that met the TTFT target; None without one.
        tpot_share: Those that met the TPOT target; None without one.
    """

    share: float | None
    per_second: float
    ttft_share: float | None
    tpot_share: float | None


def goodput(facts: Facts) -> Goodput:
    """Return how many requests met the targets."""
    ttft, tpot = facts.targets.ttft_ms, facts.targets.tpot_ms
    each = [
        f"avg(CAST({type(facts.targets)(one, other).met()} AS INTEGER))"
        for one, other in ((ttft, None), (None, tpot))
    ]
    share, good, ttft_share, tpot_share = facts.one(
        f"""SELECT avg(CAST({facts.targets.met()} AS INTEGER)),
    count(*) FILTER ({facts.targets.met()}), {", ".join(each)}
FROM facts WHERE outcome <> 'client_disconnect'"""
    )
    return Goodput(
        share,
        good / facts.span,
        None if ttft is None else ttft_share,
        None if tpot is None else tpot_share,
    )


def section(facts: Facts) -> Section:
    """The distribution of TTFT and TPOT, with the targets, and the good share over time."""
    result = Section(
        "targets",
        "Were the latency targets met?",
        "Targets",
        _answer(facts),
        how="Each curve gives the share of completed requests that were at least as fast. A "
        "request is good if it completed with its TTFT and, where it has one, its TPOT within the "
        "targets. The share is of all requests but those with outcome "
        "<code>client_disconnect</code>; goodput is good requests divided by the seconds from the "
        "first dispatch to the last end.",
    )
    curves = ""
    for name, column, target in (
        ("TTFT", "waited_ms", facts.targets.ttft_ms),
        ("TPOT", "tpot_ms", facts.targets.tpot_ms),
    ):
        fractions = [(i + 1) / _POINTS for i in range(_POINTS)]
        query = (
            f"SELECT quantile_disc({column}, {fractions}) FROM facts WHERE outcome = 'completed'"
        )
        (values,) = facts.one(query)
        if not values or values[0] is None:
            continue
        result.queries.append(query.replace(str(fractions), f"[1/{_POINTS}, 2/{_POINTS}, ...]"))
        curves += result.chart(
            name.lower(),
            f"{name}: share of requests that were at least as fast, ms",
            240,
            kind="curve",
            points=[
                [max(value, 1e-3), part] for value, part in zip(values, fractions, strict=True)
            ],
            target=target,
        )
    result.body = [f'<div class="two">{curves}</div>'] if curves else []
    if facts.targets:
        query = f"""SELECT {facts.bucket("started")} AS point,
    100 * avg(CAST({facts.targets.met()} AS INTEGER))
FROM facts WHERE outcome <> 'client_disconnect' GROUP BY point"""
        (good,) = facts.over_time(query, 1)
        result.queries.append(query)
        chart = result.chart(
            "good",
            "Good requests over time, %",
            140,
            kind="time",
            series=[{"name": "good", "values": good}],
            unit="%",
        )
        result.body.append(chart)
    return result


def _answer(facts: Facts) -> str:
    if not facts.targets:
        return (
            "No targets were given, so there is no verdict; <code>--ttft</code> and "
            "<code>--tpot</code> set them. Each curve gives the share for any target."
        )
    found = goodput(facts)
    parts = [
        f"{name} at most {ms(target)} ({percent(share)} met it)"
        for name, target, share in (
            ("TTFT", facts.targets.ttft_ms, found.ttft_share),
            ("TPOT", facts.targets.tpot_ms, found.tpot_share),
        )
        if target is not None
    ]
    return (
        f"{strong(percent(found.share))} of requests were good: {' and '.join(parts)}. "
        f"Goodput: {strong(number(found.per_second))} requests a second."
    )
