"""What follows the request that a context serves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
