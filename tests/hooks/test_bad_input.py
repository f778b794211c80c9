"""Malformed objects: hooks never raise, telemetry stays valid, and a counter or reason shows it."""

from __future__ import annotations

import json
import math
from datetime import datetime, timedelta, timezone
from functools import partial
from importlib import resources
from types import SimpleNamespace
from typing import Any, cast

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from otel_lifecycle import LatencyPrediction, LifecycleRecord, Load, NPUDevice
from tests.conftest import Bench
from tests.hooks.shapes import (
    LATENCY_PREDICTION,
    NPU_STATE,
    PD_GROUP,
    PREFIX_CACHE,
    Metrics,
    ProfileRunResult,
    Request,
    ScheduledEndpoint,
    SchedulingResult,
    Usage,
    endpoint,
    identity,
    last,
    metadata,
    npu_state,
    pd_leader,
    predicted,
    prediction,
    prefix_match,
    result,
    route,
    stream,
    usage,
)
from tests.hooks.shapes import Response as Chunk

NAN = float("nan")
INFINITY = float("inf")


class Opaque:
    """An object without attributes, with the same name in every process that runs tests."""

    def __repr__(self) -> str:
        return "Opaque()"


class Raising:
    """An object whose attributes raise, except those that tools read."""

    def __repr__(self) -> str:
        return "Raising()"

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name) if name.startswith("_") else RuntimeError(name)


NOT_NUMBERS = [True, False, "3", b"3", [3], {"3": 3}, Opaque(), 3 + 0j]
NOT_COUNTS = [*NOT_NUMBERS, -1, 1.5, NAN, INFINITY, -INFINITY, 2**53, 10**400]

VALIDATOR = jsonschema.Draft202012Validator(
    json.loads(
        (resources.files("otel_lifecycle") / "model" / "record.schema.json").read_text("utf-8")
    )
)


def refuse(constant: str) -> None:
    """Refuse NaN and infinities, which JSON does not have."""
    raise AssertionError(constant)


def checked_records(bench: Bench, offset: int = 0) -> list[Any]:
    """Return the lines of the record file from `offset` on: strict JSON that fits the schema."""
    assert bench.tracker.flush(timeout=30)
    lines = bench.path.read_bytes()[offset:].splitlines()
    records = [json.loads(line.decode("utf-8"), parse_constant=refuse) for line in lines]
    for record in records:
        VALIDATOR.validate(record)
    return records


def assert_valid_attribute(value: Any) -> None:
    """Assert that every exporter can write a span attribute."""
    values: tuple[Any, ...] = value if isinstance(value, tuple) else (value,)
    assert len({type(item) for item in values}) <= 1
    for item in values:
        assert isinstance(item, (str, bool, int, float))
        if isinstance(item, str):
            item.encode("utf-8")
            assert len(item) <= 512 + len("route ")
        elif isinstance(item, float):
            assert math.isfinite(item)
        else:
            assert -(2**63) <= item < 2**63


def assert_spans_valid(bench: Bench, first: int = 0) -> None:
    """Assert that names, attributes and events of the spans from `first` on can be exported."""
    for span in bench.telemetry.spans[first:]:
        assert_valid_attribute(span.name)
        for attributes in (span.attributes, *(event.attributes for event in span.events)):
            for value in (attributes or {}).values():
                assert_valid_attribute(value)


def track(bench: Bench, scheduling_result: Any, request: Any = None) -> LifecycleRecord:
    """The record of a request that streams and completes."""
    request = request or Request()
    bench.tracker.pre_request(request, scheduling_result)
    stream(bench.tracker, request, usage=usage())
    (record,) = bench.records
    checked_records(bench)
    assert_spans_valid(bench)
    assert set(bench.tracker.store.loads().values()) == {Load()}
    return record


def missing(record: LifecycleRecord) -> dict[str, str]:
    """Return feature and reason of each missing feature."""
    return {entry.feature: entry.reason.value for entry in record.missing_feature_reasons}


