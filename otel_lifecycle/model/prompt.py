"""The blocks of a prompt as keyed hashes: what prompts share, without what they say."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, NamedTuple

import msgspec

from otel_lifecycle.model.fields import Count, declare, record_name


class BlockUnit(str, Enum):
    """What the blocks of a prompt are counted in."""

    TOKEN = "token"
    BYTE = "byte"


class PromptBlocks(msgspec.Struct, rename=record_name, frozen=True, gc=False):
    """The blocks of a prompt, from its beginning."""

    unit: Annotated[
        BlockUnit,
        declare("What a block is counted in: `token`, or `byte` of the prompt's text in UTF-8."),
    ]
    block_size: Annotated[Count, declare("Size of a block; the last one may be shorter.", "1")]
    hashes: Annotated[
        tuple[Count, ...],
        declare(
            "One number for each block, below 2^53. It depends on the block and on all blocks "
            "before it, so equal numbers mean equal beginnings.",
            "1",
        ),
    ]


class TokenIds(NamedTuple):
    """Token ids as a JSON array, which is parsed off the request's path.

    Attributes:
        json: The array.
    """

    json: bytes | memoryview
