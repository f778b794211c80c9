"""Runs work at the end of a process, however it was started."""

from __future__ import annotations

import atexit
from collections.abc import Callable
from multiprocessing import util


def run_at_exit(callback: Callable[[], None]) -> None:
    """Run `callback` when this process or one of its children ends, last registered first.

    `multiprocessing` ends its children with `os._exit`, which skips `atexit` but runs finalizers of
    `multiprocessing`. A process that runs both calls the callback twice.
    """
    atexit.register(callback)
    _add_finalizer(callback)
    util.register_after_fork(callback, _add_finalizer)


def _add_finalizer(callback: Callable[[], None]) -> None:
    util.Finalize(None, callback, exitpriority=0)