@pytest.mark.parametrize("value", NOT_COUNTS, ids=str)
@pytest.mark.parametrize("field", ["prompt_tokens", "prompt_tokens_estimate"])
def test_token_counts(bench: Bench, field: str, value: Any) -> None:
    """An invalid length is unknown, adds no tokens to the load, and is counted."""
    request: Any = SimpleNamespace(request_id="request-1", target_model="", **{field: value})
    bench.tracker.pre_request(request, result(predicted("qwen-0")))
    assert bench.tracker.load(identity("qwen-0")) == Load(tokens=0, requests=1)
    stream(bench.tracker, request)

    (record,) = bench.records
    assert (record.input_token_length, record.input_token_source.value) == (None, "unknown")
    assert missing(record) == {"inputTokenLength": "input_tokens_missing"}
    assert bench.tracker.store.ignored == {"invalid_value": 1}


@pytest.mark.parametrize("value", NOT_COUNTS, ids=str)
def test_request_size(bench: Bench, value: Any) -> None:
    """An invalid size gives no estimate."""
    request = SimpleNamespace(request_id="request-1", request_size_bytes=value)

    record = track(bench, result(predicted("qwen-0")), request)

    assert (record.input_token_length, record.input_token_source.value) == (None, "unknown")


def test_gigantic_loads_stay_exportable(bench: Bench) -> None:
    """A hundred requests of the maximum length add up to a number that OTLP can hold."""
    for number in range(100):
        request: Any = SimpleNamespace(request_id=f"request-{number}", prompt_tokens=2**53 - 1)
        bench.tracker.pre_request(request, result(predicted("qwen-0")))

    tokens = bench.telemetry.metrics()["llm_router.inflight.tokens"]
    assert list(tokens.values()) == [100 * (2**53 - 1)]
    assert 100 * (2**53 - 1) < 2**63


@pytest.mark.parametrize("value", [-1.0, NAN, INFINITY, 1e10, *NOT_NUMBERS[2:], True], ids=type)
@pytest.mark.parametrize("latency", ["ttft", "tpot"])
def test_predictions(bench: Bench, latency: str, value: Any) -> None:
    """An invalid prediction is ignored and counted."""
    attribute = prediction(**{"ttft": None, "tpot": None, latency: value})

    record = track(bench, result(endpoint("qwen-0", prediction=attribute)))

    assert (record.prediction.ttft_ms, record.prediction.tpot_ms) == (None, None)
    assert record.prediction_mode == ""
    assert bench.tracker.store.ignored == {"invalid_value": 1}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((210.1234567, 18.5), LatencyPrediction(210.123457, 18.5)),
        ((1e-7, 0.0), LatencyPrediction(0.0, None)),
    ],
    ids=["longer", "shorter"],
)
def test_predictions_are_kept_to_a_nanosecond(
    bench: Bench, given: tuple[float, float], expected: LatencyPrediction
) -> None:
    """A prediction below half a nanosecond is 0, and still a prediction, as in the seed."""
    record = track(bench, result(endpoint("qwen-0", prediction=prediction(*given))))

    assert (record.prediction, record.prediction_mode) == (expected, "active")
    assert bench.tracker.store.ignored == {}


def test_percents_are_kept_to_a_millionth(bench: Bench) -> None:
    """Percentages are rounded so that they survive the span, which has fractions."""
    selected = predicted("qwen-0")
    state = selected.attributes[NPU_STATE]
    state.hbm_utilization_avg = state.devices[0].ai_core_utilization = 57.12345678

    record = track(bench, result(selected))

    assert record.selected_route is not None
    npu = record.selected_route.leader.npu
    assert npu is not None
    assert npu.hbm_utilization_avg == npu.devices[0].ai_core_utilization == 57.123457


@pytest.mark.parametrize(
    ("attribute", "reason", "ignored"),
    [
        (-0.1, "prefix_cache_missing", 1),
        (1.1, "prefix_cache_missing", 1),
        (NAN, "not_finite", 1),
        (INFINITY, "not_finite", 1),
        (True, "prefix_cache_missing", 1),
        (prefix_match(51, 50), "prefix_cache_missing", 1),
        (prefix_match(-1, 50), "prefix_cache_missing", 1),
        (prefix_match(None, 50), "prefix_cache_missing", 1),
        (prefix_match(0, INFINITY), "prefix_cache_missing", 1),
        (prefix_match(0, -1), "prefix_cache_missing", 1),
        (prefix_match("1", "2"), "prefix_cache_missing", 1),
        (Raising(), "prefix_cache_missing", 1),
        ("high", "prefix_cache_missing", 0),
    ],
    ids=str,
)
def test_prefix_cache_scores(bench: Bench, attribute: Any, reason: str, ignored: int) -> None:
    """A score outside 0 to 1 is unknown, never replaced, and has a reason."""
    record = track(bench, result(endpoint("qwen-0", prefix_cache=attribute)))

    assert (record.prefix_cache_score, missing(record)) == (None, {"prefixCacheScore": reason})
    assert bench.tracker.store.ignored == ({"invalid_value": ignored} if ignored else {})


