"""Writes single files: CSV, and Mooncake's replay trace."""

from __future__ import annotations

from itertools import count, islice
from pathlib import Path
from typing import Literal

import msgspec

from otel_lifecycle.analysis.exports.whole_file import whole_file
from otel_lifecycle.analysis.tables.database import REQUESTS, Records, fetch, literal

MOONCAKE_BLOCK_TOKENS = 512
"""The size of a block in Mooncake's traces."""

_LENGTHS = f"""
SELECT epoch_us(started_at) AS started, input_token_length, output_length FROM {REQUESTS}
WHERE input_token_length > 0 AND output_length > 0 ORDER BY started_at, request_id
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
