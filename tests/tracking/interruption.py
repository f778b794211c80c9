"""Runs signal handlers at a chosen moment."""

from __future__ import annotations

import contextvars
import gc
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any


def interrupt(
    call: Callable[[], Any], moment: int, handler: Callable[[], None], where: str
) -> bool:
    """Call the handler at the given moment of the call; return False if it has fewer moments.

    The moments are those at which the interpreter may run signal handlers in a file whose path
    contains `where`: when a Python function starts, and when a C function returns. (A profiler does
    not see all of them, for example the end of a loop's iteration.)
    """
    passed = 0

    def profile(frame: FrameType, event: str, _: Any) -> None:
        nonlocal passed
        if event in ("call", "c_return") and where in frame.f_code.co_filename:
            passed += 1
            if passed == moment:
                sys.setprofile(None)
                handler()

    before = sys.getprofile()
    collects = gc.isenabled()
    gc.disable()  # finalizers of other tests' garbage would run inside, and swallow exceptions
    sys.setprofile(profile)
    try:
        contextvars.copy_context().run(
            call
        )  # the SDK's context manager, interrupted, may not detach its own
    finally:
        sys.setprofile(before)
        if collects:
            gc.enable()
    return passed >= moment
