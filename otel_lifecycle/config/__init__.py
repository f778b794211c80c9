"""Settings, and the places they come from."""

from otel_lifecycle.config.collection import CollectionConfig, TargetConfig
from otel_lifecycle.config.prediction import PredictionConfig
from otel_lifecycle.config.prompt import PromptConfig
from otel_lifecycle.config.settings import ConfigError
from otel_lifecycle.config.tracker import (
    CONFIG_FILE_VARIABLE,
    PersistenceConfig,
    TrackerConfig,
    environment_variables,
    unknown_variables,
)

__all__ = [
    "CONFIG_FILE_VARIABLE",
    "CollectionConfig",
    "ConfigError",
    "PersistenceConfig",
    "PredictionConfig",
    "PromptConfig",
    "TargetConfig",
    "TrackerConfig",
    "environment_variables",
    "unknown_variables",
]
