"""What only the garbage collector would free."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

from tests.waiting import eventually


@contextmanager
def freed_without_collector(kind: type) -> Iterator[None]:
    """Assert that reference counts alone free all objects of a type that are made meanwhile."""
    gc.collect()
    before = alive(kind)
    gc.disable()
    try:
        yield
        # A thread may have one a moment longer.
        eventually(lambda: len(alive(kind)) == len(before), what=f"no {kind.__name__} is left")
    finally:
        gc.enable()


def alive(*kinds: type) -> list[object]:
    """The objects of some types; as long as these are kept, none of them is freed meanwhile."""
    # By their types: a proxy whose object is gone raises when it is asked for its class.
    return [one for one in gc.get_objects() if issubclass(type(one), kinds)]