@pytest.mark.parametrize(
    ("field", "feature"),
    [
        ("running_requests_size", "numRequestRunning"),
        ("waiting_queue_size", "numRequestWaiting"),
        ("kv_cache_usage_percent", "kvCacheUsage"),
    ],
)
@pytest.mark.parametrize(
    ("value", "reason"),
    [
        *((value, "metrics_missing") for value in [*NOT_NUMBERS, -1, 1.5, 10**400]),
        *((value, "not_finite") for value in (NAN, INFINITY, -INFINITY)),
    ],
    ids=str,
)
def test_metrics(bench: Bench, field: str, feature: str, value: Any, reason: str) -> None:
    """A metric out of range or of another type is unknown, with its reason; the others stay."""
    selected = predicted("qwen-0")
    setattr(selected.metrics, field, value)

    record = track(bench, result(selected))

    assert missing(record) == {feature: reason}


@pytest.mark.parametrize("value", [-1, -1.0, 100.1, NAN, INFINITY, 10**400, *NOT_NUMBERS], ids=type)
def test_npu_values(bench: Bench, value: Any) -> None:
    """The values an exporter writes after a failed read are unknown, with a reason."""
    selected = predicted("qwen-0")
    selected.attributes[NPU_STATE].hbm_utilization_avg = value

    record = track(bench, result(selected))

    assert missing(record) == {"hbmUtilization": "npu_invalid_value"}


@pytest.mark.parametrize(
    "state", ["fresh", 1, ["fresh"], {"data_status": "fresh"}, SimpleNamespace(utilization=60.0)]
)
def test_npu_state_of_another_type(bench: Bench, state: Any) -> None:
    """An object without any field of an NPU state is ignored."""
    selected = predicted("qwen-0")
    selected.attributes[NPU_STATE] = state

    record = track(bench, result(selected))

    assert record.selected_route is not None
    assert record.selected_route.leader.npu is None
    assert set(missing(record).values()) == {"npu_missing"}


@pytest.mark.parametrize(
    ("status", "value", "reasons"),
    [
        ("fresh", 70.5, {}),
        ("fresh", None, {"hbmUtilization": "npu_missing"}),
        ("partial", 70.5, {}),
        ("partial", None, {"hbmUtilization": "npu_partial"}),
        ("partial", -1, {"hbmUtilization": "npu_invalid_value"}),
        (
            "stale",
            70.5,
            dict.fromkeys(("hbmUtilization", "aiCoreUtilization", "bandwidthUtilization"),
                          "npu_stale"),
        ),
        (
            "missing",
            70.5,
            dict.fromkeys(("hbmUtilization", "aiCoreUtilization", "bandwidthUtilization"),
                          "npu_missing"),
        ),
        (None, 70.5, {}),
        (7, 70.5, {}),
        (b"fresh\xff", 70.5, {}),
    ],
)  # fmt: skip
def test_npu_status(bench: Bench, status: Any, value: Any, reasons: dict[str, str]) -> None:
    """Stale and missing states give no features, a partial state those it has."""
    selected = predicted("qwen-0")
    selected.attributes[NPU_STATE].data_status = status
    selected.attributes[NPU_STATE].hbm_utilization_avg = value

    record = track(bench, result(selected))

    assert missing(record) == reasons
    (given,) = record.prediction_inputs
    assert (given.hbm_utilization is None) == ("hbmUtilization" in reasons)


GOOD_DEVICE = NPUDevice("exporter:8082", "0", 57.0, 70.0, 38.0)


