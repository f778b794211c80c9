"""Writes a timeline for ui.perfetto.dev, in the Chrome trace format.

Each endpoint is a process. A request is a slice on each endpoint that carried it; slices are
asynchronous, because requests overlap. Counters show the load in flight.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from otel_lifecycle.analysis.exports.whole_file import whole_file
from otel_lifecycle.analysis.tables.database import (
    ENDPOINTS,
    REQUEST_KEY,
    REQUESTS,
    Records,
    fetch,
)

# A prefill endpoint carries the request until the first chunk, others until the end.
_SLICES = f"""
SELECT epoch_us(r.started_at) AS started, epoch_us(r.completed_at) AS completed,
    epoch_us(r.first_chunk_at) AS first_chunk, e.role,
    dense_rank() OVER (ORDER BY coalesce(e.id, e.address, '?'), e.name) AS process,
    coalesce(e.id, e.address, '?') || coalesce('#' || e.name, '') AS endpoint,
    r.request_id, r.model, r.outcome, r.input_token_length, r.cached_tokens, r.output_length,
    r.ttft_ms, r.tpot_ms, r.prediction_ttft_ms, r.trace_id
FROM {ENDPOINTS} e JOIN {REQUESTS} r USING ({", ".join(REQUEST_KEY)})
WHERE r.started_at IS NOT NULL AND r.completed_at IS NOT NULL
"""
_ARGUMENTS = (
    "model",
    "outcome",
    "input_token_length",
    "cached_tokens",
    "output_length",
    "ttft_ms",
    "tpot_ms",
    "prediction_ttft_ms",
    "trace_id",
)
_IN_FLIGHT = f"""
WITH slices AS ({_SLICES}),
ends AS (SELECT *, CASE WHEN role = 'prefill' THEN coalesce(first_chunk, completed)
    ELSE completed END AS ended FROM slices),
changes AS (
    SELECT process, started AS moment, 1 AS requests, coalesce(input_token_length, 0) AS tokens
    FROM ends
    UNION ALL
    SELECT process, ended, -1, -coalesce(input_token_length, 0) FROM ends
),
steps AS (SELECT process, moment, sum(requests) AS requests, sum(tokens) AS tokens
    FROM changes GROUP BY process, moment)
SELECT process, moment, sum(requests) OVER w AS requests, sum(tokens) OVER w AS tokens
FROM steps WINDOW w AS (PARTITION BY process ORDER BY moment) ORDER BY moment, process
"""


def write_perfetto(records: Records, path: Path) -> int:
    """Write the timeline; return the number of requests in it."""
    with whole_file(path) as unfinished, open(unfinished, "wb") as file:
        file.write(b'{"displayTimeUnit":"ms","traceEvents":[\n')
        separator = b""
        for event in _events(records):
            file.write(separator + msgspec.json.encode(event))
            separator = b",\n"
        file.write(b"\n]}\n")
    ((written,),) = records.connection.execute(
        f"SELECT count(DISTINCT (r.request_id, started)) FROM ({_SLICES}) r"
    ).fetchall()
    return int(written)


def _events(records: Records) -> Iterator[dict[str, Any]]:
    named: set[int] = set()
    for number, row in enumerate(fetch(records, f"{_SLICES} ORDER BY started, request_id, role")):
        process = row["process"]
        if process not in named:
            named.add(process)
            name = {"name": row["endpoint"]}
            yield {"ph": "M", "name": "process_name", "pid": process, "args": name}
        begin, end = row["started"], row["completed"]
        if row["role"] == "prefill":
            end = row["first_chunk"] or end
        elif row["role"] == "decode":
            begin = row["first_chunk"] or begin
        common = {
            "cat": row["role"],
            "id": number,
            "name": row["request_id"],
            "pid": process,
            "tid": 0,
        }
        yield {**common, "ph": "b", "ts": begin, "args": {key: row[key] for key in _ARGUMENTS}}
        if row["role"] == "leader" and row["first_chunk"] is not None:
            yield {**common, "ph": "n", "ts": row["first_chunk"], "args": {"first": "chunk"}}
        yield {**common, "ph": "e", "ts": max(begin, end)}
    for row in fetch(records, _IN_FLIGHT):
        for counter in ("requests", "tokens"):
            yield {
                "ph": "C",
                "name": f"{counter} in flight",
                "pid": row["process"],
                "ts": row["moment"],
                "args": {counter: int(row[counter])},
            }
