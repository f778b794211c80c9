"""Entries of many requests, in any order, and what they say of the load."""

from __future__ import annotations

import itertools
import json
from typing import Any

import msgspec
import pytest

from otel_lifecycle.model import Load, Outcome
from otel_lifecycle.model.record import LifecycleRecord
from otel_lifecycle.observation.envoy.requests import SavedRequest
from otel_lifecycle.tracking.lifecycle import Lifecycle
from tests.garbage import freed_without_collector
from tests.observation.entries import ENGINE, Joined, end, moment, ready, start, upstream_end, whole

LABEL = f"addr://{ENGINE}"


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_any_order(order: tuple[int, ...]) -> None:
    """The entries of a request make one record, whichever comes first."""
    entries = whole()
    joined = Joined().take(entries[index] for index in order)
    joined.now = 5.0
    joined.joiner.expire()
    (record,) = joined.records
    expected = Joined().take(entries).records[0]
    for each in (record, expected):  # the load is only known if the attempt came before the end
        each.dispatch_inflight = None
        each.prediction_inputs = []
        each.missing_feature_reasons = []
        assert each.selected_route is not None
        each.selected_route.leader.inflight = None

    assert record == expected
    assert joined.loads == {}
    assert joined.joiner.open_requests == 0


def test_load() -> None:
    """A request charges its endpoint while it is in flight, with an estimate of its prompt."""
    joined = Joined().take([start("a", size=400), ready("a")])
    assert joined.loads == {LABEL: Load(100, 1)}

    joined.take([start("b"), ready("b"), upstream_end("b"), end("b")])
    (record,) = joined.records
    assert record.dispatch_inflight == Load(100, 1)

    joined.take([end("a"), upstream_end("a")])
    assert joined.loads == {}
    assert joined.records[1].dispatch_inflight == Load()
    assert joined.records[1].input_token_length == 20  # the engine's own count


def test_pair() -> None:
    """Prefill and decode are both charged."""
    prefill = "10.0.0.2:8000"
    joined = Joined().take([start(), ready(pf=prefill)])

    assert joined.loads == {LABEL: Load(0, 1), f"addr://{prefill}": Load(0, 1)}
    joined.take([upstream_end(pf=prefill), end(pf=prefill)])
    assert joined.loads == {}
    assert joined.records[0].tracked_endpoints == [f"addr://{prefill}", LABEL]


def test_same_id() -> None:
    """Clients repeat ids: each of their requests has a record of its own."""
    first = [start(conn=1), ready(conn=1), upstream_end(conn=1), end(conn=1)]
    second = [
        start(conn=2, t=moment(500)),
        ready(conn=2, after_us=3_000),
        upstream_end(conn=2, after_us=3_000),
        end(conn=2, t=moment(500), code=500),
    ]
    joined = Joined().take(itertools.chain(*zip(first, second, strict=True)))

    assert [record.outcome for record in joined.records] == [Outcome.COMPLETED, Outcome.ERROR]
    assert len({record.span_id for record in joined.records}) == 2
    assert joined.joiner.counts.late == 0


def test_same_id_without_connections() -> None:
    """Older Envoys do not tell the connection of an attempt: the last request that came counts."""
    joined = Joined().take(
        [
            start(conn=1),
            ready(conn=0),
            start(conn=2, t=moment(5_000)),
            ready(conn=0, after_us=6_000, ep="10.0.0.9:8000"),
        ]
    )

    assert joined.loads == {LABEL: Load(0, 1), "addr://10.0.0.9:8000": Load(0, 1)}