@pytest.mark.parametrize(
    ("devices", "expected"),
    [
        (None, ()),
        (7, ()),
        ("01", ()),
        ({"0": GOOD_DEVICE}, ()),
        ([None, 7, "x", SimpleNamespace(), Raising(), []], ()),
        ([None, GOOD_DEVICE, 7], (GOOD_DEVICE,)),
        ((GOOD_DEVICE,), (GOOD_DEVICE,)),
        (
            [SimpleNamespace(target=None, device_id=3, ai_core_utilization=-1)],
            (NPUDevice("", "3", None, None, None),),
        ),
        (
            [SimpleNamespace(target="\ud800", device_id="0", hbm_utilization=NAN)],
            (NPUDevice("\\ud800", "0", None, None, None),),
        ),
        ([GOOD_DEVICE] * 1000, (GOOD_DEVICE,) * 256),
    ],
    ids=[
        "null",
        "number",
        "text",
        "mapping",
        "nothing known",
        "one good",
        "tuple",
        "number as id",
        "surrogate",
        "too many",
    ],
)
def test_devices(bench: Bench, devices: Any, expected: tuple[NPUDevice, ...]) -> None:
    """Only devices with any known value are kept, up to a limit."""
    selected = predicted("qwen-0")
    selected.attributes[NPU_STATE].devices = devices

    record = track(bench, result(selected))

    assert record.selected_route is not None
    assert record.selected_route.leader.npu is not None
    assert record.selected_route.leader.npu.devices == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"lora-a": 2, "lora-b": 0}, {"lora-a": 2, "lora-b": 0}),
        ({"lora-a": -1, "lora-b": NAN, "lora-c": True, "lora-d": 1}, {"lora-d": 1}),
        ({7: 1, "\ud800": 1, b"\xff": 1}, {"7": 1, "\\ud800": 1, "\\xff": 1}),
        (["lora-a"], {}),
        ("lora-a", {}),
        (None, {}),
        ({f"lora-{number}": 1 for number in range(1000)},
         {f"lora-{number}": 1 for number in range(256)}),
    ],
    ids=["good", "bad counts", "bad names", "list", "text", "null", "too many"],
)  # fmt: skip
def test_models(bench: Bench, given: Any, expected: dict[str, int]) -> None:
    """Only active models with a name and a count are kept, up to a limit."""
    selected = predicted("qwen-0")
    selected.metrics.active_models = given

    record = track(bench, result(selected))

    assert record.selected_route is not None
    assert record.selected_route.leader.metrics is not None
    assert record.selected_route.leader.metrics.active_models == expected


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        (datetime(2026, 11, 24, 12), datetime(2026, 11, 24, 12, tzinfo=timezone.utc)),
        (
            datetime(2026, 11, 24, 12, tzinfo=timezone(timedelta(hours=8))),
            datetime(2026, 11, 24, 4, tzinfo=timezone.utc),
        ),
        (datetime(1970, 1, 1), datetime(1970, 1, 1, tzinfo=timezone.utc)),
        (datetime(1969, 12, 31, tzinfo=timezone.utc), None),
        (datetime(1, 1, 1), None),
        (datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=8))), None),
        (datetime.max.replace(tzinfo=timezone(timedelta(hours=-8))), None),
        (datetime(2500, 1, 1), datetime(2500, 1, 1, tzinfo=timezone.utc)),
        ("2026-11-24T12:00:00Z", None),
        (1764000000.0, None),
        (None, None),
    ],
    ids=[
        "naive",
        "other zone",
        "epoch",
        "before the epoch",
        "Go's zero time",
        "ancient",
        "beyond the last",
        "future",
        "text",
        "number",
        "null",
    ],
)
def test_moments(bench: Bench, moment: Any, expected: datetime | None) -> None:
    """Times are kept in UTC; a naive time is taken as UTC, one before the epoch is unknown."""
    selected = predicted("qwen-0")
    selected.metrics.update_time = moment
    selected.attributes[NPU_STATE].observation_time = moment

    record = track(bench, result(selected))

    assert record.selected_route is not None
    leader = record.selected_route.leader
    assert leader.metrics is not None
    assert leader.npu is not None
    assert (leader.metrics.update_time, leader.npu.observation_time) == (expected, expected)


