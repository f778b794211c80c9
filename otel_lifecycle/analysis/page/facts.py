"""What every section of the page asks: the requests of the report, prepared once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from otel_lifecycle.analysis.tables import Records

_STEPS = (
    0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 14_400,
    43_200,
)  # fmt: skip
_DAY = 86_400
_MOST_STEPS = 120

# `ends` of an endpoint is when its load is given back: on prefill at the first chunk. The engine's
# `greatest` and `least` ignore null, so what is unknown must not be left to them alone.
_FACTS = """
CREATE MACRO short_name(id, name, address) AS
    coalesce(nullif(split_part(id, '://', 2), ''), address, '?') || coalesce('#' || name, '');
CREATE MACRO power_of_two(x) AS if(x IS NULL, NULL, floor(log2(greatest(x, 1))));
CREATE TABLE facts AS
SELECT row_number() OVER () AS n, request_id, model, policy, outcome, error_type, trace_id,
    attempt, candidates, streaming,
    epoch_us(started_at) / 1e6 AS started, epoch_us(first_chunk_at) / 1e6 AS first_chunk,
    epoch_us(completed_at) / 1e6 AS completed,
    input_token_length AS input, output_length AS output, cached_tokens AS cached,
    input_token_length - least(input_token_length, coalesce(cached_tokens, 0)) AS uncached,
    prefix_cache_score AS score, queue_ms, ttft_ms, tpot_ms, e2e_ms,
    ttft_ms + coalesce(queue_ms, 0) AS waited_ms,
    prediction_ttft_ms AS predicted_ttft_ms, prediction_tpot_ms AS predicted_tpot_ms,
    len(missing_feature_reasons_feature) > 0 AS lacks_feature,
    rerouted_from_endpoint, rerouted_to_endpoint, rerouted_reason,
    decision_role, decision_chosen_rank, decision_margin, decision_regret_ms,
    coalesce(list_position(decision_role, 'prefill'), list_position(decision_role, 'leader'))
        AS pick,
    list_transform(list_zip(decision_candidates_id[pick], decision_candidates_name[pick],
        decision_candidates_score[pick], decision_candidates_prefix_cache_score[pick],
        decision_candidates_prediction_ttft_ms[pick], decision_candidates_inflight_requests[pick]),
        lambda c: {'name': short_name(c[1], c[2], NULL), 'score': c[3], 'cached': c[4],
            'predicted': c[5], 'requests': c[6]}) AS considered,
    list_sum(list_transform(decision_candidates_id, lambda c: len(c))) AS recorded_candidates,
    epoch_us(coalesce(list_last(rerouted_at), started_at)) / 1e6 AS chosen,
    leader_id IS NOT NULL OR leader_address IS NOT NULL AS has_route,
    prefill_id IS NOT NULL OR prefill_address IS NOT NULL AS has_prefill,
    has_prefill AND (decode_id IS NOT NULL OR decode_address IS NOT NULL) AND
        (decode_id, decode_address, decode_port, decode_name) IS DISTINCT FROM
        (prefill_id, prefill_address, prefill_port, prefill_name) AS has_decode,
    CASE WHEN has_prefill THEN short_name(prefill_id, prefill_name, prefill_address)
        WHEN has_route THEN short_name(leader_id, leader_name, leader_address) END AS prefilling,
    CASE WHEN has_decode THEN short_name(decode_id, decode_name, decode_address) END AS decoding,
    if(has_prefill, prefill_inflight_tokens, leader_inflight_tokens) AS inflight_tokens,
    if(has_prefill, prefill_inflight_requests, leader_inflight_requests) AS inflight_requests,
    if(has_prefill, prefill_waiting_requests, leader_waiting_requests) AS waiting,
    epoch_us(if(has_prefill, prefill_update_time, leader_update_time)) / 1e6 AS scraped,
    if(has_prefill, prefill_kv_cache_usage, leader_kv_cache_usage) AS kv_cache,
    if(has_prefill, prefill_npu_ai_core_utilization_avg, leader_npu_ai_core_utilization_avg)
        AS busy,
    decode_kv_cache_usage, decode_npu_ai_core_utilization_avg
