"""Objects are repaired in a forked child."""

from __future__ import annotations

import gc
import os
import weakref

from otel_lifecycle.runtime.forks import repair_in_forked_child


class Told:
    """Remembers the processes in which it was repaired."""

    def __init__(self) -> None:
        self.by: list[int] = []
        repair_in_forked_child(self, Told.tell)

    def tell(self) -> None:
        """Keeps one more."""
        self.by.append(os.getpid())


def exit_code(child: int) -> int:
    """Return the exit code of a child."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_children_are_told_and_their_parent_is_not() -> None:
    """Each living object is repaired once in each child, and never in the parent."""
    told = [Told(), Told()]
    child = os.fork()
    if child == 0:
        os._exit(0 if [one.by for one in told] == [[os.getpid()]] * 2 else 1)

    assert exit_code(child) == 0
    assert [one.by for one in told] == [[], []]


def test_an_object_is_not_kept() -> None:
    """A registered object is not kept alive."""
    told = Told()
    gone = weakref.ref(told)
    del told
    gc.collect()
    child = os.fork()
    if child == 0:
        os._exit(0)

    assert gone() is None
    assert exit_code(child) == 0
