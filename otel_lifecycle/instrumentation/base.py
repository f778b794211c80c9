"""What the instrumentations of all routers share."""

from __future__ import annotations

import logging
import os
import sys
from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any, ClassVar, TypeAlias

import wrapt
from opentelemetry import trace
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor
from opentelemetry.instrumentation.utils import unwrap
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider

from otel_lifecycle.config import ConfigError, TrackerConfig, unknown_variables
from otel_lifecycle.instrumentation import export_logs, providers
from otel_lifecycle.records.process import hand_over, take_back
from otel_lifecycle.runtime.logs import get_logger
from otel_lifecycle.telemetry.attributes import Details
from otel_lifecycle.telemetry.otlp.adoption import adopt_all, release_all
from otel_lifecycle.tracking.tracker import RequestLifecycleTracker

_logger = get_logger(__name__)

_reported: set[str] = set()

Wrapper: TypeAlias = Callable[[Callable[..., Any], Any, "tuple[Any, ...]", "dict[str, Any]"], Any]


@dataclass
class InstrumentorOptions:
    """The options of declarative configuration; see `TrackerConfig` for what they mean."""

    store_name: str | None = None
    paths: str | None = None
    labels: str | None = None
    labels_key: str | None = None
    slo: str | None = None
    release_on_first_chunk: str | None = None
    max_inflight: int | None = None
    stale_after: str | None = None
    npu_device_attributes: bool | None = None
    decision_candidates: int | None = None
    first_byte_attribute: bool | None = None
    phase_spans: bool | None = None
    otlp_encoder: str | None = None
    writer: str | None = None
    max_metric_values: int | None = None
    close_timeout: str | None = None
    persistence_enabled: bool | None = None
    persistence_flush_threshold: int | None = None
    persistence_flush_interval: str | None = None
    persistence_output_path: str | None = None
    persistence_max_queue: int | None = None
    persistence_rotate_bytes: int | None = None
    persistence_rotate_interval: str | None = None
    persistence_retain_segments: int | None = None
    persistence_retain_bytes: int | None = None
    persistence_compression: str | None = None
    persistence_fsync: str | None = None
    collection_enabled: bool | None = None
    collection_endpoints: bool | None = None
    collection_metrics_path: str | None = None
    collection_targets: str | None = None
    collection_targets_file: str | None = None
    collection_engine_pods: str | None = None
    collection_exporter_pods: str | None = None
    collection_engine_namespace: str | None = None
    collection_exporter_namespace: str | None = None
    collection_exporter_source: str | None = None
    collection_exporter_port: int | None = None
    collection_interval: str | None = None
    collection_timeout: str | None = None
    collection_max_backoff: str | None = None
    collection_forget_after: str | None = None
    collection_concurrency: int | None = None
    collection_max_response_bytes: int | None = None
    collection_ca_file: str | None = None
    collection_cert_file: str | None = None
    collection_key_file: str | None = None
    collection_tls_verify: bool | None = None
    prediction_model: str | None = None
    prediction_url: str | None = None
    prediction_training_url: str | None = None
    prediction_timeout: str | None = None
    prediction_max_queue: int | None = None
    prompt_blocks: int | None = None
    prompt_max_blocks: int | None = None
    prompt_key: str | None = None


