"""Labels: what the settings or the program want recorded of a request beside the rest."""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import pytest

from otel_lifecycle import RequestStart
from otel_lifecycle.tracking.asked.body import BodyFields
from tests.conftest import Bench
from tests.hooks import shapes
from tests.routes import aggregated, start

KEY = "a key of the operator"
MakeBench = Callable[..., Bench]


def hashed(value: str) -> str:
    """What is recorded of a value that is hashed."""
    return hmac.new(KEY.encode(), value.encode(), "sha256").hexdigest()[:32]


def told(bench: Bench) -> list[dict[str, str] | None]:
    """The labels of each record, which its span has too."""
    found: list[dict[str, str] | None] = []
    for record, span in zip(bench.records, bench.spans, strict=True):
        labels = None if record.labels is msgspec.UNSET else record.labels
        of_span = {
            name.removeprefix("llm_router.label."): value
            for name, value in span["attributes"].items()
            if name.startswith("llm_router.label.")
        }
        assert of_span == (labels or {})
        found.append(labels)
    return found


def labelled(labels: Any, request_id: str = "request-1") -> RequestStart:
    """A request with labels of the program."""
    return RequestStart(request_id, aggregated(), "m", labels=labels)


def test_headers(make_bench: MakeBench) -> None:
    """The first header with a value counts; values are hashed unless they are to be plain."""
    bench = make_bench(
        labels="tenant=x-tenant-id,tenant=x-old-tenant,class=x-class;plain", labels_key=KEY
    )
    for headers in (
        {"x-tenant-id": "acme", "x-old-tenant": "old", "x-class": "batch", "x-other": "secret"},
        {"x-tenant-id": "", "x-old-tenant": "old"},
        {"x-other": "secret"},
    ):
        bench.tracker.track(start(), headers).complete()

    assert told(bench) == [
        {"tenant": hashed("acme"), "class": "batch"},
        {"tenant": hashed("old")},
        None,
    ]
    assert b'"labels"' not in bench.path.read_bytes().splitlines()[-1]


def test_nothing_is_read_unless_asked_for(bench: Bench) -> None:
    """Without the setting no header and no word of a project is in record or span."""
    headers = {"x-tenant-id": "acme", "x-llm-d-inference-objective": "chat", "x-slo-ttft-ms": "5"}
    bench.tracker.track(start(), headers).complete()

    assert told(bench) == [None]
    assert bench.records[0].slo is msgspec.UNSET


@pytest.mark.parametrize(
    ("given", "kept", "invalid"),
    [
        (
            {"a": "x", "b": 5, "c": 0.25, "d": True},
            {"a": "x", "b": "5", "c": "0.25", "d": "true"},
            0,
        ),
        ({"a": "x" * 256, "b": "x" * 257, "c": "x" * 2**20}, {"a": "x" * 256}, 2),
        ({"a": ["prompt"], "b": {"c": 1}, "c": None, "d": b"x", "e": ""}, None, 5),
        ({"a": float("nan"), "b": 2**70, "no name": "x", 5: "x"}, None, 4),
        ({f"l{number}": "x" for number in range(20)}, {f"l{n}": "x" for n in range(16)}, 4),
        ({"a": "\ud800"}, {"a": "\\ud800"}, 0),
        (["a"], None, 1),
        ({}, None, 0),
    ],
    ids=["types", "long", "others", "numbers and names", "many", "surrogate", "no mapping", "none"],
)
def test_labels_of_the_program(
    bench: Bench, given: Any, kept: dict[str, str] | None, invalid: int
) -> None:
    """The program's labels are recorded as they are, within bounds, and the rest is counted."""
    bench.tracker.track(labelled(given)).complete()

    assert told(bench) == [kept]
    assert bench.tracker.store.ignored["invalid_value"] == invalid


def test_the_program_comes_first(make_bench: MakeBench) -> None:
    """A label of the program takes the place of a header's, and is recorded as the settings say."""
    bench = make_bench(labels="tenant=x-tenant-id,mine=;plain", labels_key=KEY)
    given = labelled({"tenant": "program", "mine": "as it is", "other": "too"})
    bench.tracker.track(given, {"x-tenant-id": "header"}).complete()

    assert told(bench) == [{"tenant": hashed("program"), "mine": "as it is", "other": "too"}]


