"""The span processor that writes the record of every finished lifecycle span to a file."""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterator
from typing import NamedTuple

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.trace import SpanContext

from otel_lifecycle.config import ConfigError, PersistenceConfig
from otel_lifecycle.model.record import LifecycleRecord
from otel_lifecycle.records.writer import RecordWriter
from otel_lifecycle.telemetry.span_reader import is_lifecycle_span, record_from_span

_SHUTDOWN_MILLIS = 5_000


class _Handover(NamedTuple):
    """A record, the name of the store it comes from, and the processors that have taken it."""

    record: LifecycleRecord
    store_name: str
    taken_by: list[object]


_offered: dict[tuple[int, int], _Handover] = {}


def offer(context: SpanContext, record: LifecycleRecord, store_name: str) -> None:
    """Makes a record available to the processors of its span, until `withdraw`.

    That is cheaper than reading it back from attributes, and a span that is not sampled has none.
    """
    _offered[context.trace_id, context.span_id] = _Handover(record, store_name, [])


def withdraw(context: SpanContext) -> None:
    """The span has ended."""
    _offered.pop((context.trace_id, context.span_id), None)


class LifecycleSpanProcessor(SpanProcessor):
    """Writes finished lifecycle spans as JSON Lines records; ignores other spans.

    Add it with `TracerProvider.add_span_processor`, or add several with different files. It writes
    sampled and RECORD_ONLY spans; with `RecordAllSampler` the file has every request. It never
    raises and does no I/O on the caller's thread. If persistence is enabled, a tracker creates its
    own processor and passes every request to it directly.

    Args:
        config: Enabled settings.
        store_name: Write only the spans of that store; None: of all stores.

    Raises:
        ConfigError: Persistence is not enabled, or the file cannot be written.
    """

    def __init__(self, config: PersistenceConfig, store_name: str | None = None) -> None:
        if not config.enabled:
            raise ConfigError("persistence.enabled is False: there is nothing to process")
        try:
            self._writer = RecordWriter(config)
        except (OSError, ValueError, RuntimeError) as error:
            raise ConfigError(
                f"persistence.outputPath {config.output_path!r} cannot be written: {error}"
            ) from error
        self._store_name = store_name
        # If it is collected without a shutdown, the queued records are still written.
        weakref.finalize(self, self._writer.close_soon).atexit = False

    def attach(self, provider: TracerProvider) -> None:
        """Flush when a provider does; its shutdown does not close the processor, `close` does."""
        attached = _attached.get(provider)
        if attached is None:
            attached = _attached[provider] = _Attached()
            provider.add_span_processor(attached)
        attached.processors.add(self)

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Do nothing."""

    def on_end(self, span: ReadableSpan) -> None:
        """Queue the record of a lifecycle span."""
        try:
            if not is_lifecycle_span(span) or span.context is None:
                return
            handover = _offered.get((span.context.trace_id, span.context.span_id))
            if handover is None:
                if self._store_name is None:
                    self._writer.put(record_from_span(span))
            elif self._store_name in (None, handover.store_name) and self not in handover.taken_by:
                handover.taken_by.append(self)
                self._writer.put(handover.record)
        except Exception as error:
            self._writer.count_drop(f"span {span.name!r} cannot be recorded: {error}")

    def take(self, records: Iterator[LifecycleRecord]) -> None:
        """Queue the remaining records of an iterator.

        A tracker calls this directly. There may be no SDK, it may be disabled or drop the span, and
        another processor may raise before this one is called.
        """
        self._writer.put_from(records)

    @property
    def closed(self) -> bool:
        """Whether it accepts no more records."""
        return self._writer.closed

    @property
    def queued(self) -> int:
        """Records waiting to be written."""
        return self._writer.queued

    @property
    def written(self) -> int:
        """Records written so far."""
        return self._writer.written

    @property
    def dropped(self) -> int:
        """Records lost so far."""
        return self._writer.dropped

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Write the queued records; return False on failure or after `timeout_millis`."""
        return self._writer.flush(timeout_millis / 1000)

    def shutdown(self) -> None:
        """Write the queued records and accept no more; idempotent, limited to a few seconds."""
        self._writer.close()

    def close(self, timeout: float) -> None:
        """Do the same as `shutdown`, for at most `timeout` seconds."""
        self._writer.close(timeout)


class _Attached(SpanProcessor):
    """Represents the processors of all trackers at a provider, which cannot remove a processor.

    Trackers pass their records directly; the provider only triggers flushes. It is often shut down
    before a tracker; requests still in flight are recorded even then.
    """

    def __init__(self) -> None:
        self.processors: weakref.WeakSet[LifecycleSpanProcessor] = weakref.WeakSet()

    def shutdown(self) -> None:
        self.force_flush(_SHUTDOWN_MILLIS)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        deadline = time.monotonic() + timeout_millis / 1000
        flushed = True
        for processor in list(self.processors):
            if not processor.closed:
                left = round(max(0.0, deadline - time.monotonic()) * 1000)
                flushed = processor.force_flush(left) and flushed
        return flushed


_attached: weakref.WeakKeyDictionary[TracerProvider, _Attached] = weakref.WeakKeyDictionary()
