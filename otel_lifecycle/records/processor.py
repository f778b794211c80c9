"""The span processor that writes the record of every finished lifecycle span to a file."""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterator
from functools import partial

from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider

from otel_lifecycle.config import ConfigError, PersistenceConfig
from otel_lifecycle.config.tracker import Writer
from otel_lifecycle.records.process import Handover, ProcessFile
from otel_lifecycle.records.writer import RecordWriter
from otel_lifecycle.telemetry.lifecycle_span import told_by
from otel_lifecycle.telemetry.span_reader import is_lifecycle_span, record_from_span
from otel_lifecycle.telemetry.told import Told

_SHUTDOWN_MILLIS = 5_000


class LifecycleSpanProcessor(SpanProcessor):
    """Writes finished lifecycle spans as JSON Lines records; ignores other spans.

    Add it with `TracerProvider.add_span_processor`, or add several with different files. It writes
    sampled and RECORD_ONLY spans; with `RecordAllSampler` the file has every request. It never
    raises and does no I/O on the caller's thread. If persistence is enabled, a tracker creates its
    own processor and passes every request to it directly.

    Args:
        config: Enabled settings.
        store_name: Write only the spans of that store; None: of all stores.
        writer: Who writes: a `thread`, or a `process` of its own.

    Attributes:
        handover: Which spans that process sends, too; None: there is none.

    Raises:
        ConfigError: Persistence is not enabled, or the file cannot be written.
    """

    def __init__(
        self,
        config: PersistenceConfig,
        store_name: str | None = None,
        writer: Writer = "thread",
    ) -> None:
        if not config.enabled:
            raise ConfigError("persistence.enabled is False: there is nothing to process")
        self.handover = Handover(store_name) if writer == "process" else None
        try:
            if self.handover is None:
                self._writer = RecordWriter(config)
            else:
                open_file = partial(ProcessFile, self.handover)
                self._writer = RecordWriter(config, open_file, self.handover.content)
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

    def on_end(self, span: ReadableSpan) -> None:
        """Queue the record of a lifecycle span."""
        try:
            told = told_by(span)
            if told is None:
                if self._store_name is None and is_lifecycle_span(span):
                    self._writer.put(record_from_span(span))
            elif (
                self._store_name in (None, told.manner.store_name)
                and self._writer not in told.taken_by
            ):
                told.taken_by = (*told.taken_by, self._writer)
                self._writer.put(told)
        except Exception as error:
            self._writer.count_drop(f"span {span.name!r} cannot be recorded: {error}")

    def take(self, requests: Iterator[Told]) -> None:
        """Queue the records of the remaining requests of an iterator.

        A tracker calls this directly. There may be no SDK, it may be disabled or drop the span, and
        another processor may raise before this one is called.
        """
        self._writer.put_from(requests)

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
