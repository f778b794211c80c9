"""What needs an extra, and takes long to import: opened only where the settings ask for it."""

from __future__ import annotations

from typing import Protocol

from otel_lifecycle.config import ConfigError, TrackerConfig
from otel_lifecycle.model.record import LifecycleRecord
from otel_lifecycle.tracking.attachments import StateCollector
from otel_lifecycle.tracking.lifecycle import Lifecycle
from otel_lifecycle.tracking.store import LifecycleStore


class ShadowPredictor(Protocol):
    """What predicts for requests whose router did not; no method waits."""

    def predict(self, lifecycle: Lifecycle) -> None:
        """Has a request in flight predicted."""
        ...

    def learn(self, record: LifecycleRecord) -> None:
        """Takes in a finished request."""
        ...

    def close(self, timeout: float) -> None:
        """Stops it, in `timeout` seconds at most."""
        ...


def open_collector(config: TrackerConfig, store: LifecycleStore) -> StateCollector:
    """Starts the collection loop.

    Raises:
        ConfigError: The extra is missing, or a certificate cannot be read.
    """
    try:
        from otel_lifecycle.state import Collector
    except ImportError as error:
        raise ConfigError(f"collection.enabled: {error}; {_INSTALL}") from error
    return Collector(config, store)


def open_shadow(config: TrackerConfig) -> ShadowPredictor | None:
    """Starts shadow prediction, if there is a service for it.

    Raises:
        ConfigError: The extra is missing.
    """
    if not (config.prediction.url or config.prediction.training_url):
        return None
    try:
        from otel_lifecycle.prediction.shadow import ShadowPrediction
    except ImportError as error:
        raise ConfigError(f"prediction.url: {error}; {_INSTALL}") from error
    return ShadowPrediction(config.prediction)


_INSTALL = "install the extra: pip install 'otel-lifecycle[collect]'"
