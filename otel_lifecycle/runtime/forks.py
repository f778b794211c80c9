"""Repairs inherited locks, threads and queues in a forked child, before its own code runs."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

_T = TypeVar("_T")

_repairs: weakref.WeakKeyDictionary[Any, Callable[[Any], None]] = weakref.WeakKeyDictionary()


def repair_in_forked_child(owner: _T, repair: Callable[[_T], None]) -> None:
    """Call `repair(owner)` in each forked child, as long as the owner lives.

    A child has only one thread, none of its parent's others: a lock that another thread held stays
    locked, and that thread's work is not done.
    """
    _repairs[owner] = repair


def _repair_all() -> None:
    for owner, repair in list(_repairs.items()):
        repair(owner)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_repair_all)
