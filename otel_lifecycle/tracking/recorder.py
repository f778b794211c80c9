"""Begins and ends lifecycles: store, span, record and metrics in step."""

from __future__ import annotations

import atexit
import weakref
from collections.abc import Mapping, MutableMapping
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
from opentelemetry import metrics, trace
from opentelemetry.sdk.trace import TracerProvider as SDKTracerProvider

from otel_lifecycle.config import TrackerConfig
from otel_lifecycle.model import Outcome, RequestCompletion, RequestStart
from otel_lifecycle.model.request import NO_LABELS
from otel_lifecycle.runtime.background import Background
from otel_lifecycle.runtime.clock import Clock, Deadline
from otel_lifecycle.runtime.logs import get_logger
from otel_lifecycle.runtime.process_exit import run_at_exit
from otel_lifecycle.telemetry.attributes import Details
from otel_lifecycle.telemetry.live_span import SpanMaker, SpanProcessorError, inject
from otel_lifecycle.telemetry.metrics import LifecycleMetrics
from otel_lifecycle.telemetry.told import Manner, Told
from otel_lifecycle.tracking.arrival import take_time
from otel_lifecycle.tracking.asked.asked import Asked
from otel_lifecycle.tracking.breaker import STEPPED_ASIDE, Breaker
from otel_lifecycle.tracking.decisions import DecisionNotes
from otel_lifecycle.tracking.dispatch import (
    dispatch,
    is_trackable,
    rerouted,
)
from otel_lifecycle.tracking.lifecycle import Lifecycle
from otel_lifecycle.tracking.prompts import PromptNotes
from otel_lifecycle.tracking.shadowing import open_shadow
from otel_lifecycle.tracking.store import LifecycleStore
from otel_lifecycle.tracking.usable import invalid_values, usable

if TYPE_CHECKING:
    from otel_lifecycle.prediction.shadow import ShadowPrediction

_logger = get_logger(__name__)

_recorders: weakref.WeakSet[LifecycleRecorder] = weakref.WeakSet()


