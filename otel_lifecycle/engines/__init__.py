"""Engine metrics, from the bytes an engine serves to `EndpointMetrics`."""

from __future__ import annotations

from collections.abc import Mapping

from otel_lifecycle.model import EndpointMetrics


def read(exposition: bytes, scraped_at: float) -> Mapping[str, EndpointMetrics]:
    """The metrics of each data-parallel rank in an engine's `/metrics`.

    The engine is recognised by the prefix of its metric names. Never raises.

    Args:
        exposition: The body, in Prometheus' text format or OpenMetrics.
        scraped_at: When it was fetched, in seconds since the epoch: the `update_time`.

    Returns:
        The metrics by rank, as the engine names it (`"0"`, `"1"`), or `""` where it names none;
        nothing where the body has no series of a known engine.
    """
    return {}
