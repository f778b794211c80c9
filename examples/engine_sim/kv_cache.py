"""The paged KV cache: blocks pinned by running requests, and an LRU of reusable ones."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass
class _PinnedBlock:
    users: int
    filled: bool  # its keys and values have been computed


@dataclass(frozen=True)
class Allocation:
    """The blocks of one running request."""

    hashes: tuple[bytes, ...]
    private_blocks: int


class KVCache:
    """A fixed number of blocks, shared between requests with a common prefix.

    A block is *pinned* while a running request uses it. Afterwards a filled block stays *idle*
    until a later request reuses it or it is evicted, least recently used first.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._pinned: dict[bytes, _PinnedBlock] = {}
        self._idle: OrderedDict[bytes, None] = OrderedDict()
        self._private = 0

    @property
    def capacity(self) -> int:
        """The total number of blocks."""
        return self._capacity

    @property
    def usage(self) -> float:
        """The fraction of blocks in use by running requests; idle blocks count as free."""
        return (len(self._pinned) + self._private) / self._capacity

    def fits(self, hashes: Sequence[bytes], private_blocks: int) -> bool:
        """Return whether a request could be admitted now."""
        new = sum(1 for block in hashes if block not in self._pinned) + private_blocks
        return len(self._pinned) + self._private + new <= self._capacity

    def pin(self, hashes: Sequence[bytes], private_blocks: int) -> Allocation:
        """Take the blocks of a prompt, and `private_blocks` more that cannot be shared."""
        for block in hashes:
            pinned = self._pinned.get(block)
            if pinned is not None:
                pinned.users += 1
            else:
                was_idle = block in self._idle
                self._idle.pop(block, None)
                self._pinned[block] = _PinnedBlock(users=1, filled=was_idle)
        self._private += private_blocks
        self._evict()
        return Allocation(tuple(hashes), private_blocks)

    def filled_prefix(self, allocation: Allocation) -> int:
        """Return how many leading blocks of the prompt need no prefill."""
        count = 0
        for block in allocation.hashes:
            if not self._pinned[block].filled:
                break
            count += 1
        return count

    def fill(self, allocation: Allocation) -> None:
        """Mark all blocks of the prompt as computed."""
        for block in allocation.hashes:
            self._pinned[block].filled = True

    def unpin(self, allocation: Allocation) -> None:
        """Release the blocks; computed ones stay reusable."""
        for block in reversed(allocation.hashes):  # the end of a prefix is evicted before its start
            pinned = self._pinned[block]
            pinned.users -= 1
            if pinned.users == 0:
                del self._pinned[block]
                if pinned.filled:
                    self._idle[block] = None
        self._private -= allocation.private_blocks

    def _evict(self) -> None:
        while len(self._pinned) + self._private + len(self._idle) > self._capacity:
            self._idle.popitem(last=False)
