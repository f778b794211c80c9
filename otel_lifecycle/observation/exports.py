"""Sends what is observed over OTLP, as OpenTelemetry's variables say."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.util.types import AttributeValue

from otel_lifecycle.records import Follower
from otel_lifecycle.records.shipping import Checkpoint, Counts, Sender, Shipper
from otel_lifecycle.telemetry.otlp.destinations import metric_exporter

_END_SECONDS = 5.0


def open_meter_provider(resource: Resource) -> MeterProvider | None:
    """Return what exports metrics; None if there is no destination.

    Raises:
        ValueError: A variable is invalid.
    """
    exporter = metric_exporter()
    if exporter is None:
        return None
    return MeterProvider([PeriodicExportingMetricReader(exporter)], resource)


class SpanExport:
    """Sends the records of a file as spans, on a thread of its own.

    Args:
        records: The record file.
        checkpoint: File for the position up to which the collector has accepted records.
        resource: Resource attributes that a record does not keep.
        tell: Called with each line for the user.

    Raises:
        ValueError: A variable or the checkpoint is invalid.
        OSError: The checkpoint cannot be read or written.
    """

    def __init__(
        self,
        records: Path,
        checkpoint: Path,
        resource: Mapping[str, AttributeValue],
        tell: Callable[[str], None],
    ) -> None:
        self._sender = Sender()
        self._checkpoint = Checkpoint(checkpoint)
        self._follower = Follower(records, position=self._checkpoint.load([records]))
        self._shipper = Shipper(
            self._follower, self._checkpoint, self._sender, tell, resource=resource
        )
        self._thread: threading.Thread | None = None

    @property
    def counts(self) -> Counts:
        """The results so far."""
        return self._shipper.counts

    def start(self) -> None:
        """Send records as they are written, until `close`."""
        self._thread = threading.Thread(
            target=self._shipper.run,
            kwargs={"follow": True},
            name="otel-lifecycle-observe-spans",
            daemon=True,
        )
        self._thread.start()

    def finish(self) -> bool:
        """Send all current records; return whether the collector has them."""
        return self._shipper.run(follow=False)

    def close(self) -> None:
        """Stop within a few seconds; what was not sent is sent after the next start."""
        self._shipper.stop()
        if self._thread is not None:
            self._thread.join(_END_SECONDS)
            if self._thread.is_alive():
                self._sender.close()
                self._thread.join(_END_SECONDS)
        self._follower.close()
        self._checkpoint.close()