class LifecycleRecorder:
    """What stands behind the hooks and the handle. No method raises; thread-safe.

    Args:
        config: Settings.
        tracer_provider: Where spans go.
        meter_provider: Where metrics go.
        clock: What times requests.

    Raises:
        ConfigError: The record file cannot be written, or others use the same store with other
            persistence settings.
    """

    def __init__(
        self,
        config: TrackerConfig,
        tracer_provider: trace.TracerProvider,
        meter_provider: metrics.MeterProvider,
        clock: Clock,
    ) -> None:
        self._config = config
        self._clock = clock
        self._closed = False
        self._shadow: ShadowPrediction | None = None
        self.store = LifecycleStore.shared(config)
        self.breaker = Breaker(self.store.ignore)
        self._stale_after_ns = round(config.stale_after.total_seconds() * 1e9)
        self._decisions = DecisionNotes(self.store.states, config)
        self.asked = Asked(config)
        self._manner = Manner(
            self.store.name,
            Details.of(config),
            self.breaker.failed,
        )
        try:
            self._shadow = open_shadow(config)
            self._use_provider(tracer_provider)
            self._background = Background()
            self._prompts = PromptNotes(config, self._background.submit)
            self._metrics = LifecycleMetrics(
                self.store, config, meter_provider, self._background.drain, clock
            )
        except BaseException:
            self.store.release(0.0)
            raise
        self._forget_endpoint = partial(self._background.submit, self._metrics.forget)
        self.store.on_deleted.append(self._forget_endpoint)
        _recorders.add(self)

    def begin(
        self,
        start: RequestStart,
        headers: Mapping[str, str] | None,
        handle: object = None,
        arrived_ns: int | None = None,
    ) -> Lifecycle | None:
        """Starts tracking a request; None when it is not tracked, which is counted.

        Args:
            start: The request.
            headers: The inbound headers.
            handle: What follows it, if anything: when that is collected first, it is abandoned.
            arrived_ns: As for `take_time`.
        """
        lifecycle: Lifecycle | None = None
        try:
            reason = self._refusal(start)
            if reason is not None:
                _logger.debug("not tracked: %s", reason)
                self.store.ignore(reason)
                return None
            lifecycle = self._lifecycle(start, headers, arrived_ns)
            if handle is not None:
                lifecycle.follow(handle)
            same_id = self.store.find(start.request_id)
            if same_id is not None:
                same_id.owner.supersede(same_id)
            same_id = self.store.start(lifecycle)
            if same_id is not None:  # one that came at this very moment
                same_id.owner.supersede(same_id)
            self._predict(lifecycle)
            if self._closed:  # in the meantime, and perhaps without seeing this one
                self.end(lifecycle, RequestCompletion(outcome=Outcome.SHUTDOWN))
            return lifecycle
        except Exception:
            self.breaker.failed("start")
            if lifecycle is not None:
                self.store.forget(lifecycle)
            return None
        except BaseException:  # from a signal handler: it will not be dispatched
            if lifecycle is not None:
                self.end(lifecycle, RequestCompletion(outcome=Outcome.SHUTDOWN))
            raise

    def reject(
        self,
        start: RequestStart,
        headers: Mapping[str, str] | None,
        completion: RequestCompletion,
        arrived_ns: int | None = None,
    ) -> None:
        """Records a request that ended without a known route; arguments as for `begin`."""
        try:
            if self.breaker.steps_aside():
                return
            if self._closed:
                self.store.ignore("closed")
                return
            start = msgspec.structs.replace(start, route=None)
            lifecycle = self._lifecycle(start, headers, arrived_ns)
            self.end(lifecycle, completion)
        except Exception:
            self.breaker.failed("reject")

    def inject(self, lifecycle: Lifecycle, headers: MutableMapping[str, str]) -> None:
        """Adds the trace context of a request to headers towards its engine."""
        try:
            inject(lifecycle.span, lifecycle.context, headers)
        except Exception:
            self.breaker.failed("inject")

    def mark_first_byte(self, lifecycle: Lifecycle) -> None:
        """The first byte of the answer arrived; later calls do nothing."""
        try:
            if lifecycle.first_byte_ns is None:
                elapsed = self._clock.monotonic_ns() - lifecycle.started_monotonic_ns
                self.store.first_byte(lifecycle, elapsed)
        except Exception:
            self.breaker.failed("first_byte")

    def mark_first_chunk(self, lifecycle: Lifecycle) -> None:
        """The first chunk of a request arrived; later calls do nothing."""
        try:
            if lifecycle.first_chunk_ns is None:
                elapsed = self._clock.monotonic_ns() - lifecycle.started_monotonic_ns
                self.store.first_chunk(lifecycle, elapsed, self._config.release_on_first_chunk)
        except Exception:
            self.breaker.failed("chunk")

    def reroute(self, lifecycle: Lifecycle, reason: str | None, **changes: Any) -> None:
        """Sends a request in flight somewhere else.

        Args:
            lifecycle: The request.
            reason: A short reason; None when the route is not another one, but known better now.
            **changes: The fields of `RequestStart` that changed.
        """
        try:
            if lifecycle.finished:
                self.store.ignore("already_finished")
                return
            old, model = lifecycle.dispatch.start, lifecycle.model
            start: RequestStart = msgspec.structs.replace(old, **changes)
            if not is_trackable(start):
                self.store.ignore("no_endpoint")
                return
            elapsed = self._clock.monotonic_ns() - lifecycle.started_monotonic_ns
            now_ns = lifecycle.started_ns + elapsed
            if start.labels is not old.labels or start.slo is not old.slo:
                start, invalid = self.asked.take_again(old, start)
                self._count_invalid(invalid)
            start = self._decisions.take_again(old, self._prompts.take(start), now_ns, reason)
            to = dispatch(start, self.store.look, now_ns)
            if not self.store.reroute(lifecycle, to, rerouted(lifecycle, to, reason)):
                self.store.ignore("already_finished")
                return
            self._background.submit(self._count_unusable, old)
            self._predict(lifecycle)
            if lifecycle.model != model and lifecycle.span is not None:
                lifecycle.spans.rename(lifecycle.span, lifecycle)
        except Exception:
            self.breaker.failed("reroute")

    def end(self, lifecycle: Lifecycle, completion: RequestCompletion) -> None:
        """Ends a request; only the first call for it does anything."""
        now: int | None = None
        call = object()
        try:
            now = self._clock.monotonic_ns()
            if not isinstance(completion, RequestCompletion):  # pyright: ignore[reportUnnecessaryIsInstance]
                completion = RequestCompletion(outcome=Outcome.ERROR)
                self._count_invalid(1)
            if self.store.finish(lifecycle, call):
                self._conclude(lifecycle, completion, now)
            else:
                self.store.ignore("already_finished")
        except Exception as error:
            # With another's processor that raises, record and metrics are complete all the same.
            self.breaker.failed("end", ours=not isinstance(error, SpanProcessorError))
            self._end_again(lifecycle, completion, now, call)
        except BaseException:
            self._end_again(lifecycle, completion, now, call)
            raise

    def _end_again(
        self, lifecycle: Lifecycle, completion: RequestCompletion, now: int | None, call: object
    ) -> None:
        """Does what was broken off: by a signal handler, which may raise anywhere, or by a bug."""
        try:
            if self.store.finish(lifecycle, call):
                if now is None:
                    now = self._clock.monotonic_ns()
                self._conclude(lifecycle, completion, now, again=True)
        except Exception:
            self.breaker.failed("end")

    def abandon(self, lifecycle: Lifecycle) -> None:
        """Ends a request whose handle was collected, soon.

        The garbage collector may call this while any lock is held, the SDK's among them: so it
        only queues.
        """
        self._background.submit(self._end_abandoned, lifecycle)

    def supersede(self, lifecycle: Lifecycle) -> None:
        """Ends a request whose id has come again."""
        self.store.ignore("duplicate_start")
        self.end(lifecycle, RequestCompletion(outcome=Outcome.SUPERSEDED))

    def flush(self, timeout: float | None = None) -> bool:
        """Does what is queued; returns whether all records are in the file.

        Args:
            timeout: Seconds the record file may take at most; None waits.
        """
        self._background.drain()
        sink = self.store.sink
        if sink is None:
            return True
        return sink.force_flush(2**31 if timeout is None else round(timeout * 1000))

    def close(self) -> None:
        """Ends what this tracker still has in flight as `shutdown`, and flushes.

        Idempotent, and done within the configured `close_timeout`. Also done when the interpreter
        exits.
        """
        if self._closed:
            return
        self._closed = True
        deadline = Deadline(self._config.close_timeout.total_seconds())
        for lifecycle in self.store.owned_by(self):
            self.end(lifecycle, RequestCompletion(outcome=Outcome.SHUTDOWN))
        if self._shadow is not None:
            self._shadow.close(deadline.seconds_left / 2)
        self.store.on_deleted.remove(self._forget_endpoint)
        self._background.close(deadline.seconds_left)
        self._metrics.close()
        self.store.release(deadline.seconds_left)

    def _lifecycle(
        self, start: RequestStart, headers: Mapping[str, str] | None, arrived_ns: int | None
    ) -> Lifecycle:
        self._background.ensure_running()
        if self.store.collector is not None:
            self.store.collector.ensure_running()
        if self._is_early:
            self._look_for_provider()
        timing = take_time(start, self._clock, arrived_ns)
        self._count_invalid(start.received_at is not None and timing.waited_ns is None)
        if start.labels is not NO_LABELS or start.slo is not None or self.asked.reads:
            start, invalid = self.asked.take(start, headers)
            self._count_invalid(invalid)
        start = self._decisions.take(self._prompts.take(start), timing.started_ns)
        sent = dispatch(start, self.store.look, timing.started_ns)
        lifecycle = Lifecycle(self, self._manner, self._spans, sent, timing, self._stale_after_ns)
        try:
            lifecycle.span, lifecycle.context, lifecycle.parent, lifecycle.kind = self._spans.start(
                lifecycle, headers, timing.begins_ns
            )
        except Exception:  # another processor's: the record is written without a span
            self.breaker.failed("start_span", ours=False)
        return lifecycle

    def _predict(self, lifecycle: Lifecycle) -> None:
        """Has latencies predicted for the record, where the router predicted none."""
        if self._shadow is not None and not lifecycle.record.prediction_mode:
            self._shadow.predict(lifecycle)

    def _refusal(self, start: RequestStart) -> str | None:
        if self._closed:
            return "closed"
        if self.breaker.is_aside:
            return STEPPED_ASIDE
        if not is_trackable(start):
            request_id = getattr(start, "request_id", None)
            has_id = isinstance(request_id, str) and request_id
            return "no_endpoint" if has_id else "no_request_id"
        limit = self._config.max_inflight
        # Racing threads may pass together: the cap bounds memory, it does not count to the last.
        if limit is not None and self.store.active_requests >= limit:
            return None if self.store.find(start.request_id) else "table_full"
        return None

    def _count_unusable(self, start: RequestStart) -> None:
        self._count_invalid(invalid_values(start, usable(start)))

    def _count_invalid(self, values: int) -> None:
        for _ in range(values):
            self.store.ignore("invalid_value")

    def _conclude(
        self, lifecycle: Lifecycle, completion: RequestCompletion, now: int, *, again: bool = False
    ) -> None:
        """Completes record and span of a request that is forgotten, and hands the record over.

        Args:
            lifecycle: The request.
            completion: How it ended.
            now: When, on the monotonic clock.
            again: Whether an earlier attempt was interrupted, at any point.
        """
        told = lifecycle.complete(completion, now)
        sink = self.store.sink
        # Before the span tells anybody that there is a record. But a writing process that sends
        # spans, too, is told by the end of the span whether to send this one.
        if sink is not None and sink.handover is None:
            sink.take(told)
            sink = None
        try:
            if lifecycle.span is not None:
                lifecycle.spans.end(lifecycle.span, lifecycle, again=again)
        finally:
            if sink is not None:
                sink.take(told)
            if not lifecycle.measured:
                lifecycle.measured = True
                self._background.submit(self._measure, lifecycle.told)

    def _measure(self, told: Told) -> None:
        """Does what can wait: makes the record, if nobody has read it yet."""
        try:
            ended = told.ended()
        except Exception:
            self.breaker.failed("record")
            return
        if ended is not None:
            self._count_invalid(ended.invalid)
            self._metrics.record(ended.recorded.record)
            if self._shadow is not None:
                self._shadow.learn(ended.recorded.record)

    def _end_abandoned(self, lifecycle: Lifecycle) -> None:
        if not lifecycle.finished:
            self.end(lifecycle, RequestCompletion(outcome=Outcome.ABANDONED))

    def _use_provider(self, provider: trace.TracerProvider) -> None:
        # The global provider is not set yet, and only has a stand-in: its spans would have neither
        # our processor nor the resource that will be theirs.
        self._is_early = isinstance(provider, trace.ProxyTracerProvider)
        self._spans = SpanMaker(provider, self._config.phase_spans)
        sink = self.store.sink
        if sink is not None and isinstance(provider, SDKTracerProvider):
            sink.attach(provider)
        # Again, to come before the shutdown of a provider made in the meantime.
        atexit.unregister(_close_all)
        atexit.register(_close_all)

    def _look_for_provider(self) -> None:
        provider = trace.get_tracer_provider()
        if not isinstance(provider, trace.ProxyTracerProvider):
            self._use_provider(provider)


def _close_all() -> None:
    for recorder in list(_recorders):
        recorder.close()


# After the record writers' own, so that it runs before them.
run_at_exit(_close_all)
