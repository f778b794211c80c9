"""Is routing balanced, and is an endpoint slow?"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from otel_lifecycle.analysis.page.elements import (
    UNKNOWN,
    Cell,
    Section,
    number,
    percent,
    short,
    strong,
    table,
    text,
    times,
)
from otel_lifecycle.analysis.page.facts import Facts
from otel_lifecycle.runtime.text import printable

SLOW = 1.1
_ROLES = ("prefill", "engine", "decode")
_METRIC = {"prefill": "TTFT", "engine": "TTFT", "decode": "TPOT"}

_PEERS = """WITH groups AS (
    SELECT role, size_group, load_group, quantile_disc(latency_ms, 0.5) AS usual
    FROM carried WHERE outcome = 'completed' AND latency_ms > 0
    GROUP BY ALL HAVING count(latency_ms) >= 5
)
SELECT role, endpoint, quantile_disc(latency_ms / usual, 0.5) AS against_peers
FROM carried JOIN groups USING (role, size_group, load_group)
WHERE outcome = 'completed' AND latency_ms > 0
GROUP BY ALL"""
_SHARES = """SELECT role, endpoint, count(*) AS requests, sum(input) AS tokens,
    quantile_disc(latency_ms, 0.5) FILTER (outcome = 'completed') AS p50,
    quantile_disc(latency_ms, 0.95) FILTER (outcome = 'completed') AS p95,
    sum(cached) / nullif(sum(input) FILTER (cached IS NOT NULL), 0) AS from_cache,
    avg(busy) AS busy, max(kv_cache) AS kv_cache,
    count(*) FILTER (outcome NOT IN ('completed', 'client_disconnect')) AS failed