class RouterInstrumentor(BaseInstrumentor):
    """Instruments one router by wrapping methods of it, as soon as its modules are imported.

    `instrument()` takes `tracer_provider`, `meter_provider` and the options of
    `InstrumentorOptions`; what is not given comes from `OTEL_LIFECYCLE_*`. A setting that cannot be
    used is logged, once, and leaves the router uninstrumented.
    """

    configuration: ClassVar[type[InstrumentorOptions]] = InstrumentorOptions

    _hooked: ClassVar[bool] = False
    _make_tracker: Callable[[], RequestLifecycleTracker] | None = None
    _tracker: RequestLifecycleTracker | None = None

    @property
    def tracker(self) -> RequestLifecycleTracker | None:
        """The tracker behind it, while it is instrumented and a module of the router is loaded."""
        return self._tracker

    @abstractmethod
    def wrappers(self) -> Mapping[str, Mapping[str, Wrapper]]:
        """What wraps what: module name, then `Class.method`.

        A wrapper has to call the wrapped method, let its exceptions pass, and pass through once
        `tracker` is None.
        """

    def instrumentation_dependencies(self) -> Collection[str]:
        """None: routers are recognised by their modules, not by the name of a distribution."""
        return ()

    def needs_tracker(self, module: str) -> bool:
        """Whether requests can be tracked once this module is loaded.

        A tracker has a record file and metrics: a process that serves nothing makes neither.
        """
        return True

    def _instrument(self, **kwargs: Any) -> None:
        tracer_provider = kwargs.pop("tracer_provider", None)
        meter_provider = kwargs.pop("meter_provider", None)
        options = {name: kwargs[name] for name in self._options() if name in kwargs}
        for name, known in unknown_variables(os.environ).items():
            instead = f": did you mean {known}?" if known else ""
            _report(logging.WARNING, f"{name} is no setting of otel-lifecycle{instead}")
        try:
            config = TrackerConfig.for_zero_code(**options)
        except ConfigError as error:
            _report_refusal(error)
            return
        self._make_tracker = partial(self._start, config, tracer_provider, meter_provider)
        hooked = type(self)._hooked
        type(self)._hooked = True
        for module in self.wrappers():
            if not hooked:
                wrapt.register_post_import_hook(self._on_import, module)
            elif module in sys.modules:
                self._on_import(sys.modules[module])

    def _uninstrument(self, **kwargs: Any) -> None:
        self._make_tracker = None
        tracker, self._tracker = self._tracker, None
        export_logs.unlimit(type(self))
        release_all(type(self))
        take_back(type(self))
        for module, wrappers in self.wrappers().items():
            loaded = sys.modules.get(module)
            for name in wrappers if loaded is not None else ():
                owner, _, method = name.rpartition(".")
                unwrap(getattr(loaded, owner, loaded), method)
        if tracker is not None:
            tracker.close()

    def _on_import(self, module: ModuleType) -> None:
        """Wraps a module of the router; what it raised would be raised by the router's import."""
        if self._make_tracker is None:
            return
        if self._tracker is None and self.needs_tracker(module.__name__):
            try:
                self._tracker = self._make_tracker()
            except Exception as error:  # no more threads, for instance
                _report_refusal(error)
                self._make_tracker = None
                return
        self._wrap(module, self.wrappers()[module.__name__])

    def _start(
        self,
        config: TrackerConfig,
        tracer_provider: TracerProvider | None,
        meter_provider: MeterProvider | None,
    ) -> RequestLifecycleTracker:
        if tracer_provider is None:
            # Before the tracker: its own exit handler runs first then.
            providers.shut_down_at_exit(config.close_timeout.total_seconds())
            if config.otlp_encoder == "lifecycle":
                adopt_all(trace.get_tracer_provider(), type(self))
            if not (config.persistence.enabled or providers.any_is_set_up()):
                _report(
                    logging.WARNING,
                    "nothing is recorded: there is neither a record file nor an OpenTelemetry SDK; "
                    "set OTEL_LIFECYCLE_PERSISTENCE_OUTPUT_PATH, or install opentelemetry-distro",
                )
        export_logs.limit(type(self))
        tracker = RequestLifecycleTracker(config, tracer_provider, meter_provider)
        sink = tracker.store.sink
        if tracer_provider is None and sink is not None and sink.handover is not None:
            details = Details.of(config)
            hand_over(trace.get_tracer_provider(), sink.handover, details, type(self))
        return tracker

    def _wrap(self, module: ModuleType, wrappers: Mapping[str, Wrapper]) -> None:
        for name, wrapper in wrappers.items():
            try:
                wrapt.wrap_function_wrapper(module, name, wrapper)
            except AttributeError:
                _logger.warning(
                    "%s.%s does not exist: what it would tell is missing", module.__name__, name
                )
            except Exception as error:  # a compiled class takes no attributes
                _logger.warning(
                    "%s.%s cannot be wrapped, what it would tell is missing: %s",
                    module.__name__,
                    name,
                    error,
                )

    @classmethod
    def _options(cls) -> Collection[str]:
        return cls.configuration.__dataclass_fields__


def _report_refusal(error: Exception) -> None:
    reason = error if isinstance(error, ConfigError) else repr(error)
    _report(logging.ERROR, f"otel-lifecycle does not instrument the router: {reason}")


def _report(level: int, message: str) -> None:
    """Logs once: every instrumentation here reads the same settings."""
    if message not in _reported:
        _reported.add(message)
        _logger.log(level, message)
