"""What follows the request that a context serves; what goes wrong there is kept from its router."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar

from otel_lifecycle.instrumentation.routing import Routing
from otel_lifecycle.tracking.current_request import CurrentRequest, current_request

if TYPE_CHECKING:
    from otel_lifecycle.instrumentation.http.exchange import Exchange


def exchange_of(current: CurrentRequest | None) -> Exchange | None:
    """What follows a request; None when it has ended."""
    follower: Any = None if current is None else current.follower
    return follower


def current_exchange() -> Exchange | None:
    """What follows the request that this context serves; None when it has ended."""
    return exchange_of(current_request.get())


def current_routing() -> Routing | None:
    """Where the current request goes, to be told more; None when it is not followed."""
    exchange = current_exchange()
    return None if exchange is None or exchange.claimed else exchange.routing


class Fallible(Protocol):
    """Follows a request as long as nothing goes wrong.

    Attributes:
        claimed: It follows the request no further.
    """

    claimed: bool

    def give_up(self) -> None:
        """Follows the request no further: an exception of ours is being handled."""
        ...


_F = TypeVar("_F", bound=Fallible)
_P = ParamSpec("_P")
_R = TypeVar("_R")


def safely(method: Callable[Concatenate[_F, _P], _R]) -> Callable[Concatenate[_F, _P], _R | None]:
    """Does nothing for a claimed request, and gives it up when the method raises."""

    @wraps(method)
    def safe(self: _F, *args: _P.args, **kwargs: _P.kwargs) -> _R | None:
        if self.claimed:
            return None
        try:
            return method(self, *args, **kwargs)
        except Exception:
            self.give_up()
            return None

    return safe
