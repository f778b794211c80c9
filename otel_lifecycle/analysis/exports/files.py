"""Writes single files: CSV, Mooncake's replay trace, training rows of llm-d's predictor."""

from __future__ import annotations

from itertools import count, islice
from pathlib import Path
from typing import Literal

import msgspec

from otel_lifecycle.analysis.exports.whole_file import whole_file
from otel_lifecycle.analysis.tables.database import (
    ENDPOINTS,
    REQUEST_KEY,
    REQUESTS,
    Records,
    fetch,
    literal,
)
from otel_lifecycle.model import Outcome
from otel_lifecycle.model.features import PredictionInput
from otel_lifecycle.model.fields import fields_of
from otel_lifecycle.prediction.llm_d_format import training_rows

MOONCAKE_BLOCK_TOKENS = 512
"""The size of a block in Mooncake's traces."""

_LENGTHS = f"""
SELECT epoch_us(started_at) AS started, input_token_length, output_length FROM {REQUESTS}
WHERE input_token_length > 0 AND output_length > 0 ORDER BY started_at, request_id
"""
_FEATURES = ", ".join(
    f"'{field.name}': e.feature_{field.name}" for field in fields_of(PredictionInput)
)
_TRAINING = f"""
SELECT strftime(any_value(r.completed_at), '%Y-%m-%dT%H:%M:%S.%fZ') AS completed_at,
    any_value(r.ttft_ms) AS ttft_ms, any_value(r.tpot_ms) AS tpot_ms,
    any_value(r.output_length) AS output_length,
    list({{{_FEATURES}}} ORDER BY e.role DESC) AS inputs
FROM {REQUESTS} r JOIN {ENDPOINTS} e USING ({", ".join(REQUEST_KEY)})
WHERE r.outcome = '{Outcome.COMPLETED.value}'
GROUP BY r.request_id, r.started_at ORDER BY r.started_at, r.request_id
"""


def write_csv(
    records: Records, path: Path, rows: Literal["requests", "endpoints"] = "requests"
) -> int:
    """Write one of the two tables; return the number of rows."""
    with whole_file(path) as unfinished:
        ((written,),) = records.connection.execute(
            f"COPY (FROM {rows}) TO {literal(unfinished)} (FORMAT csv, HEADER)"
        ).fetchall()
    return int(written)


def write_mooncake(records: Records, path: Path) -> int:
    """Write a trace for `otel-lifecycle demo --trace` and Mooncake's replayer.

    It has only requests with known input and output lengths; times are milliseconds since the first
    of them. Records do not show which prompts shared blocks, so each request has its own blocks: a
    replay has the same arrivals and lengths, but no prefix-cache hits.

    Returns:
        The number of requests written.
    """
    first_us, blocks, written = None, count(), 0
    with whole_file(path) as unfinished, open(unfinished, "wb") as file:
        for row in fetch(records, _LENGTHS):
            first_us = row["started"] if first_us is None else first_us
            length = row["input_token_length"]
            line = {
                "timestamp": (row["started"] - first_us) // 1000,
                "input_length": length,
                "output_length": row["output_length"],
                "hash_ids": list(islice(blocks, -(-length // MOONCAKE_BLOCK_TOKENS))),
            }
            file.write(msgspec.json.encode(line) + b"\n")
            written += 1
    return written


def write_llm_d(records: Records, path: Path) -> int:
    """Write the training rows of llm-d's latency predictor, one JSON object per line.

    These are the entries that shadow prediction sends to the training server: those of completed
    streams without missing features.

    Returns:
        The number of rows.
    """
    written = 0
    with whole_file(path) as unfinished, open(unfinished, "wb") as file:
        for row in fetch(records, _TRAINING):
            inputs = [PredictionInput(**features) for features in row["inputs"]]
            entries = training_rows(
                inputs, row["completed_at"], row["ttft_ms"], row["tpot_ms"], row["output_length"]
            )
            file.writelines(msgspec.json.encode(entry) + b"\n" for entry in entries)
            written += len(entries)
    return written
