"""What only the garbage collector would free."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def freed_without_collector(kind: type) -> Iterator[None]:
    """Assert that reference counts alone free all objects of a type that are made meanwhile."""

    def existing() -> dict[int, object]:
        # By their types: proxies of objects that are gone raise when they are asked for theirs.
        return {id(one): one for one in gc.get_objects() if issubclass(type(one), kind)}

    gc.collect()
    before = existing()  # keeps them: another thread may be about to free some
    gc.disable()
    try:
        yield
        assert existing().keys() <= before.keys()
    finally:
        gc.enable()