def test_retries() -> None:
    """Each attempt is a leg; one that the end broke off has that end."""
    other = "10.0.0.2:8000"
    joined = Joined().take(
        [
            start(),
            ready(after_us=2_000),
            upstream_end(after_us=2_000, code=503, dur_ms=10),
            ready(after_us=20_000, ep=other),
            end(attempts=2, up=other),
            upstream_end(after_us=20_000, ep=other, dur_ms=79),
        ]
    )
    (record,) = joined.records

    assert record.attempt == 2
    assert record.served_endpoint == f"addr://{other}"
    assert record.legs is not msgspec.UNSET
    assert [(leg.role.value, leg.endpoint, leg.outcome) for leg in record.legs] == [
        ("leader", LABEL, "error"),
        ("leader", f"addr://{other}", "completed"),
    ]
    assert record.started_at == "2026-11-29T16:44:44.262860000Z"  # the first attempt
    assert record.legs[0].ended_at == "2026-11-29T16:44:44.272860000Z"


def test_abandoned() -> None:
    """A request whose end does not come gives its load back, and a late end changes nothing."""
    joined = Joined(abandon_after=60.0).take([start("a"), ready("a"), start("b")])
    joined.now = 59.0
    joined.joiner.expire()
    assert joined.records == []

    joined.now = 61.0
    joined.joiner.expire()
    assert [(record.request_id, record.outcome) for record in joined.records] == [
        ("a", Outcome.ABANDONED),
        ("b", Outcome.ABANDONED),
    ]
    assert joined.records[0].actual.e2e_ms is None
    assert joined.records[0].completed_at is None
    assert joined.loads == {}
    joined.take([end("a")])
    assert len(joined.records) == joined.joiner.counts.abandoned == 2
    assert joined.joiner.counts.late == 1


def test_many_open() -> None:
    """Beyond the bound the oldest requests are abandoned."""
    joined = Joined(max_open=2).take(start(f"r{number}") for number in range(5))
    joined.joiner.expire()

    assert [record.request_id for record in joined.records] == ["r0", "r1", "r2"]


def test_resumed() -> None:
    """A request in flight goes on after a restart, with the load that was known at its dispatch."""
    before = Joined().take([start("a", size=40), ready("a"), start("b", size=80), ready("b")])
    saved = msgspec.json.decode(msgspec.json.encode(before.joiner.saved()), type=list[SavedRequest])
    after = Joined()
    after.joiner.restore(saved)

    assert after.loads == before.loads == {LABEL: Load(30, 2)}
    rest = [upstream_end("b"), end("b"), upstream_end("a"), end("a")]
    assert after.take(rest).records == before.take(rest).records
    assert [record.dispatch_inflight for record in after.records] == [Load(10, 1), Load()]


_REFUSED: dict[str, Any] = {"attempts": 0, "ep": None, "up": None, "details": ""}
_UNHEALTHY, _RESET = "no_healthy_upstream", "upstream_reset_after_response_started"


@pytest.mark.parametrize(
    ("fields", "outcome", "error"),
    [
        ({}, "completed", None),
        ({"details": "downstream_remote_disconnect"}, "client_disconnect", None),
        ({"flags": "DownstreamConnectionTermination"}, "client_disconnect", None),
        ({"code": 503, "details": _UNHEALTHY, "up": None}, "error", _UNHEALTHY),
        ({"code": 0, "details": None}, "error", "no_answer"),
        ({"code": 429}, "error", "http_429"),
        ({"details": f"{_RESET}{{x|y}}"}, "error", _RESET),
        ({"code": 504, "details": "response_timeout"}, "error", "response_timeout"),
        ({**_REFUSED, "code": 503}, "rejected", "http_503"),
        ({**_REFUSED, "ep": "-", "code": 429, "reason": "saturated"}, "rejected", "saturated"),
        ({"llm": {"stream": True, "done": False}}, "error", "stream_truncated"),
    ],
)
def test_outcomes(fields: dict[str, Any], outcome: str, error: str | None) -> None:
    """What Envoy says of the response is the outcome."""
    (record,) = Joined().take([end(**fields)]).records

    assert record.outcome.value == outcome
    assert (record.error and record.error.type) == error
    assert (record.selected_route is None) == (outcome == "rejected")


