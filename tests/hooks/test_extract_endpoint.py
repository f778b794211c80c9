"""`extract_endpoint`: endpoints join and leave while requests are in flight."""

from __future__ import annotations

from enum import Enum, IntEnum
from types import SimpleNamespace
from typing import Any

import pytest

from otel_lifecycle import EndpointEvent, EndpointEventType, Load
from tests.conftest import Bench
from tests.hooks.shapes import (
    Request,
    endpoint,
    identity,
    metadata,
    pd_leader,
    predicted,
    result,
    stream,
)


class EventType(IntEnum):
    ADD_OR_UPDATE = 0
    DELETE = 1


class NamedEventType(Enum):
    ADD_OR_UPDATE = "add_or_update"
    DELETE = "delete"


def event(kind: Any, who: Any) -> Any:
    """An event shaped like the seed's."""
    return SimpleNamespace(type=kind, endpoint=who)


def add(bench: Bench, pod: str) -> None:
    """Let the endpoint join."""
    bench.tracker.extract_endpoint(event(0, metadata(pod)))


def delete(bench: Bench, pod: str) -> None:
    """Let the endpoint leave."""
    bench.tracker.extract_endpoint(event(1, metadata(pod)))


@pytest.mark.parametrize(
    ("joined", "left"),
    [
        (0, 1),
        (EventType.ADD_OR_UPDATE, EventType.DELETE),
        ("add_or_update", "delete"),
        (NamedEventType.ADD_OR_UPDATE, NamedEventType.DELETE),
        (EndpointEventType.ADD_OR_UPDATE, EndpointEventType.DELETE),
    ],
    ids=["numbers", "int enum", "names", "enum", "ours"],
)
@pytest.mark.parametrize("who", [metadata("qwen-0"), endpoint("qwen-0")], ids=["metadata", "whole"])
def test_join_and_leave(bench: Bench, joined: Any, left: Any, who: Any) -> None:
    """An endpoint that joins has no load; one that leaves is removed."""
    bench.tracker.extract_endpoint(event(joined, who))
    assert bench.tracker.store.loads() == {"pod://llm/qwen-0": Load()}

    bench.tracker.extract_endpoint(event(left, who))
    assert bench.tracker.store.loads() == {}
    assert bench.tracker.store.ignored == {}


def test_events_of_ours(bench: Bench) -> None:
    """An `EndpointEvent` is accepted too."""
    bench.tracker.extract_endpoint(
        EndpointEvent(EndpointEventType.ADD_OR_UPDATE, identity("qwen-0"))
    )

    assert bench.tracker.store.loads() == {"pod://llm/qwen-0": Load()}


def test_update_keeps_the_load(bench: Bench) -> None:
    """An add never resets the load of a known endpoint."""
    bench.tracker.pre_request(Request(), result(predicted("qwen-0")))
    add(bench, "qwen-0")
    add(bench, "qwen-1")

    assert bench.tracker.store.loads() == {
        "pod://llm/qwen-0": Load(512, 1),
        "pod://llm/qwen-1": Load(),
    }


def test_delete_of_the_unknown(bench: Bench) -> None:
    """Deleting an unknown endpoint does nothing."""
    delete(bench, "qwen-0")

    assert (bench.tracker.store.loads(), bench.tracker.store.ignored) == ({}, {})


def test_delete_ends_no_request(bench: Bench) -> None:
    """A request continues if its endpoint is deleted, and its record says so."""
    request = Request()
    bench.tracker.pre_request(request, result(predicted("qwen-0")))
    delete(bench, "qwen-0")
    assert bench.tracker.store.active_requests == 1
    assert bench.tracker.store.loads() == {}
    stream(bench.tracker, request)

    (written,) = bench.records
    assert (written.outcome.value, written.endpoint_deleted) == ("completed", ["leader"])
    assert bench.tracker.store.loads() == {}


def test_one_half_of_a_pd_route_deleted(bench: Bench) -> None:
    """The deleted role of a PD route is recorded, and the other role's load is given back."""
    request = Request()
    bench.tracker.pre_request(request, result(pd_leader()))
    delete(bench, "decode-0")
    stream(bench.tracker, request)

    (written,) = bench.records
    assert written.endpoint_deleted == ["decode"]
    assert bench.tracker.store.loads() == {"pod://llm/prefill-0": Load()}


def test_flap_in_flight(bench: Bench) -> None:
    """An endpoint that comes back starts at 0, and stays at 0 or above when old requests end."""
    old, new = Request("old"), Request("new")
    bench.tracker.pre_request(old, result(predicted("qwen-0")))
    for _ in range(2):
        delete(bench, "qwen-0")
        add(bench, "qwen-0")
    assert bench.tracker.load(identity("qwen-0")) == Load()
    bench.tracker.pre_request(new, result(predicted("qwen-0")))
    stream(bench.tracker, old)
    assert bench.tracker.load(identity("qwen-0")) == Load(512, 1)
    stream(bench.tracker, new)

    assert bench.tracker.load(identity("qwen-0")) == Load()
    assert [(written.request_id, written.endpoint_deleted) for written in bench.records] == [
        ("old", ["leader"]),
        ("new", []),
    ]


def test_deleted_endpoint_leaves_the_gauges(bench: Bench) -> None:
    """The gauges of an endpoint vanish with it."""
    add(bench, "qwen-0")
    add(bench, "qwen-1")
    delete(bench, "qwen-0")

    gauge = bench.telemetry.metrics()["llm_router.inflight.requests"]
    assert gauge == {frozenset({("llm_router.endpoint.id", "pod://llm/qwen-1")}): 0}


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (event(2, metadata("qwen-0")), "invalid_value"),
        (event(None, metadata("qwen-0")), "invalid_value"),
        (event(True, metadata("qwen-0")), "invalid_value"),
        (event([], metadata("qwen-0")), "invalid_value"),
        (event("removed", metadata("qwen-0")), "invalid_value"),
        (event(0, None), "invalid_value"),
        (event(0, SimpleNamespace()), "invalid_value"),
        (event(1, 7), "invalid_value"),
        (None, "hook_error"),
        (SimpleNamespace(), "hook_error"),
        (7, "hook_error"),
    ],
    ids=[
        "other number",
        "null type",
        "boolean",
        "list",
        "other name",
        "null endpoint",
        "nothing known",
        "a number for an endpoint",
        "null",
        "no event",
        "a number",
    ],
)
def test_bad_event(bench: Bench, bad: Any, reason: str) -> None:
    """An event without a known type or endpoint is ignored and counted."""
    bench.tracker.pre_request(Request(), result(predicted("qwen-0")))

    bench.tracker.extract_endpoint(bad)

    assert bench.tracker.store.loads() == {"pod://llm/qwen-0": Load(512, 1)}
    assert bench.tracker.store.ignored == {reason: 1}


def test_endpoints_are_bounded(bench: Bench) -> None:
    """Without delete events, only endpoints without requests are removed to make room."""
    request = Request()
    bench.tracker.pre_request(request, result(predicted("qwen-0")))
    for number in range(9_999):
        add(bench, f"idle-{number}")
    assert len(bench.tracker.store.loads()) == 10_000

    add(bench, "newest")

    assert bench.tracker.store.loads() == {
        "pod://llm/qwen-0": Load(512, 1),
        "pod://llm/newest": Load(),
    }
    stream(bench.tracker, request)
    assert bench.tracker.store.loads()["pod://llm/qwen-0"] == Load()
