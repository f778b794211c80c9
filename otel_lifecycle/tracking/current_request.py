"""The request that the current context serves, as far as contexts may know it."""

from __future__ import annotations

from contextvars import ContextVar, Token
from typing import Protocol

from otel_lifecycle.runtime.clock import Clock


class Follower(Protocol):
    """What follows a request without being told: the instrumentation of its server."""

    def yield_to_another(self, clock: Clock | None) -> int | None:
        """Somebody else tracks the request, by this clock.

        Returns:
            When the request reached the router, on the monotonic clock; None if that is unknown, or
            was told by another clock.
        """
        ...


class CurrentRequest:
    """What contexts keep of a request.

    Tasks, timers and connections copy the context they are made in, and may live for ever: they
    keep this object, but not the request.

    Attributes:
        follower: What follows the request; None once it has ended.
    """

    __slots__ = ("follower",)

    def __init__(self, follower: Follower) -> None:
        self.follower: Follower | None = follower


current_request: ContextVar[CurrentRequest | None] = ContextVar(
    "otel_lifecycle_request", default=None
)


def claim(clock: Clock | None = None) -> int | None:
    """Tells whatever follows the current request that somebody else tracks it.

    Args:
        clock: What it is tracked by.

    Returns:
        As `Follower.yield_to_another`; None if nothing follows it.
    """
    current = current_request.get()
    if current is None or current.follower is None:
        return None
    return current.follower.yield_to_another(clock)


def restore(token: Token[CurrentRequest | None]) -> None:
    """Ends what `current_request.set` began, if this is the context it began in.

    A coroutine that nobody finished is closed by the garbage collector, in any context.
    """
    try:  # noqa: SIM105  on the path of each request
        current_request.reset(token)
    except ValueError:
        pass
