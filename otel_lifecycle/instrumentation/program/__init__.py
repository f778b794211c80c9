"""For programs that start themselves: what `opentelemetry-instrument` does, in two lines."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from typing import Any, TypeVar

from otel_lifecycle.config import TrackerConfig
from otel_lifecycle.runtime.text import shown

_App = TypeVar("_App", bound=Callable[..., Any])

_settings: dict[str, Any] = {}


def configure(
    *,
    service_name: str | None = None,
    otlp_endpoint: str | None = None,
    record_path: str | os.PathLike[str] | None = None,
    **settings: Any,
) -> None:
    """Set up OpenTelemetry's SDK, and the settings of `instrument`; call it once, before that.

    Global providers that are set up already stay as they are. Spans and metrics are exported over
    OTLP if there is an endpoint, here or in `OTEL_EXPORTER_OTLP_ENDPOINT`; OpenTelemetry's other
    variables apply as always. Not thread-safe.

    Args:
        service_name: `service.name` of the router. Default: `OTEL_SERVICE_NAME`.
        otlp_endpoint: Where to send spans and metrics, such as `http://localhost:4317`.
        record_path: The record file. Default: `OTEL_LIFECYCLE_PERSISTENCE_OUTPUT_PATH`; without
            either there is none.
        **settings: As for `TrackerConfig.from_environment`.

    Raises:
        ConfigError: A setting is invalid; nothing was changed.
        ValueError: One of OpenTelemetry's variables is invalid.
    """
    global _settings
    if record_path is not None:
        settings["persistence_output_path"] = os.fspath(record_path)
    TrackerConfig.for_zero_code(**settings)
    # Imported late: a program that only tracks requests by the handle needs no exporter.
    from otel_lifecycle.instrumentation.program.sdk import set_up

    set_up(service_name, otlp_endpoint)
    _settings = settings


def instrument(app: _App) -> _App:
    """Follow the inference requests that an application serves; call it before it is served.

    All instrumentations of the package are switched on for this process, with the settings of
    `configure`, else those of the environment, as under `opentelemetry-instrument`;
    `OTEL_PYTHON_DISABLED_INSTRUMENTATIONS` leaves some out. A second call for the same application
    changes nothing. Not thread-safe.

    Args:
        app: An ASGI application, or one of aiohttp's server.

    Returns:
        The application to serve: the same one, unless it is of a framework that is not known.

    Raises:
        ConfigError: A setting is invalid; nothing is instrumented.
        TypeError: It is no such application.
    """
    _check(app)
    TrackerConfig.for_zero_code(**_settings)
    from otel_lifecycle.instrumentation.program.application import followed, switch_on

    return followed(app, switch_on(_settings))


def _check(app: object) -> None:
    kind = type(app).__module__.partition(".")[0]
    if kind == "aiohttp":
        return
    try:
        if isinstance(app, type):
            raise TypeError
        inspect.signature(app).bind({}, None, None)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError):
        raise TypeError(
            "app must be an ASGI application, which is called with scope, receive and send, or an "
            f"aiohttp.web.Application; got {shown(app)}"
        ) from None
