"""Flushes and shuts down the SDK's global providers within a time limit.

If a collector is down, the providers themselves keep trying to export their queues for half a
minute or longer, which delays the end of the process.
"""

from __future__ import annotations

import atexit
import contextlib
import threading

from opentelemetry import metrics, trace
from opentelemetry.metrics._internal import (
    _ProxyMeterProvider,  # pyright: ignore[reportPrivateUsage] - it has no public name
)

from otel_lifecycle.runtime.forks import repair_in_forked_child

_flushing: threading.Thread | None = None
_shutdown: _Shutdown | None = None


def has_tracer_provider() -> bool:
    """Return whether a global provider of tracers was set up."""
    return not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


def has_meter_provider() -> bool:
    """Return whether a global provider of meters was set up."""
    return not isinstance(metrics.get_meter_provider(), _ProxyMeterProvider)


def any_is_set_up() -> bool:
    """Return whether there is a global provider."""
    return has_tracer_provider() or has_meter_provider()


def flush(timeout: float) -> None:
    """Export queued telemetry for at most `timeout` seconds; never raises; thread-safe."""
    global _flushing
    flushing = threading.Thread(
        target=_call, args=("force_flush",), name="otel-lifecycle-flush", daemon=True
    )
    with contextlib.suppress(RuntimeError):  # no more threads, or the interpreter is exiting
        flushing.start()
        _flushing = flushing
        flushing.join(timeout)


def shut_down_at_exit(timeout: float) -> None:
    """Limit how long the interpreter's exit waits for the providers to `timeout` seconds.

    If a flush is still running then, the collector does not answer, and the exit does not wait at
    all. A second call does nothing.
    """
    global _shutdown
    if _shutdown is None:
        _shutdown = _Shutdown(timeout)


class _Shutdown:
    """Shuts down on a thread started in advance: some Python versions start none at exit."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._start()
        repair_in_forked_child(self, _Shutdown._start)
        # Registered after the SDK's own exit handlers, so it runs before them.
        atexit.register(self._run)

    def _start(self) -> None:
        self._exiting = threading.Event()
        self._thread = threading.Thread(
            target=self._wait, name="otel-lifecycle-shutdown", daemon=True
        )
        self._thread.start()

    def _wait(self) -> None:
        self._exiting.wait()
        _call("shutdown")

    def _run(self) -> None:
        if _flushing is None or not _flushing.is_alive():
            self._exiting.set()
            self._thread.join(self._timeout)
        for provider in _providers():
            shutdown = getattr(provider, "shutdown", None)
            if shutdown is not None:  # the SDK would wait without a limit
                atexit.unregister(shutdown)


def _call(method: str) -> None:
    for provider in _providers():
        call = getattr(provider, method, None)
        if call is not None:
            with contextlib.suppress(Exception):
                call()


def _providers() -> tuple[object, ...]:
    return trace.get_tracer_provider(), metrics.get_meter_provider()
