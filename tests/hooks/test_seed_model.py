"""Random requests of random schedulers have the records that a literal model of the seed has."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from otel_lifecycle import Endpoint
from otel_lifecycle.model.timestamps import format_timestamp
from tests.conftest import Bench
from tests.hooks import seed_model
from tests.hooks.shapes import (
    LATENCY_PREDICTION,
    NPU_STATE,
    PD_GROUP,
    PREFIX_CACHE,
    Metadata,
    Metrics,
    NamespacedName,
    NPUDevice,
    NPUState,
    Request,
    Response,
    ScheduledEndpoint,
    Usage,
    pd_group,
    prediction,
    prefix_match,
    result,
    route,
)
from tests.routes import NOW_NS, SCRAPED

WHO = [
    Metadata(NamespacedName("llm", "qwen-0-rank-0"), "qwen-0", "10.0.0.1", "8000"),
    Metadata(NamespacedName("llm", "qwen-0-rank-1"), "qwen-0", "10.0.0.1", "8001"),
    Metadata(NamespacedName("llm", "qwen-1"), "qwen-1", "10.0.0.2", "8000"),
    Metadata(NamespacedName("", ""), "qwen-2", "", ""),
    Metadata(NamespacedName("llm", ""), "", "10.0.0.3", "8000"),
    Metadata(NamespacedName("llm", "no-port"), "", "10.0.0.4", ""),
]

# Values of Go's types, within the port's limits.
counts = st.integers(0, 1_000)
hundredths = st.integers(0, 10_000).map(lambda number: number / 100)
models = st.dictionaries(st.sampled_from(["lora-a", "lora-b"]), counts)
moments = st.integers(-10_000, 10_000).map(lambda ms: SCRAPED + timedelta(milliseconds=ms))
metrics = st.builds(
    Metrics,
    models,
    models,
    *[counts] * 3,
    st.integers(0, 100).map(lambda percent: percent / 100),
    *[counts] * 3,
    moments,
)
devices = st.builds(
    NPUDevice, st.sampled_from(["", "exporter:8082"]), st.sampled_from(["", "0", "1"]),
    *[hundredths] * 3,
)  # fmt: skip
states = st.builds(
    NPUState,
    st.lists(devices, max_size=2),
    moments,
    st.sampled_from(["fresh", "stale", "partial", "missing", ""]),
    counts,
    *[hundredths] * 6,
)
attributes = st.fixed_dictionaries(
    {},
    optional={
        LATENCY_PREDICTION: st.builds(
            prediction, hundredths | st.just(0.0), hundredths | st.just(0.0)
        )
        | st.just("of another type"),
        PREFIX_CACHE: st.builds(prefix_match, st.integers(0, 50), st.sampled_from([0, 50])),
        NPU_STATE: states | st.just("of another type"),
    },
)
endpoints = st.builds(ScheduledEndpoint, st.sampled_from(WHO), st.none() | metrics, attributes)
halves = st.builds(  # of one endpoint, each with the scheduler's values
    lambda one, other: pd_group(one, replace(other, metadata=one.metadata)), endpoints, endpoints
)
groups = (
    st.none()
    | st.builds(pd_group, endpoints, endpoints)
    | halves
    | st.builds(pd_group, st.none() | endpoints, st.none() | endpoints)
)


@st.composite
def leaders(draw: st.DrawFn) -> ScheduledEndpoint:
    """A selected endpoint, maybe with a pair."""
    leader = draw(endpoints)
    group = draw(groups)
    if group is not None:
        leader.attributes[PD_GROUP] = group
    return leader


@st.composite
def results(draw: st.DrawFn) -> Any:
    """A scheduling result, maybe with a dispatched route, mostly the group's."""
    leader = draw(leaders())
    pair = seed_model.selected_pd_route_endpoints(leader)
    who = st.none() | st.sampled_from(WHO)
    dispatched = st.none() | st.builds(route, who, who, who)
    if pair is not None:
        dispatched = (
            st.just(None)
            | dispatched
            | st.just(route(leader.metadata, pair[0].metadata, pair[1].metadata))
        )
    targets = draw(st.sampled_from([[leader]] * 4 + [[leader, None], [], [None, leader]]))
    return result(
        *targets,
        primary_route=draw(dispatched),
        primary_profile_name=draw(st.sampled_from(["default"] * 8 + ["", "other"])),
    )


tokenized = st.lists(st.just(7), max_size=9).map(lambda ids: SimpleNamespace(token_ids=ids))
requests = st.builds(
    lambda prompt_tokens, **fields: SimpleNamespace(
        **vars(Request(**fields)), prompt_tokens=prompt_tokens
    ),
    st.none() | counts,
    request_id=st.sampled_from(["request-1", "request-1", "request-2", ""]),
    target_model=st.sampled_from(["Qwen/Qwen3-8B", ""]),
    tokenized_prompt=st.none() | tokenized,
)
usages = st.none() | st.builds(Usage, st.integers(-1, 100))
chunks = st.builds(Response, st.booleans(), usages)
steps = st.lists(
    st.one_of(
        *[st.tuples(st.just("start"), requests, results())] * 3,
        st.tuples(st.just("chunk"), requests, chunks, st.sampled_from([*WHO, None])),
        st.tuples(st.just("event"), st.sampled_from([0, 1]), st.sampled_from(WHO)),
        st.tuples(st.just("pass"), st.integers(1, 10_000)),
        st.tuples(st.just("set wall clock"), st.integers(-10_000, 10_000)),
    ),
    min_size=8,
    max_size=15,
)  # fmt: skip


