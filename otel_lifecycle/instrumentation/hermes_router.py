"""Instruments the example router, a small relative of openFuyao's hermes-router.

It is also the pattern for your own router if its scheduler is shaped like that of the Gateway API
Inference Extension: find the methods that dispatch a request, receive its response and learn of
endpoints, and pass their arguments to the tracker.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from otel_lifecycle.instrumentation.base import RouterInstrumentor, Wrapper
from otel_lifecycle.runtime.logs import get_logger
from otel_lifecycle.tracking.tracker import RequestLifecycleTracker

_logger = get_logger(__name__)


class HermesRouterInstrumentor(RouterInstrumentor):
    """Passes the router's calls to the tracker; loaded by `opentelemetry-instrument`."""

    def wrappers(self) -> Mapping[str, Mapping[str, Wrapper]]:
        """Return the methods for dispatch, response, rejection and endpoint events."""
        return {
            "hermes_router.director": {
                "Director.pre_request": self._after(_pre_request),
                "Director.response_body": self._after(_response_body),
                "Director.reject": self._after(_reject),
            },
            "hermes_router.datastore": {"Datastore.apply": self._after(_apply)},
        }

    def _after(self, observe: Callable[..., None]) -> Wrapper:
        """Return a wrapper that observes the method after it has returned, not if it raises."""

        def wrapper(
            wrapped: Callable[..., Any],
            _instance: Any,
            args: tuple[Any, ...],
            kwargs: dict[str, Any],
        ) -> Any:
            result = wrapped(*args, **kwargs)
            tracker = self.tracker
            if tracker is not None:
                try:
                    observe(tracker, *args, **kwargs)
                except Exception:
                    _logger.debug(
                        "observing %s failed: its call is not tracked", wrapped, exc_info=True
                    )
            return result

        return wrapper


def _pre_request(tracker: RequestLifecycleTracker, request: Any, scheduling_result: Any) -> None:
    if request.attempt > 1:
        tracker.reroute_request(request, scheduling_result, request.retry_reason)
    else:
        tracker.pre_request(request, scheduling_result, request.inbound_headers)
    tracker.inject(request, request.headers)


def _response_body(
    tracker: RequestLifecycleTracker, request: Any, response: Any, target_endpoint: Any
) -> None:
    tracker.response_body(request, response, target_endpoint)


def _reject(tracker: RequestLifecycleTracker, request: Any, reason: str) -> None:
    tracker.reject(request, reason, request.inbound_headers)


def _apply(tracker: RequestLifecycleTracker, event: Any) -> None:
    tracker.extract_endpoint(event)
