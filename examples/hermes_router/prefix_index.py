"""Estimates what an endpoint's prefix cache holds, from the prompts sent there."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence


class PrefixIndex:
    """The block hashes of one endpoint, least recently used first.

    It is an approximation: the engine evicts blocks by itself, and the index only forgets in the
    same order and holds about as many blocks.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._blocks: OrderedDict[bytes, None] = OrderedDict()

    def match(self, hashes: Sequence[bytes]) -> int:
        """Return how many leading blocks of a prompt are known."""
        for count, block in enumerate(hashes):
            if block not in self._blocks:
                return count
        return len(hashes)

    def add(self, hashes: Sequence[bytes]) -> None:
        """Remember a prompt that is about to be prefilled."""
        for block in reversed(hashes):  # the end of a prefix is forgotten before its start
            self._blocks[block] = None
            self._blocks.move_to_end(block)
        while len(self._blocks) > self.capacity:
            self._blocks.popitem(last=False)