FROM requests;
CREATE TABLE carried AS
SELECT n, if(has_prefill, 'prefill', 'engine') AS role, prefilling AS endpoint, outcome,
    waited_ms AS latency_ms, input, cached, kv_cache, busy, chosen AS begins,
    if(has_prefill, coalesce(first_chunk, completed), completed) AS ends,
    power_of_two(uncached) AS size_group, power_of_two(inflight_tokens) AS load_group
FROM facts WHERE has_route
UNION ALL
SELECT n, 'decode', decoding, outcome, tpot_ms, input, NULL, decode_kv_cache_usage,
    decode_npu_ai_core_utilization_avg, chosen, completed, power_of_two(output), 0
FROM facts WHERE has_decode;
"""


@dataclass(frozen=True)
class Targets:
    """Latency targets in milliseconds; None is no target.

    Attributes:
        ttft_ms: Time to first token, from arrival where it is known, else from dispatch.
        tpot_ms: Time per output token.
    """

    ttft_ms: float | None = None
    tpot_ms: float | None = None

    def __bool__(self) -> bool:
        return self.ttft_ms is not None or self.tpot_ms is not None

    def met(self) -> str:
        """Return SQL: whether a request of `facts` completed within the targets."""
        conditions = ["outcome = 'completed'"]
        if self.ttft_ms is not None:
            conditions.append(f"waited_ms <= {self.ttft_ms!r}")
        if self.tpot_ms is not None:
            conditions.append(f"(tpot_ms IS NULL OR tpot_ms <= {self.tpot_ms!r})")
        return f"coalesce({' AND '.join(conditions)}, false)"


class Facts:
    """The prepared tables `facts` (a row a request) and `carried` (a row an endpoint of it).

    Attributes:
        count: Requests.
        start: Unix time of the first dispatch, in seconds.
        span: Seconds from there to the last end.
        step: Seconds of one point of a chart over time.
        steps: Number of these points.
        problem_count: Lines of the files that were no records.

    Args:
        records: At least one.
        targets: Latency targets.
    """

    def __init__(self, records: Records, targets: Targets) -> None:
        self._connection = records.connection
        self.targets = targets
        self.problem_count = records.problem_count
        self._connection.execute(_FACTS)
        self.count, self.start, end = self.one(
            "SELECT count(*), min(started), max(coalesce(completed, started)) FROM facts"
        )
        self.span: float = max(end - self.start, 0.001)
        days = _DAY * math.ceil(self.span / _DAY / (_MOST_STEPS - 1))
        self.step = next((step for step in _STEPS if self.span / step < _MOST_STEPS), days)
        self.steps = int(self.span / self.step) + 1

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        return self._connection.execute(query).fetchall()

    def one(self, query: str) -> tuple[Any, ...]:
        """Return the only row of a query."""
        (row,) = self.rows(query)
        return row

    def bucket(self, moment: str) -> str:
        """Return SQL: the number of the point that a moment belongs to."""
        last = self.steps - 1
        microseconds = f"CAST(round(({moment} - {self.start!r}) * 1e6) AS BIGINT)"
        return f"least({last}, {microseconds} // {round(self.step * 1e6)})"

    def over_time(self, query: str, columns: int) -> list[list[Any]]:
        """Return one list a column, with a value for each point, None where there is no row.

        Args:
            query: Its first column is the number of the point.
            columns: How many follow.
        """
        series: list[list[Any]] = [[None] * self.steps for _ in range(columns)]
        for point, *values in self.rows(query):
            for values_of_one, value in zip(series, values, strict=True):
                values_of_one[point] = value
        return series


def bin_edges(values: Sequence[float | None], most: int = 7) -> list[int]:
    """Return the lower edges of bins that fit values: 0, then a power of two times 1,000 each.

    Args:
        values: The 5th and 95th percentile of those above 0.
        most: The greatest number of bins.
    """
    low, high = (max(1.0, value or 1.0) for value in values)
    edges = [1_000.0]
    while edges[0] > low and edges[0] > 32:
        edges.insert(0, edges[0] / 2)
    while edges[0] * 2 <= low:
        edges[0] *= 2
    while edges[-1] * 2 < high:
        edges.append(edges[-1] * 2)
    while len(edges) > most - 1:
        edges = edges[::2]
    return [0, *map(int, edges)]
