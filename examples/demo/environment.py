"""The environment that makes the demo's router export and record."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path

SERVICE_NAME = "hermes-router-demo"

_ENDPOINTS = (
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
)
_OURS = "hermes_router"


def chosen_endpoint(environment: Mapping[str, str]) -> str | None:
    """Return the user's own endpoint for telemetry."""
    return next((environment[name] for name in _ENDPOINTS if environment.get(name)), None)


def router_environment(
    environment: Mapping[str, str], records: Path, receiver: str | None
) -> dict[str, str]:
    """Return the router's environment.

    Args:
        environment: The user's environment.
        records: The record file.
        receiver: The demo's own OTLP receiver; None keeps the user's own export.
    """
    defaults = {
        "OTEL_SERVICE_NAME": SERVICE_NAME,
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_METRICS_EXPORTER": "otlp",
        "OTEL_LOGS_EXPORTER": "none",
        "OTEL_BSP_SCHEDULE_DELAY": "500",
        "OTEL_METRIC_EXPORT_INTERVAL": "500",  # a demo ends within the default minute
    }
    if receiver is None:
        result = {**defaults, **environment}
    else:
        kept = {name: value for name, value in environment.items() if not name.startswith("OTEL_")}
        result = {
            **kept,
            **defaults,
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            # Otherwise the exporter would use a proxy for this machine.
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }
    return {
        **result,
        "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": ",".join(_other_instrumentations()),
        "OTEL_LIFECYCLE_PERSISTENCE_OUTPUT_PATH": str(records),
        "OTEL_LIFECYCLE_PERSISTENCE_FLUSH_INTERVAL": "500ms",
        "OTEL_LIFECYCLE_PERSISTENCE_FLUSH_THRESHOLD": "50",
    }


def _other_instrumentations() -> list[str]:
    """Return other installed instrumentations, whose spans would be counted too."""
    names = {point.name for point in entry_points(group="opentelemetry_instrumentor")}
    return sorted(names - {_OURS})
