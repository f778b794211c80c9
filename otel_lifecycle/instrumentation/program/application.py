"""Switches the instrumentations on, without `opentelemetry-instrument`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.metadata import distribution
from typing import Any, TypeVar, cast

import wrapt
from opentelemetry.instrumentation.environment_variables import (
    OTEL_PYTHON_DISABLED_INSTRUMENTATIONS,
)

from otel_lifecycle.instrumentation.base import RouterInstrumentor
from otel_lifecycle.instrumentation.generic import GenericRouterInstrumentor

_DISTRIBUTION = "otel-lifecycle"
_GROUP = "opentelemetry_instrumentor"
# Their applications are followed where they route, or by their server.
_KNOWN = {("starlette.routing", "Router"), ("aiohttp.web_app", "Application")}

_App = TypeVar("_App")


def switch_on(settings: Mapping[str, Any]) -> GenericRouterInstrumentor | None:
    """Switch on all instrumentations that are not disabled.

    Args:
        settings: As for `RouterInstrumentor.instrument`.

    Returns:
        The one for any application; None if it is disabled.
    """
    disabled = os.environ.get(OTEL_PYTHON_DISABLED_INSTRUMENTATIONS, "").replace(" ", "").split(",")
    generic: GenericRouterInstrumentor | None = None
    for entry_point in distribution(_DISTRIBUTION).entry_points.select(group=_GROUP):
        if "*" in disabled or entry_point.name in disabled:
            continue
        instrumentor = cast("RouterInstrumentor", entry_point.load()())
        if not instrumentor.is_instrumented_by_opentelemetry:
            instrumentor.instrument(**settings)
        if isinstance(instrumentor, GenericRouterInstrumentor):
            generic = instrumentor
    return generic


def followed(app: _App, generic: GenericRouterInstrumentor | None) -> _App:
    """Return what to serve in place of an application, so that its requests are followed."""
    if generic is None or _is_followed(app):
        return app
    return cast("_App", wrapt.FunctionWrapper(cast("Any", app), generic.serve))


def _is_followed(app: object) -> bool:
    if isinstance(app, wrapt.FunctionWrapper):
        return True
    routing = getattr(app, "router", app)  # of an application of Starlette
    return any(
        (kind.__module__, kind.__qualname__) in _KNOWN
        for one in (app, routing)
        for kind in type(one).__mro__
    )