@pytest.mark.parametrize(
    ("model", "expected", "ignored"),
    [
        ("Qwen/Qwen3-8B", "Qwen/Qwen3-8B", 0),
        ("通义千问", "通义千问", 0),
        ("", "", 0),
        (None, "", 0),
        ("\ud800", "\\ud800", 1),
        (b"Qwen\xff", "Qwen\\xff", 1),
        ("x" * 1_000_000, "x" * 512, 1),
        ("é" * 1_000_000, "é" * 512, 1),
        (7, "7", 1),
        (10**400, "", 1),
        (NAN, "", 1),
        (["Qwen"], "", 1),
        (object(), "", 1),
    ],
    ids=[
        "good",
        "other script",
        "empty",
        "null",
        "lone surrogate",
        "bytes",
        "long",
        "long and not ASCII",
        "number",
        "gigantic number",
        "not a number",
        "list",
        "object",
    ],
)
def test_model_names(bench: Bench, model: Any, expected: str, ignored: int) -> None:
    """A model name is recorded as valid, bounded text; changed names are counted."""
    request = SimpleNamespace(**vars(Request(target_model=model)), model="asked for")

    record = track(bench, result(predicted("qwen-0")), request)

    assert record.model == expected
    (span,) = bench.spans
    assert span["attributes"].get("gen_ai.request.model", "") == expected
    assert bench.tracker.store.ignored == ({"invalid_value": ignored} if ignored else {})


def test_long_request_id(bench: Bench) -> None:
    """A request id of 1 MB distinguishes requests, and is recorded up to a limit."""
    first, second = Request("x" * 1_000_000 + "a"), Request("x" * 1_000_000 + "b")
    for request in (first, second):
        bench.tracker.pre_request(request, result(predicted("qwen-0")))
    assert bench.tracker.load(identity("qwen-0")) == Load(1024, 2)
    for request in (first, second):
        stream(bench.tracker, request)

    assert [record["requestId"] for record in checked_records(bench)] == ["x" * 512] * 2
    assert_spans_valid(bench)
    assert bench.tracker.store.ignored == {"invalid_value": 2}


def test_surrogate_in_the_request_id(bench: Bench) -> None:
    """A request id that is invalid text is recorded as valid text."""
    record = track(bench, result(predicted("qwen-0")), Request("request-\udcff"))

    assert record.request_id == "request-\\udcff"
    assert bench.tracker.store.ignored == {"invalid_value": 1}


@pytest.mark.parametrize("request_id", [7, b"request-1", ["request-1"], True, object()], ids=type)
def test_request_ids_of_other_types(bench: Bench, request_id: Any) -> None:
    """A request whose id is not text is ignored by every hook, and counted."""
    request = Request(request_id)
    headers: dict[str, str] = {}
    bench.tracker.pre_request(request, result(predicted("qwen-0")))
    bench.tracker.reroute_request(request, result(predicted("qwen-1")))
    bench.tracker.inject(request, headers)
    bench.tracker.response_body(request, last())
    bench.tracker.reject(request, "no_candidates")

    assert (bench.records, headers, bench.tracker.store.loads()) == ([], {}, {})
    assert bench.tracker.store.ignored == {"no_request_id": 3}


@pytest.mark.parametrize(
    ("who", "endpoint_id"),
    [
        (SimpleNamespace(pod_name="\ud800"), "pod:///\\ud800"),
        (SimpleNamespace(pod_name="x" * 1_000_000), "pod:///" + "x" * 505),
        (SimpleNamespace(pod_name=b"qwen-0\xff"), "pod:///qwen-0\\xff"),
        (SimpleNamespace(pod_name=["qwen-0"], address=None, port=object()), ""),
        (SimpleNamespace(address="10.0.0.7", port=NAN), ""),
        (SimpleNamespace(address="10.0.0.7", port=True), ""),
        (Raising(), ""),
        (7, ""),
    ],
    ids=["surrogate", "long", "bytes", "other types", "NaN", "boolean", "raising", "number"],
)
def test_endpoints(bench: Bench, who: Any, endpoint_id: str) -> None:
    """An endpoint is recorded, and shown by gauges, as valid and bounded text."""
    request = Request()
    bench.tracker.pre_request(request, result(ScheduledEndpoint(who)))
    gauge = bench.telemetry.metrics()["llm_router.inflight.requests"]
    stream(bench.tracker, request)

    assert gauge == {frozenset({("llm_router.endpoint.id", endpoint_id)}): 1}
    (record,) = checked_records(bench)
    assert record["selectedEndpoint"] == endpoint_id
    assert_spans_valid(bench)


