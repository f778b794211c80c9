"""Work to be done when a process ends, however it was started."""

from __future__ import annotations

import atexit
from collections.abc import Callable
from multiprocessing import util


def run_at_exit(callback: Callable[[], None]) -> None:
    """Runs `callback` when this process ends, and when its children do; the last comes first.

    `multiprocessing` ends its children with `os._exit`, which skips `atexit`, and has finalizers of
    its own. Where both are run the callback is called twice.
    """
    atexit.register(callback)
    _add_finalizer(callback)
    util.register_after_fork(callback, _add_finalizer)


def _add_finalizer(callback: Callable[[], None]) -> None:
    util.Finalize(None, callback, exitpriority=0)
