"""Which spans the process that writes the records sends, instead of the router."""

from __future__ import annotations

from otel_lifecycle.records.process.orders import Export
from otel_lifecycle.telemetry.lifecycle_span import LifecycleSpan
from otel_lifecycle.telemetry.told import Told


class Handover:
    """Hands the spans of one store over, while there is a process that sends them. Thread-safe.

    Only spans that say what their record says: others, and those of other instrumentations, stay
    with the router's exporter.

    Args:
        store_name: The store; None: of all stores.

    Attributes:
        export: How they are sent; None: not by a process.
        is_open: Whether a process is there to send them.
    """

    def __init__(self, store_name: str | None) -> None:
        self._store_name = store_name
        self.export: Export | None = None
        self.is_open = False

    def takes(self, span: object) -> bool:
        """Return whether a span that has just ended is sent with its record."""
        export = self.export
        if not self.is_open or export is None or not isinstance(span, LifecycleSpan):
            return False
        told, manner = span.told, span.told.manner
        if (
            self._store_name not in (None, manner.store_name)
            or manner.details != export.details
            or not span.is_plain
        ):
            return False
        told.span_goes_along = True
        return True

    def content(self, told: Told) -> object:
        """Return what stands for a request in its line."""
        return [told.record] if told.span_goes_along and self.is_open else told.record