def test_properties_that_raise(bench: Bench) -> None:
    """A property that raises is unknown, and nothing else is lost."""

    class RaisingRequest(Raising):
        request_id = "request-1"

    class RaisingEndpoint(Raising):
        metadata = metadata("qwen-0")

        def get(self, key: str) -> Any:
            raise KeyError(key)

    class RaisingResult(Raising):
        primary_profile_name = "default"
        profile_results = {"default": ProfileRunResult([RaisingEndpoint()])}  # noqa: RUF012

    class RaisingChunk(Raising):
        end_of_stream = True

    request: Any = RaisingRequest()
    bench.tracker.pre_request(request, RaisingResult())  # type: ignore[arg-type]
    assert bench.tracker.load(identity("qwen-0")) == Load(tokens=0, requests=1)
    bench.tracker.response_body(request, RaisingChunk(), Raising())  # type: ignore[arg-type]

    (record,) = checked_records(bench)
    assert (record["outcome"], record["selectedEndpoint"], record["trackedEndpoints"]) == (
        "completed",
        "pod://llm/qwen-0",
        ["pod://llm/qwen-0"],
    )
    assert bench.tracker.load(identity("qwen-0")) == Load()
    # Length, model and operation of the request, candidates and policy of the result.
    assert bench.tracker.store.ignored == {"invalid_value": 5}


@pytest.mark.parametrize(
    ("metrics", "npu"),
    [(7, 7), ("metrics", "npu"), (Raising(), Raising()), ([], {}), (SimpleNamespace(), None)],
    ids=["numbers", "texts", "raising", "containers", "empty"],
)
def test_no_metrics_at_all(bench: Bench, metrics: Any, npu: Any) -> None:
    """Metrics of another type are ignored, and every feature has a reason."""
    selected = endpoint("qwen-0", prefix_cache=prefix_match(), npu=npu)
    selected.metrics = metrics

    record = track(bench, result(selected))

    assert record.selected_route is not None
    assert record.selected_route.leader.metrics is None
    reasons = missing(record)
    assert set(reasons) == {
        "numRequestWaiting",
        "numRequestRunning",
        "kvCacheUsage",
        "hbmUtilization",
        "aiCoreUtilization",
        "bandwidthUtilization",
    }
    given = record.prediction_inputs[0]
    assert (given.num_request_waiting, given.kv_cache_usage, given.hbm_utilization) == (
        None,
        None,
        None,
    )


@pytest.mark.parametrize(
    "dispatched", [7, "route", Raising(), route(7, 7, 7), route("", [], {})], ids=type
)
def test_dispatched_routes(bench: Bench, dispatched: Any) -> None:
    """If a dispatched route names no endpoint, the selected endpoint carries the load."""
    record = track(bench, result(predicted("qwen-0"), primary_route=dispatched))

    assert record.tracked_endpoints == ["pod://llm/qwen-0"]


@pytest.mark.parametrize(
    "group", [7, "group", Raising(), SimpleNamespace(selected_prefill_pod=7)], ids=type
)
def test_groups(bench: Bench, group: Any) -> None:
    """A PD group of another type is ignored."""
    selected = predicted("qwen-0")
    selected.attributes[PD_GROUP] = group

    record = track(bench, result(selected))

    assert record.tracked_endpoints == ["pod://llm/qwen-0"]


def test_group_of_nobody(bench: Bench) -> None:
    """A PD group with endpoints of another type is ignored: the selected endpoint counts."""
    selected = pd_leader()
    group = selected.attributes[PD_GROUP]
    group.selected_prefill_pod.endpoint = 7
    group.selected_decode_pod.endpoint = Raising()

    record = track(bench, result(selected))

    assert record.tracked_endpoints == ["pod://llm/leader-0"]


