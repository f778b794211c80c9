"""The end of the SDK's global providers, in bounded time.

Left alone they try to get rid of what is queued for half a minute and longer when a collector is
down, and hold up the end of the process.
"""

from __future__ import annotations

import atexit
import contextlib
import threading

from opentelemetry import metrics, trace

from otel_lifecycle.runtime.forks import repair_in_forked_child

_flushing: threading.Thread | None = None
_shutdown: _Shutdown | None = None


def flush(timeout: float) -> None:
    """Exports what is queued, for at most `timeout` seconds; never raises, thread-safe."""
    global _flushing
    flushing = threading.Thread(
        target=_call, args=("force_flush",), name="otel-lifecycle-flush", daemon=True
    )
    with contextlib.suppress(RuntimeError):  # no more threads, or the end is too near
        flushing.start()
        _flushing = flushing
        flushing.join(timeout)


def shut_down_at_exit(timeout: float) -> None:
    """Has the exit of the interpreter wait for the providers for at most `timeout` seconds.

    Not at all, if they are still busy with a flush: the collector does not answer. A second call
    does nothing.
    """
    global _shutdown
    if _shutdown is None:
        _shutdown = _Shutdown(timeout)


class _Shutdown:
    """A thread that is there in time: some versions of Python start none while they exit."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._start()
        repair_in_forked_child(self, _Shutdown._start)
        # Later in registration than the SDK's own exit handlers, so before them.
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
            if shutdown is not None:  # the SDK would wait without a bound
                atexit.unregister(shutdown)


def _call(method: str) -> None:
    for provider in _providers():
        call = getattr(provider, method, None)
        if call is not None:
            with contextlib.suppress(Exception):
                call()


def _providers() -> tuple[object, ...]:
    return trace.get_tracer_provider(), metrics.get_meter_provider()
