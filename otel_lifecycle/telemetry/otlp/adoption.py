"""Has the exporters that others have set up encode spans as ours does, under zero code."""

from __future__ import annotations

import weakref
from collections.abc import Iterator

from opentelemetry.sdk.trace.export import SpanExporter

_SDK_EXPORTERS = "opentelemetry.exporter.otlp."

_users: set[object] = set()
_adopted: weakref.WeakSet[SpanExporter] = weakref.WeakSet()


def adopt_all(provider: object, user: object) -> None:
    """Adopt the SDK's OTLP exporters that the processors of a provider export through.

    Args:
        provider: The provider, of any kind.
        user: Who wants it, until `release_all`.
    """
    _users.add(user)
    for exporter in _exporters(provider):
        if type(exporter).__module__.startswith(_SDK_EXPORTERS):
            # Imported late: a process that exports nothing needs no encoder.
            from otel_lifecycle.telemetry.otlp.exporter import adopt

            if adopt(exporter):
                _adopted.add(exporter)


def release_all(user: object) -> None:
    """Have them encode spans themselves again, once nobody wants it any more."""
    _users.discard(user)
    while _adopted and not _users:
        vars(_adopted.pop()).pop("export", None)


def _exporters(provider: object) -> Iterator[SpanExporter]:
    together = getattr(provider, "_active_span_processor", None)
    for processor in getattr(together, "_span_processors", ()):
        exporter = getattr(processor, "span_exporter", None)
        if isinstance(exporter, SpanExporter):
            yield exporter
