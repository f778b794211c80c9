"""`RequestLifecycleTracker`: the hooks a router calls."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any

from opentelemetry import metrics, trace

from otel_lifecycle.config import TrackerConfig
from otel_lifecycle.model import (
    Endpoint,
    EndpointEvent,
    EndpointEventType,
    Load,
    Outcome,
    RequestCompletion,
    RequestStart,
    sanitize,
)
from otel_lifecycle.runtime.clock import SYSTEM_CLOCK, Clock
from otel_lifecycle.runtime.logs import get_logger
from otel_lifecycle.tracking import protocols, scheduling
from otel_lifecycle.tracking.asked.asked import Asked
from otel_lifecycle.tracking.current_request import claim
from otel_lifecycle.tracking.handle import TrackedRequest
from otel_lifecycle.tracking.lifecycle import Lifecycle
from otel_lifecycle.tracking.recorder import LifecycleRecorder
from otel_lifecycle.tracking.store import LifecycleStore

_logger = get_logger(__name__)


class RequestLifecycleTracker:
    """Turns a router's calls into one span, one record and the metrics of each request.

    Two ways to call it. `track` gives a handle that follows the request. The hooks of the seed
    (hermes-router's `request-lifecycle-tracker`), `pre_request`, `response_body` and
    `extract_endpoint`, find the request by its id.

    No hook raises, waits or does I/O: a telemetry problem is counted and logged, and the router
    goes on. Thread-safe, also across fork: a child starts with no requests in flight.

    Args:
        config: Settings. Default: `TrackerConfig()`.
        tracer_provider: Default: the global one.
        meter_provider: Default: the global one.
        clock: What times requests. Default: the machine's.

    Raises:
        ConfigError: The record file cannot be written, or others use the same store with other
            persistence settings.
    """

    def __init__(
        self,
        config: TrackerConfig | None = None,
        tracer_provider: trace.TracerProvider | None = None,
        meter_provider: metrics.MeterProvider | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._config = config or TrackerConfig()
        self._clock = clock or SYSTEM_CLOCK
        self._recorder = LifecycleRecorder(
            self._config,
            tracer_provider or trace.get_tracer_provider(),
            meter_provider or metrics.get_meter_provider(),
            self._clock,
        )
        self._store = self._recorder.store

    @classmethod
    def from_json(
        cls,
        text: str | bytes,
        tracer_provider: trace.TracerProvider | None = None,
        meter_provider: metrics.MeterProvider | None = None,
        clock: Clock | None = None,
    ) -> RequestLifecycleTracker:
        """The seed's factory: a tracker from its JSON parameters.

        Raises:
            ConfigError: A parameter is refused; the text names field, value and what is allowed.
        """
        return cls(TrackerConfig.from_json(text), tracer_provider, meter_provider, clock)

    @property
    def store(self) -> LifecycleStore:
        """The live state, shared by all trackers of its name."""
        return self._store

    @property
    def config(self) -> TrackerConfig:
        """The settings."""
        return self._config

    @property
    def asked(self) -> Asked:
        """What the settings ask to be recorded of requests. For instrumentations."""
        return self._recorder.asked

    @property
    def takes_prompts(self) -> bool:
        """Whether the blocks of prompts are hashed. For instrumentations."""
        return self._config.prompt.blocks > 0

    @property
    def is_aside(self) -> bool:
        """Whether new requests are left alone, because tracking failed again and again.

        `track`, `pre_request` and `reject` look themselves, and count what they leave out.
        """
        return self._recorder.breaker.is_aside

    def steps_aside(self) -> bool:
        """Whether to leave a new request alone; counts it if so. For instrumentations."""
        return self._recorder.breaker.steps_aside()

    def load(self, endpoint: Endpoint) -> Load:
        """What is in flight on an endpoint."""
        return self._store.load(endpoint)

    @property
    def clock(self) -> Clock:
        """What times requests."""
        return self._clock

    def track(
        self,
        start: RequestStart,
        headers: Mapping[str, str] | None = None,
        *,
        arrived_ns: int | None = None,
    ) -> TrackedRequest:
        """Tracks a request that is about to be dispatched.

        Its span is the child of the current span, else of the trace context in `headers`, else a
        root.

        Args:
            start: The request, with its route.
            headers: The inbound headers, in lower case; only the trace context is read, and what
                the settings `labels` and `slo` name.
            arrived_ns: When it reached the router, on the monotonic clock of `clock`, where
                `start.received_at` does not tell. For instrumentations, which see it come.
        """
        inherited_ns = claim(self._clock)
        arrived_ns = inherited_ns if arrived_ns is None else arrived_ns
        return TrackedRequest(self._recorder, start, headers, arrived_ns)

    def pre_request(
        self,
        request: protocols.SchedulingRequest | None,
        scheduling_result: protocols.SchedulingResult | None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """The seed's `PreRequest`: called after scheduling, before dispatch.

        Args:
            request: The request.
            scheduling_result: Where it goes.
            headers: As for `track`.
        """
        arrived_ns = claim(self._clock)
        if self._recorder.breaker.steps_aside():
            return
        start = self._read_start(request, scheduling_result)
        if start is not None:
            self._recorder.begin(start, headers, arrived_ns=arrived_ns)

    def reroute_request(
        self,
        request: protocols.SchedulingRequest,
        scheduling_result: protocols.SchedulingResult,
        reason: str = "",
    ) -> None:
        """Like `pre_request`, for a request in flight that is sent somewhere else.

        Calling `pre_request` again instead ends the first dispatch as `superseded`.
        """
        start = self._read_start(request, scheduling_result)
        if start is None:
            return
        lifecycle = self._find(start.request_id)
        if lifecycle is not None:
            changes = {field: getattr(start, field) for field in start.__struct_fields__}
            attempt = sanitize.count(start.attempt) or 0
            changes["attempt"] = max(attempt, lifecycle.attempt + 1)
            self._recorder.reroute(lifecycle, reason, **changes)

    def reject(
        self,
        request: protocols.SchedulingRequest | RequestStart,
        reason: str,
        headers: Mapping[str, str] | None = None,
        outcome: Outcome = Outcome.REJECTED,
    ) -> None:
        """A request that ends before the router has chosen an endpoint.

        For instrumentations, which see the answer; the seed's hooks never see such a request.

        Args:
            request: The request.
            reason: A short reason, such as `no_candidates`.
            headers: As for `track`.
            outcome: `rejected`, or `client_disconnect`, which needs no reason.
        """
        arrived_ns = claim(self._clock)
        try:
            if _request_id(request) is None:
                self._store.ignore("no_request_id")
                return
            if not isinstance(request, RequestStart):
                facts = scheduling.request_facts(request)
                asked = self.asked
                request = asked.of_request(facts, request) if asked.reads else facts
            completion = RequestCompletion(outcome=outcome, error_type=reason)
            self._recorder.reject(request, headers, completion, arrived_ns)
        except Exception:
            self._recorder.breaker.failed("reject")

    def record_unserved(
        self,
        start: RequestStart,
        completion: RequestCompletion,
        headers: Mapping[str, str] | None = None,
        *,
        arrived_ns: int | None = None,
    ) -> None:
        """Records a request that has ended, and whose engine, if there was one, is not known.

        For instrumentations.

        Args:
            start: The request.
            completion: How it ended.
            headers: As for `track`.
            arrived_ns: As for `track`.
        """
        claim(self._clock)
        self._recorder.reject(start, headers, completion, arrived_ns)

    def inject(
        self, request: protocols.SchedulingRequest, headers: MutableMapping[str, str]
    ) -> None:
        """Adds the trace context to headers towards the engine, whose span becomes our child.

        Args:
            request: A request in flight.
            headers: The headers; changed in place.
        """
        try:
            request_id = _request_id(request)
            lifecycle = None if request_id is None else self._find(request_id)
            if lifecycle is not None:
                self._recorder.inject(lifecycle, headers)
        except Exception:
            self._recorder.breaker.failed("inject")

    def response_body(
        self,
        request: protocols.SchedulingRequest | None,
        response: protocols.Response | None,
        target_endpoint: protocols.EndpointMetadata | None = None,
    ) -> None:
        """The seed's `ResponseBody`: called for every chunk of the response.

        The first marks the first chunk, the one with `end_of_stream` ends the request. When that
        is the only one it is also the first chunk of a stream; any other response has none.

        Args:
            request: The request.
            response: The chunk.
            target_endpoint: Who serves it.
        """
        ending: Lifecycle | None = None
        try:
            request_id = _request_id(request)
            if request_id is None or response is None:
                _logger.debug("not tracked: no request, no request id or no response")
                return
            lifecycle = self._find(request_id)
            if lifecycle is None:
                return
            if not response.end_of_stream:
                if lifecycle.first_chunk_ns is None:
                    self._recorder.mark_first_chunk(lifecycle)
                return
            ending = lifecycle
            completion = scheduling.request_completion(response, target_endpoint)
            is_first = lifecycle.streaming and lifecycle.first_chunk_ns is None
            if completion.outcome is Outcome.COMPLETED and is_first:
                self._recorder.mark_first_chunk(lifecycle)
            self._recorder.end(lifecycle, completion)
        except Exception:
            self._recorder.breaker.failed("response_body")
            if ending is not None:  # nothing else will come that could give its load back
                self._recorder.end(ending, RequestCompletion(outcome=Outcome.ABANDONED))

    def extract_endpoint(self, event: EndpointEvent) -> None:
        """The seed's `ExtractEndpoint`: an endpoint joined or left.

        A delete drops the endpoint's load and its gauges; requests in flight on it go on. An add
        never resets. Any object with `type` and `endpoint` of the seed's shape will do.
        """
        try:
            endpoint = scheduling.endpoint_from(event.endpoint)
            kind = scheduling.event_type(event.type)
            if endpoint is None or kind is None:
                self._store.ignore("invalid_value")
            elif kind is EndpointEventType.DELETE:
                self._store.delete_endpoint(endpoint)
            else:
                self._store.add_endpoint(endpoint)
        except Exception:
            self._recorder.breaker.failed("extract_endpoint")

    def flush(self, timeout: float | None = None) -> bool:
        """Does what is queued: abandoned requests, metrics and records.

        Args:
            timeout: Seconds the record file may take at most; None waits.

        Returns:
            Whether all records are in the file.
        """
        return self._recorder.flush(timeout)

    def failed(self, hook: str) -> None:
        """Counts and logs the exception that is being handled, raised by code on our side.

        For instrumentations. When too much fails, `is_aside` becomes true for a while.

        Args:
            hook: A short constant name of what failed; the log tells once of each.
        """
        self._recorder.breaker.failed(hook)

    def close(self) -> None:
        """Ends what this tracker still has in flight as `shutdown`, and flushes.

        Idempotent, and done within the configured `close_timeout`. Also done when the interpreter
        exits.
        """
        self._recorder.close()

    def _read_start(self, request: Any, result: Any) -> RequestStart | None:
        try:
            if _request_id(request) is None:
                _logger.debug("not tracked: no request or no request id")
                self._store.ignore("no_request_id")
                return None
            start = scheduling.request_start(request, result)
            if start is None:
                _logger.debug("not tracked: no selected endpoint")
                self._store.ignore("no_endpoint")
            elif self.asked.reads:
                return self.asked.of_request(start, request)
            return start
        except Exception:
            self._recorder.breaker.failed("pre_request")
            return None

    def _find(self, request_id: str) -> Lifecycle | None:
        lifecycle = self._store.find(request_id)
        if lifecycle is None:
            self._store.ignore("unknown_request")
        return lifecycle


def _request_id(request: object) -> str | None:
    """The id of a request that has one."""
    request_id = getattr(request, "request_id", None)
    return request_id if isinstance(request_id, str) and request_id else None
