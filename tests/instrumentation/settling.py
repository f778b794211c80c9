"""What an instrumented router has recorded, once it is done."""

from __future__ import annotations

from pathlib import Path

from otel_lifecycle import LifecycleRecord, Load, RequestLifecycleTracker, read_records
from otel_lifecycle.testing import InMemoryTelemetry
from tests.waiting import eventually


def settled_records(
    tracker: RequestLifecycleTracker | None, telemetry: InMemoryTelemetry, path: Path, count: int
) -> list[LifecycleRecord]:
    """Wait for the records; each has a span, and nothing is in flight."""
    assert tracker is not None
    # The span ends last: after the load is given back, and the record is queued.
    eventually(lambda: len(telemetry.spans) >= count)
    assert tracker.flush(timeout=30)
    records = list(read_records(path))
    spans = [format(span.context.span_id, "016x") for span in telemetry.spans if span.context]
    assert [record.span_id for record in records] == spans
    assert len(records) == count
    assert tracker.store.active_requests == 0
    assert set(tracker.store.loads().values()) <= {Load()}
    return records
