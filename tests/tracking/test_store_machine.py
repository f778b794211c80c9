"""The store under any sequence of calls from several threads, checked after each step."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from otel_lifecycle import (
    EndpointEvent,
    EndpointEventType,
    Load,
    RequestStart,
    Route,
    RouteEndpoint,
    TrackedRequest,
)
from tests.conftest import Bench
from tests.routes import endpoint

PODS = ["qwen-0", "qwen-1", "qwen-2"]
IDS = ["request-0", "request-1", "request-2", "request-3"]

pods = st.sampled_from(PODS)
threads = st.integers(0, 2)


class Store(RuleBasedStateMachine):
    """Starts, ends, reroutes and forgets requests while endpoints come and go."""

    handles = Bundle("handles")

    def __init__(self) -> None:
        super().__init__()
        self._folder = TemporaryDirectory()
        self._bench = Bench(Path(self._folder.name) / "records.jsonl", ALWAYS_ON)
        self._tracker = self._bench.tracker
        self._threads = [ThreadPoolExecutor(1) for _ in range(3)]
        self._started = 0
        # By id in flight: the tokens it charges, to which pods of which generation, and whether
        # its first chunk was seen.
        self._charges: dict[str, tuple[int, list[tuple[str, int]], bool]] = {}
        self._generations = dict.fromkeys(PODS, 0)

    def _in(self, thread: int, call: Callable[..., Any], *args: Any) -> Any:
        return self._threads[thread].submit(call, *args).result(timeout=60)

    def _charged(self, names: list[str]) -> list[tuple[str, int]]:
        return [(name, self._generations[name]) for name in names]

    @rule(
        target=handles,
        request_id=st.sampled_from(IDS),
        pd=st.booleans(),
        first=pods,
        second=pods,
        tokens=st.integers(0, 1000),
        thread=threads,
    )
    def start(
        self, request_id: str, pd: bool, first: str, second: str, tokens: int, thread: int
    ) -> Any:
        """Start a request, aggregated or PD, maybe under an id in flight."""
        ends = [RouteEndpoint(endpoint(name)) for name in (first, second)]
        route = Route(RouteEndpoint(endpoint("leader")), *ends) if pd else Route(ends[0])
        request = RequestStart(request_id, route, input_tokens=tokens)
        tracked = self._in(thread, self._tracker.track, request)
        assert tracked.is_tracked
        self._started += 1
        names = list(dict.fromkeys([first, second])) if pd else [first]
        self._charges[request_id] = (tokens, self._charged(names), False)
        return multiple((request_id, tracked))

    @rule(handle=handles, thread=threads)
    def chunk(self, handle: tuple[str, TrackedRequest], thread: int) -> None:
        """The first chunk releases the prefill load of a PD request."""
        request_id, tracked = handle
        alive = tracked.is_tracked
        self._in(thread, tracked.chunk)
        tokens, charged, seen = self._charges.get(request_id, (0, [], False))
        if alive and not seen:
            self._charges[request_id] = (tokens, charged[1:] or charged, True)

    @rule(
        handle=handles,
        end=st.sampled_from(["complete", "disconnect", "fail"]),
        thread=threads,
    )
    def end(self, handle: tuple[str, TrackedRequest], end: str, thread: int) -> None:
        """A request ends once; ends of stale handles do nothing."""
        request_id, tracked = handle
        alive = tracked.is_tracked
        self._in(thread, getattr(tracked, end), *(("error",) if end == "fail" else ()))
        if alive:
            del self._charges[request_id]

    @rule(handle=handles, pod=pods, thread=threads)
    def reroute(self, handle: tuple[str, TrackedRequest], pod: str, thread: int) -> None:
        """A request moves to another endpoint."""
        request_id, tracked = handle
        alive = tracked.is_tracked
        self._in(thread, tracked.reroute, Route(RouteEndpoint(endpoint(pod))))
        if alive:
            tokens, _, seen = self._charges[request_id]
            self._charges[request_id] = (tokens, self._charged([pod]), seen)

    @rule(request_id=st.sampled_from(IDS), pod=pods, thread=threads)
    def abandon(self, request_id: str, pod: str, thread: int) -> None:
        """A handle is dropped; the request it superseded has ended too."""
        route = Route(RouteEndpoint(endpoint(pod)))

        def drop() -> None:  # a thread that returns the handle may keep it a moment longer
            self._tracker.track(RequestStart(request_id, route, input_tokens=7))

        self._in(thread, drop)
        self._tracker.flush(timeout=60)
        self._started += 1
        self._charges.pop(request_id, None)

    @rule(pod=pods, kind=st.sampled_from(list(EndpointEventType)), thread=threads)
    def endpoint_event(self, pod: str, kind: EndpointEventType, thread: int) -> None:
        """An endpoint leaves, or joins again with no load."""
        self._in(thread, self._tracker.extract_endpoint, EndpointEvent(kind, endpoint(pod)))
        if kind is EndpointEventType.DELETE:
            self._generations[pod] += 1

    @invariant()
    def counters_are_the_sum_of_leases(self) -> None:
        """Every counter is the sum of the requests in flight, never below 0."""
        expected = {name: [0, 0] for name in PODS}
        for tokens, charged, _ in self._charges.values():
            for name, generation in charged:
                if generation == self._generations[name]:
                    expected[name][0] += tokens
                    expected[name][1] += 1
        assert {name: self._tracker.load(endpoint(name)) for name in PODS} == {
            name: Load(*load) for name, load in expected.items()
        }
        assert self._tracker.store.active_requests == len(self._charges)
        assert self._tracker.load(endpoint("leader")) == Load()

    def teardown(self) -> None:
        """After the close nothing is in flight, and each request has one span and one record."""
        self._tracker.close()
        store = self._tracker.store
        records = [line for line in self._bench.path.read_text().splitlines() if line]
        try:
            assert store.active_requests == 0
            assert set(store.loads().values()) <= {Load()}
            assert len(records) == len(self._bench.telemetry.spans) == self._started
            spans = {span.context.span_id for span in self._bench.telemetry.spans if span.context}
            assert len(spans) == self._started
        finally:
            self._bench.close()
            for thread in self._threads:
                thread.shutdown()
            self._folder.cleanup()


TestStore = Store.TestCase
TestStore.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