@pytest.mark.parametrize("usage_", [7, "usage", [], Raising(), {"completion_tokens": 3}], ids=type)
@pytest.mark.parametrize("cause", [None, 7, [], "x" * 1_000_000, "\ud800", Raising()], ids=type)
def test_last_chunks(bench: Bench, usage_: Any, cause: Any) -> None:
    """Whatever the last chunk contains, the request ends and gives back its load."""
    request, target = Request(), cast("Any", Raising())
    bench.tracker.pre_request(request, result(predicted("qwen-0")))
    bench.tracker.response_body(
        request, last(usage=usage_, termination_cause=cause, error="\ud800" * 1000), target
    )

    (record,) = checked_records(bench)
    assert (record["outputLength"], record["cachedTokens"]) == (None, None)
    assert record["outcome"] in ("completed", "error")
    assert_spans_valid(bench)
    assert bench.tracker.store.active_requests == 0
    assert bench.tracker.load(identity("qwen-0")) == Load()


@pytest.mark.parametrize("response", [7, "chunk", SimpleNamespace(), Raising()], ids=type)
def test_chunks(bench: Bench, response: Any) -> None:
    """A chunk that does not say whether it is the last is counted, and the request continues."""
    request = Request()
    bench.tracker.pre_request(request, result(predicted("qwen-0")))
    bench.tracker.response_body(request, response)
    assert bench.tracker.store.ignored == {"hook_error": 1}
    stream(bench.tracker, request)

    assert [record["outcome"] for record in checked_records(bench)] == ["completed"]


def test_hook_errors_are_logged_once(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """A hook that fails each time is counted each time, and logged once."""
    bench.tracker.pre_request(Request(), result(predicted("qwen-0")))
    for _ in range(3):
        bench.tracker.response_body(Request(), SimpleNamespace())  # type: ignore[arg-type]

    assert bench.tracker.store.ignored == {"hook_error": 3}
    assert caplog.messages == ["response_body failed; requests go on without telemetry"]
    assert caplog.records[0].name.startswith("otel_lifecycle.")


def test_ignored_values_are_a_metric(bench: Bench) -> None:
    """Ignored values are counted by reason."""
    bench.tracker.pre_request(None, None)
    track(bench, result(predicted("qwen-0")), Request(target_model=7))

    assert bench.telemetry.metrics()["llm_router.ignored"] == {
        frozenset({("llm_router.ignored.reason", "no_request_id")}): 1,
        frozenset({("llm_router.ignored.reason", "invalid_value")}): 1,
    }


class Node(SimpleNamespace):
    """A namespace whose attributes can also be read as keys."""

    def get(self, key: str) -> Any:
        return self.__dict__.get(key)


FIELDS = [
    "metadata", "metrics", "namespaced_name", "namespace", "name", "pod_name", "address", "port",
    "labels", "selected_prefill_pod", "selected_decode_pod", "endpoint", "ttft", "tpot",
    "match_blocks", "total_blocks", "devices", "data_status", "device_count", "target",
    "device_id", "hbm_utilization_avg", "ai_core_utilization", "update_time",
    "active_models", "running_requests_size", "kv_cache_usage_percent", "leader", "prefill",
    "decode", "token_ids", "stream", "completion_tokens", "prompt_tokens", "prompt_token_details",
    "cached_tokens", "target_endpoints", LATENCY_PREDICTION, PREFIX_CACHE, NPU_STATE, PD_GROUP,
]  # fmt: skip
texts = st.text(st.characters(exclude_categories=()), max_size=8)
leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | texts
    | st.binary(max_size=8)
    | st.datetimes()
    | st.datetimes(timezones=st.just(timezone(timedelta(hours=8))))
    | st.sampled_from([10**400, 2**63, -(2**63), "x" * 2000, Raising(), Raising, object()])
)
trees = st.recursive(
    leaves,
    lambda children: (
        st.lists(children, max_size=3)
        | st.dictionaries(texts | st.integers(), children, max_size=3)
        | st.dictionaries(st.sampled_from(FIELDS), children, max_size=6).map(
            lambda fields: Node(**fields)
        )
    ),
    max_leaves=12,
)


def mostly(good: Any) -> st.SearchStrategy[Any]:
    """The valid value, or any tree."""
    return st.just(good) | trees


