"""How often a command of ours looks for cycles among its objects."""

from __future__ import annotations

import gc

_ALLOCATIONS_BEFORE_COLLECTION = 100_000


def collect_rarely() -> None:
    """Have the garbage collector run rarely in this process, which must be our own.

    Records have no cycles, live together and end together. To look for cycles among them as often
    as by default takes up to a fifth of the CPU.
    """
    gc.set_threshold(_ALLOCATIONS_BEFORE_COLLECTION)