def test_error_has_no_first_chunk() -> None:
    """The body of an error is no output, though it has a first byte."""
    (record,) = Joined().take([end(code=500)]).records

    assert record.first_byte_at == "2026-11-29T16:44:44.310860000Z"
    assert record.first_chunk_at is record.actual.ttft_ms is None


def test_other_requests() -> None:
    """Requests that are no inference, or have no id, are counted and not recorded."""
    joined = Joined().take(
        [
            start("a", method="GET", path="/v1/models"),
            end("a", method="GET", path="/v1/models"),
            end("b", method="POST", path="/admin/reload"),
            end(rid=None),
            end(rid="-"),
            end("c", method="POST", path="/v1/chat/completions"),
        ]
    )

    assert [record.operation for record in joined.records] == ["chat"]
    assert (joined.joiner.counts.not_inference, joined.joiner.counts.without_id) == (2, 2)
    assert joined.joiner.open_requests == 0


def test_hostile_values() -> None:
    """What clients choose is bounded in the record, and breaks nothing."""
    joined = Joined().take(
        [
            end("x" * 60_000, tp="00-" + "f" * 60_000, ts="a=b," * 5_000, ep="e" * 9_000),
            end("\u202e\x00", tp="00-zz-01", llm={"model": "m" * 9_000, "prompt_tokens": -1e300}),
            end("n", e2e_us=-5, up_tx_us=1 << 60, dur_ms=-1, ttfb_body_us=-7, attempts=-3),
        ]
    )
    for record in joined.records:
        assert len(msgspec.json.encode(record)) < 10_000
        msgspec.convert(msgspec.to_builtins(record), type(record))
    assert len(joined.records) == 3
    assert joined.records[2].actual.e2e_ms is None


def test_clock_set_back() -> None:
    """A clock that was set meanwhile makes no duration of its own."""
    (record,) = Joined().take([end(e2e_us=None, dur_ms=300, now=moment(-3_600_000_000))]).records
    assert record.actual.e2e_ms == pytest.approx(300 - 2.1)

    (record,) = Joined().take([end(e2e_us=None, dur_ms=300, now=moment(300_400))]).records
    assert record.actual.e2e_ms == pytest.approx(300.4 - 2.1)


def flat(value: object, path: str = "") -> dict[str, object]:
    """The values of a record as it is written, by where they stand."""
    if isinstance(value, LifecycleRecord):
        value = json.loads(msgspec.json.encode(value))
    if not isinstance(value, (dict, list)):
        return {path: value}
    parts = value.items() if isinstance(value, dict) else enumerate(value)
    return {name: one for key, part in parts for name, one in flat(part, f"{path}.{key}").items()}


FIELDS = sorted(json.loads(end()).keys() - {"type", "t", "rid"})


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("how", ["missing", "renamed", "-"])
def test_fields_that_are_not_there(field: str, how: str) -> None:
    """A request whose end lacks a field is recorded once, without what the field would tell."""
    expected = Joined().take(whole()).records[0]
    *entries, last = whole()
    fields = json.loads(last)
    value = fields.pop(field)
    changes = {"missing": {}, "renamed": {f"{field}_of_another": value}, "-": {field: "-"}}
    fields |= changes[how]
    joined = Joined().take([*entries, json.dumps(fields).encode()])
    joined.joiner.expire(at_end=True)

    (record,) = joined.records
    told, unknown = flat(expected), flat(record)
    assert (record.request_id, record.received_at) == (expected.request_id, expected.received_at)
    for name in told.keys() | unknown.keys():
        if unknown.get(name) != told.get(name):
            assert unknown.get(name) != 0, f"{name} is made up"


def test_nothing_is_left_for_the_garbage_collector() -> None:
    """A request is freed with its record, without a search for cycles."""
    joined = Joined()

    with freed_without_collector(Lifecycle):
        joined.take(whole())

    assert len(joined.records) == 1
