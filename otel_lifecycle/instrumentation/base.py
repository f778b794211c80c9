"""What the instrumentations of all routers share."""

from __future__ import annotations

import logging
import sys
from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar, TypeAlias

import wrapt
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor
from opentelemetry.instrumentation.utils import unwrap

from otel_lifecycle.config import ConfigError, TrackerConfig
from otel_lifecycle.instrumentation import export_logs, providers
from otel_lifecycle.tracker import RequestLifecycleTracker

_logger = logging.getLogger(__name__)

_reported: set[str] = set()

Wrapper: TypeAlias = Callable[[Callable[..., Any], Any, "tuple[Any, ...]", "dict[str, Any]"], Any]


@dataclass
class InstrumentorOptions:
    """The options of declarative configuration; see `TrackerConfig` for what they mean."""

    store_name: str | None = None
    release_on_first_chunk: str | None = None
    max_inflight: int | None = None
    stale_after: str | None = None
    npu_device_attributes: bool | None = None
    max_metric_values: int | None = None
    close_timeout: str | None = None
    persistence_enabled: bool | None = None
    persistence_flush_threshold: int | None = None
    persistence_flush_interval: str | None = None
    persistence_output_path: str | None = None
    persistence_max_queue: int | None = None


class RouterInstrumentor(BaseInstrumentor):
    """Instruments one router by wrapping methods of it, as soon as its modules are imported.

    `instrument()` takes `tracer_provider`, `meter_provider` and the options of
    `InstrumentorOptions`; what is not given comes from `OTEL_LIFECYCLE_*`. A setting that cannot be
    used is logged, once, and leaves the router uninstrumented.
    """

    configuration: ClassVar[type[InstrumentorOptions]] = InstrumentorOptions

    _hooked: ClassVar[bool] = False
    _tracker: RequestLifecycleTracker | None = None

    @property
    def tracker(self) -> RequestLifecycleTracker | None:
        """The tracker behind it, while it is instrumented."""
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

    def _instrument(self, **kwargs: Any) -> None:
        tracer_provider = kwargs.pop("tracer_provider", None)
        meter_provider = kwargs.pop("meter_provider", None)
        options = {name: kwargs[name] for name in self._options() if name in kwargs}
        try:
            config = TrackerConfig.from_environment(**options)
            if tracer_provider is None:
                # Before the tracker: its own exit handler runs first then.
                providers.shut_down_at_exit(config.close_timeout.total_seconds())
            self._tracker = RequestLifecycleTracker(config, tracer_provider, meter_provider)
        except ConfigError as error:
            if str(error) not in _reported:  # every instrumentation here reads the same settings
                _reported.add(str(error))
                _logger.error("otel-lifecycle does not instrument the router: %s", error)
            return
        export_logs.limit(type(self))
        loaded = type(self)._hooked
        type(self)._hooked = True
        for module, wrappers in self.wrappers().items():
            if not loaded:
                wrapt.register_post_import_hook(self._on_import, module)
            elif module in sys.modules:
                self._wrap(sys.modules[module], wrappers)

    def _uninstrument(self, **kwargs: Any) -> None:
        tracker, self._tracker = self._tracker, None
        export_logs.unlimit(type(self))
        for module, wrappers in self.wrappers().items():
            loaded = sys.modules.get(module)
            for name in wrappers if loaded is not None else ():
                owner, _, method = name.rpartition(".")
                unwrap(getattr(loaded, owner, loaded), method)
        if tracker is not None:
            tracker.close()

    def _on_import(self, module: ModuleType) -> None:
        if self._tracker is not None:
            self._wrap(module, self.wrappers()[module.__name__])

    def _wrap(self, module: ModuleType, wrappers: Mapping[str, Wrapper]) -> None:
        for name, wrapper in wrappers.items():
            try:
                wrapt.wrap_function_wrapper(module, name, wrapper)
            except AttributeError:
                _logger.warning(
                    "%s.%s does not exist: what it would tell is missing", module.__name__, name
                )

    @classmethod
    def _options(cls) -> Collection[str]:
        return cls.configuration.__dataclass_fields__