class Both:
    """Calls the tracker and the model alike."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.model = seed_model.SeedTracker()

    def now(self) -> seed_model.Moment:
        clock = self.bench.clock
        return seed_model.Moment(clock.wall_ns(), clock.monotonic_ns())

    def start(self, request: Any, scheduling_result: Any) -> None:
        before = dict(self.model.store.inflight)
        self.bench.tracker.pre_request(request, scheduling_result)
        self.model.pre_request(request, scheduling_result, self.now())
        started = self.model.store.inflight.get(request.request_id)
        if started is not None and started is not before.get(request.request_id):
            started.record.update(without_counterpart(scheduling_result))

    def chunk(self, request: Any, response: Any, served: Any) -> None:
        self.bench.tracker.response_body(request, response, served)
        self.model.response_body(request, response, served, self.now())

    def event(self, kind: int, who: Any) -> None:
        change: Any = SimpleNamespace(type=kind, endpoint=who)
        self.bench.tracker.extract_endpoint(change)
        self.model.extract_endpoint(change)

    def end_all(self) -> None:
        """End open requests and forget all endpoints, for the next example."""
        for request_id in list(self.model.store.inflight):
            self.chunk(Request(request_id), Response(end_of_stream=True), None)
        for who in WHO:
            self.event(1, who)


def without_counterpart(scheduling_result: Any) -> dict[str, Any]:
    """Return the differences for a request whose dispatched route is not its group's."""
    selected = seed_model.selected_target(scheduling_result)
    pair = seed_model.selected_pd_route_endpoints(selected)
    dispatched = seed_model.tracked_route_endpoints(
        seed_model.extract_primary_route(scheduling_result)
    )
    if [known.metadata for known in pair or ()] == dispatched:
        return {}
    if pair is None:
        return {"selectedRoute": ...}
    return dict.fromkeys(("selectedRoute", "prefixCacheScore", "prediction", "predictionMode"), ...)


def as_recorded(value: Any) -> Any:
    """Return a value of the model as a record has it."""
    if isinstance(value, dict):
        return {name: as_recorded(part) for name, part in value.items()}
    return value.isoformat().replace("+00:00", "Z") if isinstance(value, datetime) else value


def expected(record: dict[str, Any]) -> dict[str, Any]:
    """Return the model's record as the port should write it."""
    counted = {
        seed_model.key(who): seed_model.endpoint_id(who) for who in record["trackedEndpoints"]
    }
    return {
        **record,
        "trackedEndpoints": list(counted.values()),  # once if they are the same endpoint
        "startedAt": format_timestamp(record["startedAt"]),
        "selectedRoute": as_recorded(record["selectedRoute"]),
    }


def recorded(line: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    """Return the port's record with the seed's zero values for unknown."""
    snapshots = {
        role: {"id": ""}
        | {
            name: {key: part for key, part in value.items() if key != "prefixCacheHitRate"}
            if name == "metrics"
            else value
            for name, value in snapshot.items()
            if name in ("id", "metrics", "inflight", "npu")
        }
        for role, snapshot in line["selectedRoute"].items()
    }
    values = {
        **line,
        "inputTokenLength": line["inputTokenLength"] or 0,
        "prefixCacheScore": line["prefixCacheScore"] or 0.0,
        "prediction": {name: value or 0.0 for name, value in line["prediction"].items()},
        "outputLength": line["outputLength"] or 0,
        "servedEndpoint": line["servedEndpoint"] or "",
        "selectedRoute": snapshots,
        "ttft": line["actual"]["ttftMillis"],
        "e2e": line["actual"]["e2eMillis"],
    }
    return {name: values[name] if value is not ... else ... for name, value in known.items()}


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=steps)
def test_records_are_those_of_the_seed(bench: Bench, steps: list[Any]) -> None:
    """Except for the differences on the parity page, records and loads equal the model's."""
    both = Both(bench)
    assert bench.tracker.flush(timeout=30)
    offset = bench.path.stat().st_size if bench.path.exists() else 0
    perform = {
        "start": both.start,
        "chunk": both.chunk,
        "event": both.event,
        "pass": bench.clock.advance,
        "set wall clock": lambda ms: bench.clock.set_wall_ns(NOW_NS + ms * 1_000_000),
    }

    for name, *values in steps:
        perform[name](*values)
        assert loads(bench) == [both.model.store.snapshot(who) for who in WHO]
    both.end_all()

    assert bench.tracker.flush(timeout=30)
    lines = (
        [json.loads(line) for line in bench.path.read_bytes()[offset:].splitlines()]
        if (bench.path.exists())
        else []
    )
    known = [expected(record) for record in both.model.store.finished]
    assert len(lines) == len(known)
    for line, record in zip(lines, known, strict=True):
        written = recorded(line, record)
        assert {name: value for name, value in written.items() if value != record[name]} == {}


def loads(bench: Bench) -> list[dict[str, int]]:
    """Return the load of each endpoint."""
    found: list[dict[str, int]] = []
    for who in WHO:
        name = who.namespaced_name
        endpoint = Endpoint(name.namespace, who.pod_name, who.address, who.port, name.name)
        load = bench.tracker.load(endpoint)
        found.append({"tokens": load.tokens, "requests": load.requests})
    return found