endpoints = st.builds(
    ScheduledEndpoint,
    metadata=mostly(metadata("qwen-0")).filter(lambda who: who is not None),
    metrics=st.builds(
        Metrics,
        active_models=trees,
        waiting_models=trees,
        max_active_models=leaves,
        running_requests_size=leaves,
        kv_cache_usage_percent=leaves,
        cache_block_size=leaves,
        update_time=leaves,
    )
    | trees,
    attributes=st.fixed_dictionaries(
        {},
        optional={
            LATENCY_PREDICTION: st.builds(prediction, ttft=leaves, tpot=leaves) | trees,
            PREFIX_CACHE: st.builds(prefix_match, leaves, leaves) | trees,
            NPU_STATE: st.builds(partial(npu_state, "qwen-0")) | trees,
        },
    ),
)
leaders = st.tuples(endpoints, st.none() | st.tuples(endpoints | trees, endpoints | trees) | trees)
requests = st.builds(
    Request,
    request_id=st.sampled_from(["request-1", "\udcff", "x" * 2000]),
    target_model=leaves,
    tokenized_prompt=trees | st.builds(SimpleNamespace, token_ids=trees),
    body=trees | st.builds(SimpleNamespace, stream=leaves),
    operation=leaves,
) | st.builds(
    Node,
    request_id=st.just("request-1"),
    prompt_tokens=leaves,
    prompt_tokens_estimate=leaves,
    request_size_bytes=leaves,
    attempt=leaves,
)


def lead(parts: tuple[ScheduledEndpoint, Any]) -> ScheduledEndpoint:
    """An endpoint with a PD group, or another object in its place."""
    selected, group = parts
    if isinstance(group, tuple):
        prefill, decode = group
        group = Node(
            selected_prefill_pod=Node(endpoint=prefill), selected_decode_pod=Node(endpoint=decode)
        )
    selected.attributes[PD_GROUP] = group
    return selected


results = st.builds(
    lambda selected, **changes: SchedulingResult(
        {"default": ProfileRunResult([selected])}, **changes
    ),
    leaders.map(lead),
    primary_route=trees | st.builds(route, trees, trees, trees),
    candidates=trees,
    policy=leaves,
)


@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
    ],
)
@given(
    request_=requests,
    scheduling_result=results,
    rerouted=st.none() | results,
    chunk=st.none() | st.builds(Chunk, end_of_stream=st.just(False), usage=trees),
    end=st.builds(
        partial(last),
        usage=trees | st.builds(Usage, leaves, leaves, trees),
        termination_cause=trees,
        error=trees,
    ),
    served=trees,
    event_type=leaves,
)
def test_any_objects(
    bench: Bench,
    request_: Any,
    scheduling_result: Any,
    rerouted: Any,
    chunk: Any,
    end: Any,
    served: Any,
    event_type: Any,
) -> None:
    """A request with an id and an endpoint has one valid record and span, whatever else it has."""
    tracker = bench.tracker
    assert tracker.flush(timeout=30)
    offset = bench.path.stat().st_size if bench.path.exists() else 0
    first_span = len(bench.telemetry.spans)

    tracker.pre_request(request_, scheduling_result)
    assert tracker.store.active_requests == 1
    if rerouted is not None:
        tracker.reroute_request(request_, rerouted, "connect_error")
    tracker.extract_endpoint(SimpleNamespace(type=event_type, endpoint=served))  # type: ignore[arg-type]
    tracker.response_body(request_, chunk)
    tracker.response_body(request_, end, served)

    assert tracker.store.active_requests == 0
    assert set(tracker.store.loads().values()) <= {Load()}
    assert len(checked_records(bench, offset)) == 1
    assert len(bench.telemetry.spans) == first_span + 1
    assert_spans_valid(bench, first_span)
    assert "hook_error" not in tracker.store.ignored


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(request_=trees, scheduling_result=trees, response=trees, served=trees, headers=leaves)
def test_any_objects_in_any_place(
    bench: Bench,
    request_: Any,
    scheduling_result: Any,
    response: Any,
    served: Any,
    headers: Any,
) -> None:
    """No hook raises, whatever its arguments, and nothing is tracked."""
    tracker = bench.tracker
    tracker.pre_request(request_, scheduling_result, headers)
    tracker.reroute_request(request_, scheduling_result, headers)
    tracker.inject(request_, headers)
    tracker.response_body(request_, response, served)
    tracker.reject(request_, response, headers)
    tracker.extract_endpoint(response)

    assert tracker.store.active_requests == 0
    assert bench.records == []
