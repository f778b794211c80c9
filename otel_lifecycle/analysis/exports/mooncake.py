"""Writes the trace format of Mooncake, which replayers of other projects read too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import NamedTuple

import msgspec

from otel_lifecycle.analysis.exports.whole_file import whole_file
from otel_lifecycle.analysis.tables.database import REQUESTS, Records, fetch
from otel_lifecycle.model.request import BlockUnit

MOONCAKE_BLOCK_TOKENS = 512
"""The size of a block in Mooncake's traces."""

_BYTES_PER_TOKEN = 4  # of text; the rule of `prompt.blocks`
_TRACE = f"""
SELECT epoch_us(coalesce(received_at, started_at)) AS arrived, input_token_length, output_length,
    prompt_blocks_unit, prompt_blocks_block_size, prompt_blocks_hashes
FROM {REQUESTS} WHERE input_token_length > 0 AND output_length > 0 ORDER BY arrived, request_id
"""


class Written(NamedTuple):
    """What a trace has.

    Attributes:
        requests: Its requests.
        with_blocks: Those whose records show which blocks they share.
    """

    requests: int
    with_blocks: int


def write_mooncake(records: Records, path: Path) -> Written:
    """Write a trace for `demo --trace`, `simulate --trace`, AIPerf and Dynamo's replayer.

    It has only requests with known input and output lengths; times are milliseconds since the first
    arrival. Prompts share blocks as their `promptBlocks` do. A prompt, or the end of one, that has
    none shares nothing.
    """
    first_us, own, requests, with_blocks = None, count(), 0, 0
    with whole_file(path) as unfinished, open(unfinished, "wb") as file:
        for row in fetch(records, _TRACE):
            first_us = row["arrived"] if first_us is None else first_us
            length, hashes = row["input_token_length"], row["prompt_blocks_hashes"] or ()
            size = row["prompt_blocks_block_size"] or 0
            if row["prompt_blocks_unit"] == BlockUnit.BYTE.value:
                size /= _BYTES_PER_TOKEN
            line = {
                "timestamp": (row["arrived"] - first_us) // 1000,
                "input_length": length,
                "output_length": row["output_length"],
                "hash_ids": list(_hash_ids(length, hashes, size, own)),
            }
            file.write(msgspec.json.encode(line) + b"\n")
            requests += 1
            with_blocks += bool(hashes)
    return Written(requests, with_blocks)


def _hash_ids(length: int, hashes: Sequence[int], size: float, own: Iterator[int]) -> Iterator[int]:
    """The id of each block of 512 tokens: the number of the recorded block with its last token.

    A number depends on all blocks before its own, so equal ids mean equal prompts up to there. A
    recorded block that spans several gives each its own id.
    """
    for index, start in enumerate(range(0, length, MOONCAKE_BLOCK_TOKENS)):
        end = min(start + MOONCAKE_BLOCK_TOKENS, length)
        position = -int(-end // size) - 1 if size else 0
        if position >= len(hashes):
            yield next(own)
        else:
            yield hashes[position] + (index if size > MOONCAKE_BLOCK_TOKENS else 0)
