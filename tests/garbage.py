"""What only the garbage collector would free."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def freed_without_collector(kind: type) -> Iterator[None]:
    """Assert that reference counts alone free all objects of a type that are made meanwhile."""

    def count() -> int:
        return sum(isinstance(one, kind) for one in gc.get_objects())

    gc.collect()
    before = count()
    gc.disable()
    try:
        yield
        assert count() == before
    finally:
        gc.enable()
