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
from otel_lifecycle.observation.exports import SpanExport, open_meter_provider
from otel_lifecycle.observation.join import Counts, Joiner
from otel_lifecycle.observation.lifecycles import Lifecycles
from otel_lifecycle.observation.log_file import LogFile
from otel_lifecycle.observation.observer import Observer
from otel_lifecycle.observation.otlp_logs import OtlpLogs
from otel_lifecycle.observation.progress import Progress, ProgressFile
from otel_lifecycle.observation.sinks import Printer, Recorder
from otel_lifecycle.records import FilePosition
from otel_lifecycle.records.names import absolute
from otel_lifecycle.records.shipping import Counts as SpanCounts
from otel_lifecycle.runtime.clock import SystemClock
from otel_lifecycle.telemetry.metrics import LifecycleMetrics
from otel_lifecycle.telemetry.otlp.destinations import has_destination
from otel_lifecycle.telemetry.span_reader import RESOURCE_KEYS, resource_attributes
from otel_lifecycle.tracking.store import LifecycleStore

if TYPE_CHECKING:
    from otel_lifecycle.prediction.shadow import ShadowPrediction

_CLOSE_SECONDS = 5.0


@dataclass(frozen=True)
class Options:
    """What to observe, and where records go.

    Attributes:
        log: Envoy's access log; None: it comes over OTLP.
        otlp: Where to listen for it, `host:port`; empty: it is a file.
        output: The record file; None: records are printed.
        checkpoint: File for the progress. Default: the record file's name with `.observe`.
        endpoints: File with what is known of endpoints beside their address.
        abandon_after: Seconds after which a request whose end did not come counts as abandoned.
    """

    log: Path | None
    otlp: str
    output: Path | None
    checkpoint: Path | None
    endpoints: Path | None
    abandon_after: float


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
            sink = self._recorder = Recorder(persistence, tell, progress.written)
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
        lifecycles = Lifecycles(
            config,
            store,
            Endpoints({} if options.endpoints is None else read_endpoints(options.endpoints)),
            clock,
            resource_attributes(resource.attributes),
            self._open_shadow(config),
        )

        def done(record: LifecycleRecord) -> None:
            sink.put(record)
            if provider is not None:
                metrics.record(record)

        self._joiner = Joiner(lifecycles, done, abandon_after=options.abandon_after)
        self._joiner.restore(progress.open)
        self._log: LogFile | OtlpLogs
        if options.log is None:
            self._log = OtlpLogs(options.otlp)
        else:
            self._log = LogFile(options.log, progress.position, progress.saved_ns)
        self._stack.callback(self._log.close)
        save = None
        if self._progress_file is not None:
            if progress.saved_ns is None:
                progress.saved_ns = clock.wall_ns()
            self._progress_file.save(progress)  # fail now if it cannot be written
            save = self._save
        self._observer = Observer(self._log, self._joiner, sink, save, tell)
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

    def _open_shadow(self, config: TrackerConfig) -> ShadowPrediction | None:
        if not (config.prediction.url or config.prediction.training_url):
            return None
        try:
            from otel_lifecycle.prediction.shadow import ShadowPrediction  # needs an extra
        except ImportError as error:
            raise missing_extra("prediction.url", error) from error
        shadow = ShadowPrediction(config.prediction)
        self._stack.callback(shadow.close, _CLOSE_SECONDS)
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
        written = FilePosition() if self._recorder is None else self._recorder.position()
        assert self._progress_file is not None
        self._progress_file.save(
            Progress(
                str(self._log_name),
                self._log.position if isinstance(self._log, LogFile) else FilePosition(),
                written,
                self._joiner.saved(),
                time.time_ns(),
            )
        )
