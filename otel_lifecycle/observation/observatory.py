"""Puts the parts of an observer together, and takes them apart."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.resources import Resource

from otel_lifecycle.config import PersistenceConfig, TrackerConfig
from otel_lifecycle.config.settings import missing_extra
from otel_lifecycle.model.record import LifecycleRecord
from otel_lifecycle.observation.endpoints import Endpoints, read_endpoints
from otel_lifecycle.observation.envoy.join import Counts, Joiner
from otel_lifecycle.observation.envoy.lifecycles import Lifecycles
from otel_lifecycle.observation.exports import SpanExport, open_meter_provider
from otel_lifecycle.observation.log_file import LogFile
from otel_lifecycle.observation.observer import Observer
from otel_lifecycle.observation.otlp.logs import LOGS, OtlpLogs
from otel_lifecycle.observation.otlp.server import OtlpServer
from otel_lifecycle.observation.otlp.traces import TRACES, OtlpTraces
from otel_lifecycle.observation.picker.log import PickerLog
from otel_lifecycle.observation.picker.picker import Picker
from otel_lifecycle.observation.picker.spans import PickerSpans
from otel_lifecycle.observation.progress import Progress, ProgressFile
from otel_lifecycle.observation.sinks import Printer, Recorder
from otel_lifecycle.records import FilePosition
from otel_lifecycle.records.names import absolute
from otel_lifecycle.records.shipping import Counts as SpanCounts
from otel_lifecycle.records.shipping import Sender
from otel_lifecycle.runtime.clock import SystemClock
from otel_lifecycle.telemetry.metrics import LifecycleMetrics
from otel_lifecycle.telemetry.otlp.destinations import has_destination
from otel_lifecycle.telemetry.span_reader import RESOURCE_KEYS, resource_attributes
from otel_lifecycle.tracking.shadowing import open_shadow
from otel_lifecycle.tracking.store import LifecycleStore

if TYPE_CHECKING:
    from otel_lifecycle.prediction.shadow import ShadowPrediction

_CLOSE_SECONDS = 5.0
_LOAD_SECONDS = 60.0


@dataclass(frozen=True)
class Options:
    """What to observe, and where records go.

    Attributes:
        log: Envoy's access log; None: it comes over OTLP.
        otlp: Where to listen for the picker's spans, and for the log if it is no file, `host:port`;
            empty: nowhere.
        output: The record file; None: records are printed.
        checkpoint: File for the progress. Default: the record file's name with `.observe`.
        endpoints: File with what is known of endpoints beside their address.
        abandon_after: Seconds after which a request whose end did not come counts as abandoned.
        picker_log: The picker's debug log; None: it is not read.
        picker_wait: Seconds to wait for what the picker tells of a request that has ended.
    """

    log: Path | None
    otlp: str
    output: Path | None
    checkpoint: Path | None
    endpoints: Path | None
    abandon_after: float
    picker_log: Path | None = None
    picker_wait: float = 10.0


class Observatory:
    """An observer with all it needs, made of options and of the environment's settings.

    `OTEL_LIFECYCLE_*` variables set rotation of the record file, collection and prediction, as for
    a tracker. Spans and metrics go where OpenTelemetry's variables say, if they name a place.

    Args:
        options: What to observe.
        output: Where records are printed if there is no file.
        tell: Called with each line for the user.

    Raises:
        ConfigError: A setting is refused.
        ValueError: A file, variable or checkpoint is invalid.
        OSError: A file cannot be opened.
    """

    def __init__(self, options: Options, output: TextIO, tell: Callable[[str], None]) -> None:
        self._stack = ExitStack()
        self._recorder: Recorder | None = None
        self._spans: SpanExport | None = None
        try:
            self._open(options, output, tell)
        except BaseException:
            self._stack.close()
            raise

    def _open(self, options: Options, output: TextIO, tell: Callable[[str], None]) -> None:
        self._log_name = f"otlp://{options.otlp}" if options.log is None else absolute(options.log)
        settings = TrackerConfig.from_environment(
            persistence_output_path=None if options.output is None else str(options.output)
        )
        persistence = settings.persistence
        config = settings.model_copy(update={"persistence": PersistenceConfig()})
        progress = Progress(str(self._log_name))
        self._progress_file: ProgressFile | None = None
        sink: Printer | Recorder
        if options.output is None:
            sink = Printer(output)
        else:
            path = options.checkpoint or options.output.with_name(f"{options.output.name}.observe")
            self._progress_file = self._stack.enter_context(ProgressFile(path))
            progress = self._progress_file.load(str(self._log_name))
            written = None if progress.saved_ns is None else progress.written
            sink = self._recorder = Recorder(persistence, tell, written)
            self._stack.callback(self._recorder.close)
        resource = Resource.create()
        store = LifecycleStore.shared(config)
        self._stack.callback(store.release, _CLOSE_SECONDS)
        if store.collector is not None:
            store.collector.ensure_running()
        provider = open_meter_provider(resource)
        if provider is not None:
            self._stack.callback(provider.shutdown)
        clock = SystemClock()
        metrics = LifecycleMetrics(
            store, config, provider or NoOpMeterProvider(), lambda: None, clock
        )
        self._stack.callback(metrics.close)
        picker = self._open_picker(options, progress)
        lifecycles = Lifecycles(
            config,
            store,
            self._open_endpoints(options, config),
            clock,
            resource_attributes(resource.attributes),
            self._open_shadow(config, tell),
            picker,
        )

        def measure(record: LifecycleRecord) -> None:
            sink.put(record)
            metrics.record(record)

        done = sink.put if provider is None else measure
        self._joiner = Joiner(lifecycles, done, abandon_after=options.abandon_after, picker=picker)
        self._joiner.restore(progress.open)
        self._log: LogFile | OtlpLogs
        if options.log is None:
            self._log = OtlpLogs()
        else:
            self._log = LogFile(options.log, progress.position, progress.saved_ns)
        self._stack.callback(self._log.close)
        if options.otlp:
            self._serve(options.otlp)
        save = None
        if self._progress_file is not None:
            if progress.saved_ns is None:
                progress.saved_ns = clock.wall_ns()
                progress.written = self._written()
            self._progress_file.save(progress)  # fail now if it cannot be written
            save = self._save
        self._observer = Observer(self._log, self._picker_log, self._joiner, sink, save, tell)
        if has_destination("TRACES"):
            self._open_spans(options, resource, tell)

    def _open_spans(
        self, options: Options, resource: Resource, tell: Callable[[str], None]
    ) -> None:
        if options.output is None or self._progress_file is None:
            tell("no spans are sent: they are made of the record file, which --output names")
            return
        checkpoint = self._progress_file.path
        others = {
            key: value for key, value in resource.attributes.items() if key not in RESOURCE_KEYS
        }
        self._spans = SpanExport(
            absolute(options.output),
            checkpoint.with_name(f"{checkpoint.name}.spans"),
            others,
            tell,
        )
        self._stack.callback(self._spans.close)

    def _open_picker(self, options: Options, progress: Progress) -> Picker | None:
        hold_for = options.abandon_after
        self._picker_log: PickerLog | None = None
        if options.picker_log is not None:
            self._picker_log = PickerLog(options.picker_log, progress.picker, hold_for=hold_for)
            self._stack.callback(self._picker_log.close)
        self._picker_spans: PickerSpans | None = None
        if options.otlp:
            self._picker_spans = PickerSpans(progress.spans, hold_for=hold_for)
        if self._picker_log is None and self._picker_spans is None:
            return None
        return Picker(self._picker_log, self._picker_spans, options.picker_wait)

    def _serve(self, address: str) -> None:
        assert self._picker_spans is not None
        traces = OtlpTraces(self._picker_spans, Sender() if has_destination("TRACES") else None)
        exports = {TRACES: traces.export}
        if isinstance(self._log, OtlpLogs):
            exports[LOGS] = self._log.export
        server = OtlpServer(address, exports)
        self._stack.callback(server.close)
        self._stack.callback(traces.close)

    def _open_endpoints(self, options: Options, config: TrackerConfig) -> Endpoints:
        named = {} if options.endpoints is None else read_endpoints(options.endpoints)
        if not config.collection.engine_pods:
            return Endpoints(named)
        try:
            from otel_lifecycle.observation.pods import EnginePods  # needs an extra
        except ImportError as error:
            raise missing_extra("collection.engine_pods", error) from error
        pods = EnginePods(config.collection)
        self._stack.callback(pods.close, _CLOSE_SECONDS)
        pods.wait(_CLOSE_SECONDS)
        return Endpoints(named, pods.by_address)

    def _open_shadow(
        self, config: TrackerConfig, tell: Callable[[str], None]
    ) -> ShadowPrediction | None:
        shadow = open_shadow(config)
        if shadow is None:
            return None
        self._stack.callback(shadow.close, _CLOSE_SECONDS)
        # Until then, a log may tell of more requests than can wait for their predictions.
        if config.prediction.model and not shadow.wait_until_ready(_LOAD_SECONDS):
            tell(
                f"prediction.model: {config.prediction.model}: not loaded after "
                f"{_LOAD_SECONDS:g} s; requests are recorded without a prediction until it is"
            )
        return shadow

    @property
    def counts(self) -> Counts:
        """What became of entries and requests."""
        return self._joiner.counts

    @property
    def problems(self) -> int:
        """Lines that are no entries, unreadable files, and lost lines."""
        return self._observer.problems

    @property
    def unfinished(self) -> str:
        """The place of a last line without its end; empty: there is none."""
        return self._log.unfinished

    @property
    def open_requests(self) -> int:
        """How many requests are in flight."""
        return self._joiner.open_requests

    @property
    def repeated(self) -> int:
        """Records that were in the file already when this observer started."""
        return 0 if self._recorder is None else self._recorder.repeated

    @property
    def spans(self) -> SpanCounts | None:
        """What became of the spans; None: none are sent."""
        return None if self._spans is None else self._spans.counts

    def run(self, *, follow: bool) -> bool:
        """Observe.

        Args:
            follow: Continue with new lines until `stop`.

        Returns:
            Whether everything there was is recorded, and sent.
        """
        if self._spans is None:
            return self._observer.run(follow=follow)
        if follow:
            self._spans.start()
            return self._observer.run(follow=True)
        return self._observer.run(follow=False) and self._spans.finish()

    def stop(self) -> None:
        """Let `run` return soon; callable from any thread."""
        self._observer.stop()

    def close(self) -> None:
        """Close everything; idempotent."""
        self._stack.close()

    def _save(self) -> None:
        in_flight = self._joiner.request_ids()
        log, spans = self._picker_log, self._picker_spans
        assert self._progress_file is not None
        self._progress_file.save(
            Progress(
                str(self._log_name),
                self._log.position if isinstance(self._log, LogFile) else FilePosition(),
                self._written(),
                self._joiner.saved(),
                time.time_ns(),
                None if log is None else log.saved(in_flight),
                [] if spans is None else spans.saved(in_flight),
            )
        )

    def _written(self) -> FilePosition:
        return FilePosition() if self._recorder is None else self._recorder.position()
