"""The shipped JSON Schema accepts real records, and refuses wrong ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import resources
from typing import Any

import jsonschema
import msgspec
import pytest
from jsonschema.protocols import Validator

from otel_lifecycle import (
    SLO,
    Candidate,
    LatencyPrediction,
    Leg,
    LegOutcome,
    LegRole,
    RequestCompletion,
)
from otel_lifecycle.config import PromptConfig
from otel_lifecycle.model.schema import record_schema
from tests.conftest import Bench
from tests.routes import aggregated, bare, disaggregated, endpoint, start

SCHEMA = resources.files("otel_lifecycle") / "model" / "record.schema.json"


def completed(bench: Bench) -> None:
    """A stream that completed, served by another endpoint."""
    with bench.tracker.track(start()) as tracked:
        tracked.chunk()
        tracked.complete(output_tokens=128, cached_tokens=200, served_endpoint=endpoint("qwen-9"))


def completed_pd(bench: Bench) -> None:
    """The same on a PD route, with candidates, a prompt, a label and targets."""
    candidates = [
        Candidate(endpoint("prefill-0"), 1.0, {"load": 1.0}, 0.5, LatencyPrediction(9.0), "prefill")
    ]
    request = msgspec.structs.replace(
        start(route=disaggregated()),
        candidates=candidates,
        labels={"tenant": "acme"},
        slo=SLO(ttft_ms=500, tpot_ms=50, e2e_ms=30_000),
        prompt="Hello",
    )
    with bench.tracker.track(request) as tracked:
        tracked.chunk()
        legs = [
            Leg(LegRole.PREFILL, endpoint("qwen-1"), 1, 2, LegOutcome.COMPLETED),
            Leg(LegRole.DECODE, endpoint("qwen-2"), 3),
        ]
        tracked.end(RequestCompletion(output_tokens=128, legs=legs))


def failed(bench: Bench) -> None:
    """An error before the first chunk."""
    with bench.tracker.track(start()) as tracked:
        tracked.fail("http_500")


def rerouted(bench: Bench) -> None:
    """A rerouted request with few known values."""
    with bench.tracker.track(start(route=aggregated())) as tracked:
        tracked.reroute(type(aggregated())(bare("qwen-1")), reason="connect_error")
        tracked.disconnect()


def rejected(bench: Bench) -> None:
    """A request without an endpoint."""

    class Request:
        request_id = "request-1"
        target_model = "Qwen/Qwen3-8B"

    bench.tracker.reject(Request(), "no_candidates")


def line(bench: Bench, request: Callable[[Bench], None]) -> Any:
    """The line that a request writes to the record file."""
    request(bench)
    assert bench.tracker.flush(timeout=30)
    return json.loads(bench.path.read_text("utf-8"))


def validator() -> Validator:
    """A validator of the shipped schema."""
    schema = json.loads(SCHEMA.read_text("utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("request_", [completed, completed_pd, failed, rerouted, rejected])
def test_records_are_valid(bench: Bench, request_: Callable[[Bench], None]) -> None:
    """Every record of a request is valid."""
    validator().validate(line(bench, request_))


def test_all_fields_are_in_the_schema(make_bench: Callable[..., Bench]) -> None:
    """The schema lists exactly the fields of a record, in their order."""
    schema = record_schema()["$defs"]["LifecycleRecord"]
    bench = make_bench(prompt=PromptConfig(blocks=16))

    assert list(schema["properties"]) == list(line(bench, completed_pd))


def without(field: str) -> Callable[[dict[str, Any]], None]:
    """Remove a field."""

    def change(record: dict[str, Any]) -> None:
        del record[field]

    return change


def with_value(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Set a value at a dotted path."""

    def change(record: dict[str, Any]) -> None:
        *parents, field = path.split(".")
        target: Any = record
        for parent in parents:
            target = target[int(parent) if parent.isdecimal() else parent]
        target[field] = value

    return change


@pytest.mark.parametrize(
    ("change", "path"),
    [
        (without("requestId"), ""),
        (without("startedAt"), ""),
        (without("actual"), ""),
        (with_value("schemaVersion", 2), "schemaVersion"),
        (with_value("requestId", None), "requestId"),
        (with_value("outcome", "lost"), "outcome"),
        (with_value("startedAt", "2026-11-24T23:42:56Z"), "startedAt"),
        (with_value("streaming", "yes"), "streaming"),
        (with_value("inputTokenLength", "512"), "inputTokenLength"),
        (with_value("inputTokenSource", "guessed"), "inputTokenSource"),
        (with_value("trackedEndpoints", "pod://llm/qwen-0"), "trackedEndpoints"),
        (with_value("selectedRoute.leader", None), "selectedRoute"),
        (with_value("selectedRoute.leader.metrics.activeModels", []), "selectedRoute"),
        (with_value("predictionInputs.0.kvCacheUsage", "31%"), "predictionInputs.0.kvCacheUsage"),
        (
            with_value("missingFeatureReasons", [{"podType": "", "feature": "x", "reason": "y"}]),
            "missingFeatureReasons.0.reason",
        ),
        (with_value("error", {}), "error"),
        (with_value("outputLength", -1), "outputLength"),
        (with_value("prefixCacheScore", 42), "prefixCacheScore"),
        (with_value("requestId", "x" * 513), "requestId"),
    ],
)
def test_wrong_records_are_refused(
    bench: Bench, change: Callable[[dict[str, Any]], None], path: str
) -> None:
    """A record with a missing or wrong field is refused, and the error names the field."""
    record = line(bench, completed)
    change(record)

    errors = list(validator().iter_errors(record))

    assert [".".join(map(str, error.absolute_path)) for error in errors] == [path]


def test_moments_are_date_times() -> None:
    """The schema says which texts are times."""
    definitions = record_schema()["$defs"]

    for definition, field in (("EndpointMetrics", "updateTime"), ("NPUState", "observationTime")):
        moment = {"type": "string", "format": "date-time"}
        assert moment in definitions[definition]["properties"][field]["anyOf"]
