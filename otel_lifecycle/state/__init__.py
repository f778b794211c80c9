"""Collects, in the background, the state of engines and devices that a router lacks."""

from otel_lifecycle.state.collector import Collector

__all__ = ["Collector"]