def test_reroute_keeps_labels(make_bench: MakeBench) -> None:
    """A request that is sent again, or becomes known better, keeps its labels."""
    bench = make_bench(labels="tenant=x-tenant-id", labels_key=KEY)
    tracked = bench.tracker.track(labelled({"a": 1}), {"x-tenant-id": "acme"})
    tracked.reroute(aggregated("qwen-1"), reason="connect_error")
    tracked.describe(labelled({"b": 2}))
    tracked.describe(start())
    tracked.complete()

    assert told(bench) == [{"tenant": hashed("acme"), "a": "1", "b": "2"}]


def test_rejected_requests_have_labels(make_bench: MakeBench) -> None:
    """So a tenant's share of the rejected requests is known."""
    bench = make_bench(labels="tenant=x-tenant-id;plain")
    bench.tracker.reject(start(), "no_candidates", {"x-tenant-id": "acme"})

    assert told(bench) == [{"tenant": "acme"}]


class Objectives:
    """As the Gateway API Inference Extension has it."""

    priority = -10


def test_hooks(make_bench: MakeBench) -> None:
    """The hooks read headers, body and priority off the scheduler's request, if it has them."""
    bench = make_bench(labels="llm-d,dynamo", labels_key=KEY)
    context = {"session_id": "s", "trajectory_id": "t", "session_type_id": ["no text"]}
    request: Any = shapes.Request()
    request.headers = {
        "x-llm-d-inference-fairness-id": "acme",
        "x-gateway-inference-objective": "o",
    }
    request.body = type(
        "Body", (), {"stream": True, "payload": {"nvext": {"agent_context": context}}}
    )
    request.objectives = Objectives()
    bench.tracker.pre_request(request, shapes.result(shapes.endpoint("qwen-0")))
    bench.tracker.reroute_request(request, shapes.result(shapes.endpoint("qwen-0")), "again")
    bench.tracker.response_body(request, shapes.last())
    plain: Any = shapes.Request("request-2")
    bench.tracker.pre_request(plain, shapes.result(shapes.endpoint("qwen-0")))
    bench.tracker.response_body(plain, shapes.last())

    assert told(bench) == [
        {
            "fairness_id": hashed("acme"),
            "objective": "o",
            "priority": "-10",
            "session_id": hashed("s"),
            "trajectory_id": hashed("t"),
        },
        None,
    ]


def test_metrics(make_bench: MakeBench) -> None:
    """Only a label that is listed for metrics is an attribute there, with few values."""
    bench = make_bench(
        labels="tenant=x-t;plain;metric,session=x-s;plain", max_metric_values=2, slo="e2e=1s"
    )

    def serve(tenant: str, *, fails: bool = False) -> None:
        tracked = bench.tracker.track(start(), {"x-t": tenant, "x-s": "s"})
        if fails:
            tracked.fail("http_500")
        else:
            tracked.complete()

    for number in range(5):
        serve(f"invented-{number}", fails=True)
    for tenant in ("a", "b", "c", "a"):
        serve(tenant)
    metrics = bench.telemetry.metrics()

    def counts(metric: str) -> dict[Any, float]:
        return {
            dict(attributes)["llm_router.label.tenant"]: value
            for attributes, value in metrics[metric].items()
            if dict(attributes).get("llm_router.slo.met", True)
            and dict(attributes).get("llm_router.outcome") != "error"
        }

    assert counts("llm_router.requests") == {"a": 2, "b": 1, "_OTHER": 1}
    assert counts("llm_router.slo.requests") == {"a": 2, "b": 1, "_OTHER": 1}
    assert counts("gen_ai.server.request.duration") == {"a": 2, "b": 1, "_OTHER": 1}
    assert "session" not in str(metrics)
    assert "invented" not in str(metrics)


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (
            {"user": "u", "a": {"b": {"c-d": 5}, "e": True}},
            {"user": "u", "a.b.c-d": 5, "a.e": True},
        ),
        ({"user": ["u"], "a": {"b": "text", "e": {"f": 1}}}, {}),
        ({"user": None, "a": "text"}, {}),
        ([], {}),
    ],
    ids=["all", "other types", "null", "no object"],
)
def test_body_fields(body: Any, found: Mapping[str, object]) -> None:
    """Fields of nested objects are found, and only text, numbers and truth values are taken."""
    wanted = [("user",), ("a", "b", "c-d"), ("a", "e")]

    fields = BodyFields(wanted).read(json.dumps(body).encode())

    assert {".".join(path): value for path, value in fields.items()} == found


def test_no_body() -> None:
    """What is no JSON has no fields."""
    assert BodyFields([("user",)]).read(b'{"user": "u"') == {}
    assert BodyFields([("a", "b")]).read(b'{"a":' * 100_000) == {}
