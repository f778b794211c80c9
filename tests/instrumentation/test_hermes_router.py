"""The example router with instrumentation, on real sockets, in front of real faults."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hermes_router.datastore import Datastore
from hermes_router.director import Director
from hermes_router.model import ScheduledEndpoint, SchedulingResult
from hermes_router.scheduler import Scheduler
from msgspec import UNSET
from opentelemetry.trace import SpanKind

from otel_lifecycle import LifecycleRecord, Outcome, read_records
from otel_lifecycle.instrumentation.hermes_router import HermesRouterInstrumentor
from otel_lifecycle.testing import InMemoryTelemetry
from tests.examples.cluster import HTTP, Cluster
from tests.instrumentation.settling import settled_records
from tests.matchers import SAMPLED
from tests.waiting import PATIENCE_SECONDS, eventually

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Instrumented:
    """The router's telemetry, and a cluster that produces it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.cluster = Cluster()
        self.telemetry = InMemoryTelemetry()
        self.instrumentor = HermesRouterInstrumentor()
        self.instrumentor.instrument(
            tracer_provider=self.telemetry.tracer_provider,
            meter_provider=self.telemetry.meter_provider,
            store_name=str(path),
            persistence_output_path=str(path),
        )

    def post(self, *, headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
        """Send one request through the router."""
        assert self.cluster.router is not None
        body = {"model": "m", "prompt": "hello " * 20, "max_tokens": 8, **fields}
        url = f"{self.cluster.router.url}/v1/completions"
        return httpx.post(url, json=body, headers=headers, timeout=PATIENCE_SECONDS)

    def records(self, count: int = 1) -> list[LifecycleRecord]:
        """Return the records, when they exist."""
        return settled_records(self.instrumentor.tracker, self.telemetry, self.path, count)

    def record(self) -> LifecycleRecord:
        """Return the only record."""
        (record,) = self.records()
        return record

    def traceparents(self, engine: str) -> list[str]:
        """The trace contexts sent to an engine."""
        url = f"{self.cluster.engines[engine].url}/debug/traceparents"
        return [seen["traceparent"] for seen in HTTP.get(url).json()["traceparents"]]

    def stop(self) -> None:
        """Stop everything."""
        self.cluster.stop()
        self.instrumentor.uninstrument()
        self.telemetry.shutdown()


@pytest.fixture
def router(tmp_path: Path) -> Iterator[Instrumented]:
    """The instrumented example router, with an empty cluster."""
    instrumented = Instrumented(tmp_path / "records.jsonl")
    yield instrumented
    instrumented.stop()


def test_aggregated_stream(router: Instrumented) -> None:
    """A stream's route, usage and first chunk are known, and the engine continues our trace."""
    router.cluster.add_engine("qwen-0")
    router.cluster.start_router()
    response = router.post(
        headers={"traceparent": TRACEPARENT, "x-request-id": "request-1"},
        stream=True,
        stream_options={"include_usage": True},
    )

    record = router.record()
    (span,) = router.telemetry.spans
    assert response.status_code == 200
    assert (record.request_id, record.outcome, record.streaming) == (
        "request-1",
        Outcome.COMPLETED,
        True,
    )
    assert record.selected_route is not None
    assert record.selected_route.leader.id == "pod://demo/qwen-0"
    assert (record.output_length, record.cached_tokens) == (8, 0)
    assert record.actual.ttft_ms is not None
    assert record.actual.tpot_ms is not None
    assert (record.trace_id, record.parent_span_id) == (TRACEPARENT[3:35], TRACEPARENT[36:52])
    assert span.kind is SpanKind.SERVER
    assert router.traceparents("qwen-0") == [f"00-{record.trace_id}-{record.span_id}-01"]


def test_prefill_decode_stream(router: Instrumented) -> None:
    """A PD route counts prefill and decode, and both continue our trace."""
    for name in ("leader", "prefill", "decode"):
        router.cluster.add_engine(name, role=name)
    router.cluster.start_router(mode="pd")
    router.post(stream=True, stream_options={"include_usage": True})

    record = router.record()
    context = f"00-{record.trace_id}-{record.span_id}-{SAMPLED:02x}"
    assert record.outcome is Outcome.COMPLETED
    assert record.selected_endpoint == "pod://demo/leader"
    assert record.tracked_endpoints == ["pod://demo/prefill", "pod://demo/decode"]
    assert not record.route_mismatch
    engines = ("leader", "prefill", "decode")
    assert [router.traceparents(name) for name in engines] == [[context]] * 3


def test_not_streaming(router: Instrumented) -> None:
    """A response that is not a stream has no TTFT."""
    router.cluster.add_engine("qwen-0")
    router.cluster.start_router()
    router.post()

    record = router.record()
    assert (record.outcome, record.streaming, record.output_length) == (
        Outcome.COMPLETED,
        False,
        8,
    )
    assert (record.first_chunk_at, record.actual.ttft_ms) == (None, None)


def test_retry(router: Instrumented) -> None:
    """A retry on another endpoint stays one span and one record, with an event."""
    router.cluster.add_engine("qwen-0").die()
    router.cluster.add_engine("qwen-1")
    router.cluster.start_router()
    names = {"qwen-0", "qwen-1"}
    for number in range(1, 21):
        assert router.post().status_code == 200
        router.records(number)
    records = router.records(20)

    retried = [record for record in records if record.rerouted]
    assert len(records) == 20
    assert {record.selected_endpoint for record in records} == {"pod://demo/qwen-1"}
    assert retried
    assert {
        (change.from_endpoint, change.to_endpoint, change.reason, record.attempt)
        for record in retried
        for change in record.rerouted
    } == {("pod://demo/qwen-0", "pod://demo/qwen-1", "connect_error", 2)}
    assert names == set(router.cluster.engines)


def numbers(targets: list[ScheduledEndpoint]) -> list[tuple[str, float, dict[str, float]]]:
    """What the scheduler found of its candidates, best first."""
    return [
        (f"pod://demo/{one.metadata.namespaced_name.name}", one.score, dict(one.scores))
        for one in targets
    ]


def test_decisions(router: Instrumented, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record has the scheduler's own numbers, of each attempt and each role."""
    results: list[SchedulingResult] = []
    schedule = Scheduler.schedule

    def spy(*args: Any, **kwargs: Any) -> SchedulingResult | None:
        result = schedule(*args, **kwargs)
        if result is not None:
            results.append(result)
        return result

    monkeypatch.setattr(Scheduler, "schedule", spy)
    roles = {"l-0": "leader", "l-1": "leader", "p-0": "prefill", "p-1": "prefill", "d": "decode"}
    for name, role in roles.items():
        router.cluster.add_engine(name, role=role)
    router.cluster.engines["l-0"].die()
    router.cluster.start_router(mode="pd")
    for number in range(1, 21):
        router.post()
        router.records(number)
    records = router.records(20)

    decisions = [
        decision
        for record in records
        for decision in (record.decision, *(change.decision for change in record.rerouted))
    ]
    assert len(decisions) == len(results) > len(records)
    for decision, result in zip(decisions, results, strict=True):
        assert decision is not UNSET
        assert {
            pick.role: [(one.id, one.score, one.scores) for one in pick.candidates]
            for pick in decision.picks
        } == {
            role.replace("default", "leader"): numbers(profile.target_endpoints)
            for role, profile in result.profile_results.items()
        }
        assert [pick.chosen_rank for pick in decision.picks] == [1, 1, 1]


@pytest.mark.parametrize(
    ("fault", "error"),
    [("http_500", "http_500"), ("truncate", "stream_truncated")],
)
def test_faults(router: Instrumented, fault: str, error: str) -> None:
    """An engine that fails gives an error with its own type."""
    router.cluster.add_engine("qwen-0")
    router.cluster.start_router(max_attempts=1)
    router.cluster.break_engine("qwen-0", fault)
    router.post(stream=True)

    record = router.record()
    assert record.error is not None
    assert (record.outcome, record.error.type) == (Outcome.ERROR, error)


def test_connection_cut_in_mid_stream(router: Instrumented) -> None:
    """An engine that dies during a stream is an error after the first chunk."""
    router.cluster.add_engine("qwen-0")
    router.cluster.start_router()
    router.cluster.break_engine("qwen-0", "drop_mid_stream")
    with pytest.raises(httpx.RemoteProtocolError):
        router.post(stream=True)

    record = router.record()
    assert record.outcome is Outcome.ERROR
    assert record.actual.ttft_ms is not None


def test_client_disconnect(router: Instrumented) -> None:
    """A client that leaves during a stream is a disconnect."""
    router.cluster.add_engine("qwen-0", time_scale=1.0)
    url = f"{router.cluster.start_router()}/v1/completions"
    body = {"model": "m", "prompt": "hello", "max_tokens": 4000, "stream": True}
    with httpx.stream("POST", url, json=body, timeout=PATIENCE_SECONDS) as response:
        next(response.iter_raw())

    record = router.record()
    assert (record.outcome, record.error) == (Outcome.CLIENT_DISCONNECT, None)
    assert record.actual.ttft_ms is not None


def test_nowhere_to_go(router: Instrumented) -> None:
    """A request without an endpoint is rejected, and its span is an error."""
    router.cluster.start_router()
    response = router.post()

    record = router.record()
    (span,) = router.telemetry.spans_as_dicts()
    assert response.status_code == 503
    assert (record.outcome, record.selected_route) == (Outcome.REJECTED, None)
    assert record.error is not None
    assert (span["status"], span["attributes"]["error.type"]) == ("ERROR", record.error.type)


def test_endpoint_events(router: Instrumented) -> None:
    """Endpoints that join appear in the gauges, and those that leave disappear."""
    router.cluster.add_engine("qwen-0")
    url = router.cluster.start_router()

    def seen() -> set[object]:
        points = router.telemetry.metrics().get("llm_router.inflight.requests", {})
        return {dict(attributes)["llm_router.endpoint.id"] for attributes in points}

    assert seen() == {"pod://demo/qwen-0"}
    router.cluster.add_engine("qwen-1")
    description = router.cluster.describe("qwen-1")
    assert HTTP.post(f"{url}/admin/endpoints", json=description).is_success
    assert seen() == {"pod://demo/qwen-0", "pod://demo/qwen-1"}
    assert HTTP.delete(f"{url}/admin/endpoints/demo/qwen-0").is_success
    assert seen() == {"pod://demo/qwen-1"}


def test_uninstrumented(tmp_path: Path) -> None:
    """Uninstrumenting restores the router's own methods."""
    before = (Director.pre_request, Director.response_body, Director.reject, Datastore.apply)
    instrumented = Instrumented(tmp_path / "records.jsonl")
    during = Director.pre_request
    instrumented.stop()

    assert during is not before[0]
    assert (
        Director.pre_request,
        Director.response_body,
        Director.reject,
        Datastore.apply,
    ) == before


def test_same_answers(tmp_path: Path) -> None:
    """The router answers the same bytes with and without instrumentation."""

    def answers() -> list[tuple[int, bytes]]:
        cluster = Cluster()
        cluster.add_engine("qwen-0", seed=7)
        url = f"{cluster.start_router()}/v1/completions"
        body = {"model": "m", "prompt": "hello " * 20, "max_tokens": 8}
        variants = [{}, {"stream": True}, {"prompt": 5}, {"max_tokens": -1}]
        found = []
        for variant in variants:
            headers = {"x-request-id": "request-1"}
            response = httpx.post(
                url, json={**body, **variant}, headers=headers, timeout=PATIENCE_SECONDS
            )
            content = response.content.replace(str(_created(response.content)).encode(), b"")
            found.append((response.status_code, content))
        cluster.stop()
        return found

    plain = answers()
    instrumented = Instrumented(tmp_path / "records.jsonl")
    observed = answers()
    instrumented.stop()

    assert observed == plain


def _created(content: bytes) -> str:
    """Return the second in which an answer was made, the only difference between runs."""
    _, _, rest = content.partition(b'"created": ')
    if not rest:
        _, _, rest = content.partition(b'"created":')
    return rest.partition(b",")[0].decode()


def test_npu_exporter_dies(router: Instrumented, monkeypatch: pytest.MonkeyPatch) -> None:
    """NPU features are missing with a reason while the exporter is down, and return with it."""
    router.cluster.add_engine("qwen-0", npus=2)
    router.cluster.start_router(scrape_interval=0.05)
    forget_after = "hermes_router.scraper.FORGET_AFTER_INTERVALS"
    never, at_once = 1_000_000, 0
    monkeypatch.setattr(forget_after, never)  # a slow machine might never see a stale state
    posted = 0

    def records() -> list[LifecycleRecord]:
        tracker = router.instrumentor.tracker
        assert tracker is not None
        assert tracker.flush(timeout=30)
        return list(read_records(router.path))

    def reasons() -> set[str]:
        nonlocal posted
        router.post()
        posted += 1
        eventually(lambda: len(records()) == posted)  # a client has its answer before the end
        record = records()[-1]
        (features,) = record.prediction_inputs
        values = (
            features.ai_core_utilization,
            features.hbm_utilization,
            features.bandwidth_utilization,
        )
        found = {
            missing.reason.value
            for missing in record.missing_feature_reasons
            if missing.feature.endswith("Utilization")
        }
        assert [value is None for value in values] == [bool(found)] * 3
        gauges = router.telemetry.metrics()
        assert bool(gauges.get("llm_router.npu.core.utilization")) == (not found)
        return found

    eventually(lambda: reasons() == set())
    router.cluster.break_engine("qwen-0", "npu_exporter_down")
    eventually(lambda: reasons() == {"npu_stale"})
    monkeypatch.setattr(forget_after, at_once)
    eventually(lambda: reasons() == {"npu_missing"})
    monkeypatch.setattr(forget_after, never)
    router.cluster.break_engine("qwen-0", "none")
    eventually(lambda: reasons() == set())