FROM carried GROUP BY ALL"""
_PEAKS = """WITH changes AS (
    SELECT role, endpoint, begins AS moment, 1 AS change FROM carried WHERE ends IS NOT NULL
    UNION ALL
    SELECT role, endpoint, greatest(begins, ends), -1 FROM carried WHERE ends IS NOT NULL
), steps AS (SELECT role, endpoint, moment, sum(change) AS change FROM changes GROUP BY ALL)
SELECT role, endpoint, max(load) FROM (
    SELECT role, endpoint,
        sum(change) OVER (PARTITION BY role, endpoint ORDER BY moment) AS load FROM steps
) GROUP BY ALL"""

# The leader of a pair is a proxy: nothing was chosen.
_CONSIDERED = """SELECT DISTINCT if(role = 'leader', 'engine', role), short_name(id, name, NULL)
FROM (
    SELECT role, is_pair, unnest(ids) AS id, unnest(names) AS name FROM (
        SELECT unnest(decision_role) AS role, list_contains(decision_role, 'prefill') AS is_pair,
            unnest(decision_candidates_id) AS ids, unnest(decision_candidates_name) AS names
        FROM requests
    )
) WHERE id IS NOT NULL AND NOT (is_pair AND role = 'leader')"""


class Share(NamedTuple):
    """One endpoint in one role."""

    role: str
    endpoint: str
    requests: int
    request_share: float
    token_share: float | None
    p50: float | None = None
    p95: float | None = None
    against_peers: float | None = None
    from_cache: float | None = None
    peak: int | None = None
    busy: float | None = None
    kv_cache: float | None = None
    failed: int = 0


class Balance(NamedTuple):
    """How evenly one role's endpoints share the input tokens.

    Attributes:
        role: The role.
        endpoints: Its endpoints, in natural order; also those that were considered and got nothing.
        busiest: The share of tokens of the busiest one, by an equal share; None if no prompt's
            length is known.
    """

    role: str
    endpoints: list[Share]
    busiest: float | None

    @property
    def requests(self) -> int:
        """How many requests they carried."""
        return sum(share.requests for share in self.endpoints)


def balances(facts: Facts) -> list[Balance]:
    """Return each role that carried something, with its endpoints."""
    peers = {(role, name): value for role, name, value in facts.rows(_PEERS)}
    peaks = {(role, name): int(value) for role, name, value in facts.rows(_PEAKS)}
    considered = facts.rows(_CONSIDERED)
    found: dict[str, list[tuple[Any, ...]]] = {}
    for row in facts.rows(_SHARES):
        found.setdefault(row[0], []).append(row)
    result: list[Balance] = []
    for role in _ROLES:
        rows = found.get(role, [])
        if not rows:
            continue
        requests, tokens = sum(row[2] for row in rows), sum(row[3] or 0 for row in rows)
        shares = [
            Share(
                role, name, count, count / requests, (of_tokens or 0) / tokens if tokens else None,
                p50, p95, peers.get((role, name)), from_cache, peaks.get((role, name)),
                busy, kv_cache, failed,
            )
            for _, name, count, of_tokens, p50, p95, from_cache, busy, kv_cache, failed in rows
        ]  # fmt: skip
        idle = {name for of, name in considered if of == role} - {row[1] for row in rows}
        shares += [Share(role, name, 0, 0.0, 0.0 if tokens else None, peak=0) for name in idle]
        shares.sort(key=lambda share: _natural(share.endpoint))
        known = [share.token_share for share in shares if share.token_share is not None]
        busiest = max(known) * len(shares) if known else None
        result.append(Balance(role, shares, busiest))
    return result


def slowest(found: list[Balance]) -> Share | None:
    """Return the endpoint that is slowest against its peers."""
    compared = (
        [share for share in balance.endpoints if share.against_peers is not None]
        for balance in found
    )
    with_peers = (share for shares in compared if len(shares) > 1 for share in shares)
    return max(with_peers, key=lambda share: share.against_peers or 0.0, default=None)


def section(facts: Facts, found: list[Balance]) -> Section:
    """A table for each role, and the tokens in flight on each endpoint over time."""
    result = Section(
        "endpoints",
        "Is routing balanced, and is an endpoint slow?",
        "Endpoints",
        _answer(found),
        how="Shares are of the requests and input tokens that endpoints of one role carried; an "
        "endpoint that was only ever a recorded candidate has a share of 0. "
        "<b>Against peers</b>: each request's TTFT (on decode: TPOT) divided by the median of "
        "similar requests on all endpoints of the role; the median of these ratios. Similar: the "
        "same power of two of uncached input tokens and of tokens in flight at dispatch (on "
        "decode: of output tokens). Groups under five requests are left out. <b>In flight</b>: "
        "from the last choice of a route to the first chunk on a prefill endpoint, else to the "
        "end; the chart shows the mean of each stretch, in input tokens.",
        queries=[_SHARES, _CONSIDERED, _PEERS, _PEAKS],
    )
    for balance in found:
        result.body.append(_table(balance))
        if balance.busiest is not None:
            result.body.append(_strip(facts, balance, result))
    return result


def _answer(found: list[Balance]) -> str:
    if not found:
        return "No request has a route."
    sentences = [
        f"Of {len(balance.endpoints)} {balance.role} endpoints the busiest got "
        f"{strong(times(balance.busiest))} an equal share of input tokens{_idle(balance)}."
        for balance in found
        if len(balance.endpoints) > 1 and balance.busiest is not None
    ]
    worst = slowest(found)
    if worst is not None:
        sentences.append(
            f"With similar requests the slowest, {text(worst.endpoint)}, took "
            f"{strong(times(worst.against_peers))} as long as its peers."
        )
    if all(len(balance.endpoints) == 1 for balance in found):
        return "There is one endpoint for each role, so nothing to compare."
    return " ".join(sentences) or "No request tells how long its prompt was."


def _idle(balance: Balance) -> str:
    count = sum(not share.requests for share in balance.endpoints)
    return f", and {strong(str(count))} got no request" if count else ""


def _table(balance: Balance) -> str:
    most = max(share.request_share for share in balance.endpoints)
    most_tokens = max(share.token_share or 0.0 for share in balance.endpoints) or 1.0
    metric = _METRIC[balance.role]
    rows = [
        [
            text(share.endpoint),
            Cell(times(share.against_peers), mark="bad" if _is_slow(share, balance) else ""),
            number(share.p50),
            number(share.p95),
            f"{share.requests:,}",
            Cell(percent(share.request_share), bar=share.request_share / most),
            Cell(percent(share.token_share), bar=(share.token_share or 0.0) / most_tokens),
            UNKNOWN if balance.role == "decode" else percent(share.from_cache),
            number(share.peak),
            percent(None if share.busy is None else share.busy / 100, 0),
            percent(share.kv_cache, 0),
            f"{share.failed:,}",
        ]
        for share in balance.endpoints
    ]
    head = [
        "Endpoint", "Against peers", f"{metric} p50, ms", f"{metric} p95, ms", "Requests",
        "Share of requests", "Share of input tokens", "Input from cache", "In flight, peak",
        "Busy, mean", "KV cache, max", "Failed",
    ]  # fmt: skip
    return table(f"{balance.role.capitalize()} endpoints", head, rows)


def _is_slow(share: Share, balance: Balance) -> bool:
    return len(balance.endpoints) > 1 and (share.against_peers or 0.0) > SLOW


def _strip(facts: Facts, balance: Balance, result: Section) -> str:
    query = f"""WITH parts AS (
    SELECT endpoint, input AS tokens, begins, greatest(begins, ends) AS ends,
        unnest(range({facts.bucket("begins")}, {facts.bucket("greatest(begins, ends)")} + 1))
            AS point
    FROM carried WHERE role = '{balance.role}' AND ends IS NOT NULL
)
SELECT endpoint, point, sum(tokens * greatest(0,
    least(ends, {facts.start!r} + (point + 1) * {facts.step})
    - greatest(begins, {facts.start!r} + point * {facts.step}))) / {facts.step}
FROM parts GROUP BY ALL"""
    names = [share.endpoint for share in balance.endpoints]
    place = {name: i for i, name in enumerate(names)}
    cells = [[point, place[name], value] for name, point, value in facts.rows(query) if value]
    highest = max((cell[2] for cell in cells), default=0.0)
    if query not in result.queries and balance.role == "prefill":
        result.queries.append(query)
    return result.chart(
        f"load-{balance.role}",
        f"Tokens in flight on {balance.role} endpoints (strongest colour: {short(highest)})",
        28 * len(names) + 44 if len(names) <= 16 else 12 * len(names) + 44,
        kind="strip",
        rows=[printable(name) for name in names],
        cells=cells,
        high=highest,
    )


def _natural(name: str) -> list[tuple[bool, int, str]]:
    parts = re.split(r"(\d+)", name)
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]
