"""State of engines and devices that a router does not have: asked for in the background."""

from otel_lifecycle.state.collector import Collector

__all__ = ["Collector"]
