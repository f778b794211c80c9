"""The dashboard queries a real Prometheus for the example router's exports, and gets them."""

from __future__ import annotations

import json
import math
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider

from otel_lifecycle import (
    Candidate,
    LatencyPrediction,
    RequestLifecycleTracker,
    RequestStart,
    Route,
    RouteEndpoint,
    read_records,
)
from otel_lifecycle.instrumentation.hermes_router import HermesRouterInstrumentor
from tests.backends.exports import (
    Exports,
    KeepingExporter,
    Vector,
    bucket,
    count,
    over,
    total,
    value,
)
from tests.backends.programs import CONFIGURATIONS, HTTP, Backends, Prometheus
from tests.examples.cluster import Cluster
from tests.routes import aggregated, endpoint, start
from tests.waiting import eventually

pytestmark = pytest.mark.backends

GRAFANA = CONFIGURATIONS / "grafana"
DASHBOARD: dict[str, Any] = json.loads((GRAFANA / "dashboards/llm-routers.json").read_text("utf-8"))
PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]

ENDPOINT, DEVICE = "llm_router.endpoint.id", "llm_router.npu.device"
TARGET = "llm_router.prediction.target"
REQUESTS = "llm_router.requests"
TTFT, TPOT = "gen_ai.server.time_to_first_token", "gen_ai.server.time_per_output_token"
PREDICTED_TTFT = "llm_router.predicted.time_to_first_token"
PREDICTED_TPOT = "llm_router.predicted.time_per_output_token"
SLO, SLO_TARGET = "llm_router.slo.requests", "llm_router.slo.target"
QUEUE = "llm_router.queue.duration"
DECIDED_BY = ("llm_router.route.policy", "llm_router.decision.role")
DURATION, ERROR = "gen_ai.server.request.duration", "llm_router.prediction.error"
ALL: frozenset[tuple[str, str]] = frozenset()


@dataclass(frozen=True)
class Fed:
    """A Prometheus with its data."""

    prometheus: Prometheus
    exports: Exports
    trace_ids: set[str]

    def ask(self, expression: str) -> Vector:
        """Return a panel's result at the time of the second export, over both."""
        window = f"{math.ceil(self.exports.seconds * 1000) + 1}ms"
        for name, text in {
            "$__rate_interval": window,
            "$__range": window,
            "$router": ".*",
            "$endpoint": ".*",
        }.items():
            expression = expression.replace(name, text)
        answer = HTTP.get(
            f"{self.prometheus.url}/api/v1/query",
            params={
                "query": expression,
                "time": self.exports.after.unix_nanoseconds // 10**6 / 1e3,
            },
        ).json()
        assert answer["status"] == "success", answer
        return {
            frozenset(
                (name, text) for name, text in sample["metric"].items() if name != "__name__"
            ): float(sample["value"][1])
            for sample in answer["data"]["result"]
        }


class Traffic:
    """The example router in front of two engines, with every kind of request."""

    def __init__(self, cluster: Cluster, tracker: RequestLifecycleTracker, records: Path) -> None:
        self._cluster, self._tracker = cluster, tracker
        self._engines = ("engine-0", "engine-1")
        for name in self._engines:
            cluster.add_engine(name)
        self._url = cluster.start_router(training_records=records)

    def completed(self, number: int) -> None:
        """Send streams that complete."""
        for prompt in range(number):
            body = self._body(f"{prompt % 7} " * (40 + 97 * (prompt % 5)))
            assert HTTP.post(f"{self._url}/v1/completions", json=body).is_success

    def failed(self) -> None:
        """Send a request that no engine answers properly, and make an invalid call."""
        self._break("http_500")
        assert HTTP.post(f"{self._url}/v1/completions", json=self._body("no")).is_server_error
        self._break("none")
        self._tracker.track(start("", aggregated()))

    def decided(self) -> None:
        """Track requests whose router says when they arrived and what it weighed."""
        chosen, other = endpoint("qwen-0"), endpoint("qwen-1")
        for milliseconds in (5, 40):
            request = RequestStart(
                f"decided-{milliseconds}",
                Route(RouteEndpoint(chosen)),
                policy="prefix+load",
                candidates=[
                    Candidate(chosen, 1.5, prediction=LatencyPrediction(100.0 + milliseconds)),
                    Candidate(other, 0.5, prediction=LatencyPrediction(100.0)),
                ],
                received_at=datetime.now(timezone.utc) - timedelta(milliseconds=milliseconds),
            )
            self._tracker.track(request).complete()

    def predicting(self) -> bool:
        """Return whether the router predicts already."""
        self.completed(1)
        assert self._tracker.flush(timeout=30)
        return self._last_record().prediction.ttft_ms is not None

    def held(self) -> Callable[[], None]:
        """Start a request; calling the result makes its client leave."""
        self._break("hang")
        content = json.dumps(self._body("hold " * 300)).encode()
        host, _, port = self._url.removeprefix("http://").partition(":")
        client = socket.create_connection((host, int(port)))
        head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(content)}"
        client.sendall(head.encode() + b"\r\n\r\n" + content)
        eventually(lambda: self._tracker.store.active_requests == 1)

        def leave() -> None:
            client.close()
            eventually(lambda: self._tracker.store.active_requests == 0)
            self._break("none")

        return leave

    def _last_record(self) -> Any:
        (*_, last) = read_records(self._tracker.config.persistence.output_path)
        return last

    def _break(self, fault: str) -> None:
        for engine in self._engines:
            self._cluster.break_engine(engine, fault)

    @staticmethod
    def _body(prompt: str) -> dict[str, Any]:
        return {
            "model": "m",
            "prompt": prompt,
            "max_tokens": 12,
            "stream": True,
            "stream_options": {"include_usage": True},
        }


@pytest.fixture(scope="module")
def fed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fed]:
    """Fill a Prometheus, configured as shipped, with two exports of the example router."""
    folder = tmp_path_factory.mktemp("dashboard")
    backends = Backends(folder)
    prometheus = backends.prometheus(CONFIGURATIONS / "prometheus/prometheus.yaml")
    exporter = KeepingExporter(OTLPMetricExporter(prometheus.otlp_metrics))
    resource = Resource({"service.name": "router", "service.instance.id": "router-0"})
    meters = MeterProvider(
        [PeriodicExportingMetricReader(exporter, math.inf)], resource, shutdown_on_exit=False
    )
    spans = TracerProvider(resource=resource, shutdown_on_exit=False)
    records = folder / "records.jsonl"
    instrumentor, cluster = HermesRouterInstrumentor(), Cluster()
    instrumentor.instrument(
        tracer_provider=spans,
        meter_provider=meters,
        store_name=str(folder),
        persistence_output_path=str(records),
        stale_after="10m",
        slo=["ttft=1ms", "e2e=30s"],
    )
    try:
        tracker = instrumentor.tracker
        assert tracker is not None
        traffic = Traffic(cluster, tracker, records)
        traffic.completed(25)
        eventually(traffic.predicting, patience=60)
        for requests in (12, 30):
            traffic.completed(requests)
            traffic.failed()
            traffic.decided()
            leave = traffic.held()
            assert tracker.flush(timeout=30)
            assert meters.force_flush()
            leave()
        assert tracker.flush(timeout=30)
        trace_ids = {record.trace_id or "" for record in read_records(records)}
        yield Fed(prometheus, Exports(*exporter.kept), trace_ids)
    finally:
        cluster.stop()
        instrumentor.uninstrument()
        meters.shutdown()
        spans.shutdown()
        backends.stop()


def share(part: Vector, whole: Vector) -> Vector:
    """Divide one sum by another."""
    return {ALL: sum(part.values()) / sum(whole.values())}


def missed(exports: Exports, target: str, predicted: str) -> Vector:
    """Return the mean error of predictions, relative to the prediction."""
    return share(
        exports.increase(ERROR, read=total, where={TARGET: target}),
        exports.increase(predicted, read=total),
    )


def bias(exports: Exports) -> Vector:
    """Return the mean of measured minus predicted."""
    signed: Vector = {}
    for direction, sign in (("too_low", 1), ("too_high", -1)):
        where = {"llm_router.prediction.direction": direction}
        sums = exports.increase(ERROR, ENDPOINT, TARGET, read=total, where=where)
        for key, amount in sums.items():
            signed[key] = signed.get(key, 0.0) + sign * amount
    counts = exports.increase(ERROR, ENDPOINT, TARGET, read=count)
    return {key: signed[key] / number for key, number in counts.items() if number}


def devices(exports: Exports, name: str) -> Vector:
    """Return the heat map of each device."""
    by = (ENDPOINT, f"{DEVICE}.id", f"{DEVICE}.target")
    return exports.after.gauge(f"llm_router.npu.{name}.utilization", *by, combine=max)


def within_a_second(exports: Exports) -> Vector:
    """Return the share of first chunks within a second."""
    bounds: Any = exports.after.points[TTFT][0]
    fast = range(bounds.explicit_bounds.index(1.0) + 1)
    return share(
        exports.increase(TTFT, read=lambda point: sum(bucket(point, index) for index in fast)),
        exports.increase(TTFT, read=count),
    )


def goodput(exports: Exports) -> Vector:
    """Return the share of requests that met each target."""
    met = exports.increase(SLO, SLO_TARGET, read=value, where={"llm_router.slo.met": "True"})
    whole = exports.increase(SLO, SLO_TARGET, read=value)
    return {key: met.get(key, 0.0) / number for key, number in whole.items() if number}


def engines(exports: Exports, name: str) -> Vector:
    """Return the engines' own metrics."""
    return exports.after.gauge(f"llm_router.endpoint.{name}", ENDPOINT, combine=max)


def error_types(exports: Exports) -> Vector:
    """Return errors per second, by type."""
    increase = exports.increase(DURATION, "error.type", read=count)
    return over({key: amount for key, amount in increase.items() if key}, exports.seconds)


# The expected result of each query, by the panel's title.
EXPECTED: dict[str, list[Callable[[Exports], Vector]]] = {
    "Requests": [lambda e: e.rate(REQUESTS)],
    "In flight": [lambda e: e.after.gauge("llm_router.inflight.requests")],
    "Failed": [
        lambda e: share(
            e.rate(REQUESTS, where={"llm_router.outcome": "error|rejected"}),
            e.rate(REQUESTS),
        )
    ],
    "First chunk within 1 s": [within_a_second],
    "Predictions miss by": [
        lambda e: missed(e, "ttft", PREDICTED_TTFT),
        lambda e: missed(e, "tpot", PREDICTED_TPOT),
    ],
    "Records lost": [lambda e: e.increase("llm_router.records.dropped", read=value)],
    "Requests in flight": [lambda e: e.after.gauge("llm_router.inflight.requests", ENDPOINT)],
    "Input tokens in flight": [lambda e: e.after.gauge("llm_router.inflight.tokens", ENDPOINT)],
    "Engine queues": [
        lambda e: engines(e, "request.running"),
        lambda e: engines(e, "request.waiting"),
    ],
    "KV cache in use": [lambda e: engines(e, "kv_cache.utilization")],
    "Time to first token": [
        lambda e: e.quantile(0.5, TTFT),
        lambda e: e.quantile(0.95, TTFT),
        lambda e: e.quantile(0.5, PREDICTED_TTFT),
        lambda e: e.quantile(0.95, PREDICTED_TTFT),
    ],
    "Time per output token": [
        lambda e: e.quantile(0.5, TPOT),
        lambda e: e.quantile(0.95, TPOT),
        lambda e: e.quantile(0.5, PREDICTED_TPOT),
        lambda e: e.quantile(0.95, PREDICTED_TPOT),
    ],
    "Distance of prediction and measurement": [lambda e: e.mean(ERROR, ENDPOINT, TARGET)],
    "Bias of predictions": [bias],
    "Goodput": [goodput],
    "Time in the queue": [
        lambda e: e.quantile(0.5, QUEUE),
        lambda e: e.quantile(0.95, QUEUE),
        lambda e: e.quantile(0.99, QUEUE),
    ],
    "Margin of decisions": [lambda e: e.mean("llm_router.decision.margin", *DECIDED_BY)],
    "Regret of decisions": [lambda e: e.mean("llm_router.decision.regret", *DECIDED_BY)],
    "Duration": [
        lambda e: e.quantile(0.5, DURATION),
        lambda e: e.quantile(0.95, DURATION),
        lambda e: e.quantile(0.99, DURATION),
    ],
    "Outcomes": [lambda e: e.rate(REQUESTS, "llm_router.outcome")],
    "Errors": [error_types],
    "Core": [lambda e: devices(e, "core")],
    "Memory": [lambda e: devices(e, "memory")],
    "Memory bandwidth": [lambda e: devices(e, "memory_bandwidth")],
    "Records written and lost": [
        lambda e: e.rate("llm_router.records.written"),
        lambda e: e.rate("llm_router.records.dropped"),
    ],
    "Records waiting": [
        lambda e: {
            frozenset({("job", "router"), ("instance", "router-0")}): sum(
                e.after.gauge("llm_router.records.queue").values()
            )
        }
    ],
    "Ignored calls and values": [
        lambda e: e.rate("llm_router.ignored", "llm_router.ignored.reason")
    ],
}


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_panel(panel: dict[str, Any], fed: Fed) -> None:
    """Each query of each panel returns the values that the router exported."""
    answers = [fed.ask(target["expr"]) for target in panel["targets"]]
    expected = [expect(fed.exports) for expect in EXPECTED[panel["title"]]]

    assert all(answers)
    assert [pytest.approx(vector, rel=1e-2, abs=1e-9) for vector in expected] == answers


def test_something_of_everything(fed: Fed) -> None:
    """The values compared with the panels are not all equal or 0."""
    exports = fed.exports

    assert sum(exports.after.gauge("llm_router.inflight.requests").values()) == 1
    assert {"completed", "error"} == {
        dict(key)["llm_router_outcome"] for key in EXPECTED["Outcomes"][0](exports)
    }
    assert len(devices(exports, "core")) == 4
    assert all(devices(exports, "memory").values())
    assert sorted(value > 0 for value in goodput(exports).values()) == [False, True]
    decided = frozenset(
        {("llm_router_route_policy", "prefix+load"), ("llm_router_decision_role", "leader")}
    )
    assert exports.mean("llm_router.decision.margin", *DECIDED_BY)[decided] == 1.0
    assert exports.mean("llm_router.decision.regret", *DECIDED_BY)[decided] == pytest.approx(0.0225)


def test_exemplars(fed: Fed) -> None:
    """A point on a latency panel leads to the trace of a real request."""
    asked = [
        target["expr"] for panel in PANELS for target in panel["targets"] if target.get("exemplar")
    ]
    moment = fed.exports.after.unix_nanoseconds / 1e9
    for expression in asked:
        expression = expression.replace("$router", ".*").replace("$__rate_interval", "1m")
        answer = HTTP.get(
            f"{fed.prometheus.url}/api/v1/query_exemplars",
            params={"query": expression, "start": moment - 600, "end": moment + 60},
        ).json()
        found = {
            exemplar["labels"]["trace_id"]
            for series in answer["data"]
            for exemplar in series["exemplars"]
        }
        assert found
        assert found <= fed.trace_ids
    assert len(asked) == 3


def test_rules_evaluate(fed: Fed) -> None:
    """Recording rules and alerts are loaded, and none fails on a router's exports."""

    def rules() -> list[dict[str, Any]]:
        groups = HTTP.get(f"{fed.prometheus.url}/api/v1/rules").json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    eventually(lambda: all(rule["health"] != "unknown" for rule in rules()), patience=60)
    assert {rule["health"] for rule in rules()} == {"ok"}
    assert len(rules()) == 29


def test_every_panel_is_expected() -> None:
    """The expected panels are exactly those of the dashboard."""
    assert sorted(EXPECTED) == sorted(panel["title"] for panel in PANELS)


def test_ids() -> None:
    """Ids and titles of panels are unique, and the letters of a panel's queries."""
    ids = [panel["id"] for panel in DASHBOARD["panels"]]

    assert len(ids) == len(set(ids))
    for panel in PANELS:
        letters = [target["refId"] for target in panel["targets"]]
        assert len(letters) == len(set(letters))


def test_data_sources_exist() -> None:
    """Every data source is provisioned, including those of exemplars."""
    provisioned = yaml.safe_load((GRAFANA / "datasources/datasources.yaml").read_text("utf-8"))
    sources = {source["uid"]: source for source in provisioned["datasources"]}

    def uids(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            for key, item in value.items():
                if key == "datasource":
                    yield item["uid"]
                elif key == "datasourceUid":
                    yield item
                else:
                    yield from uids(item)
        elif isinstance(value, list):
            for item in value:
                yield from uids(item)

    assert {*uids(DASHBOARD), *uids(provisioned)} == set(sources) == {"prometheus", "jaeger"}


def test_panels_do_not_overlap() -> None:
    """Panels lie side by side on the grid of 24 columns."""
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]

    assert [place for place in places if place["x"] + place["w"] > 24] == []
    assert [
        (one, other)
        for one, other in combinations(places, 2)
        if one["x"] < other["x"] + other["w"]
        and other["x"] < one["x"] + one["w"]
        and one["y"] < other["y"] + other["h"]
        and other["y"] < one["y"] + one["h"]
    ] == []


def test_variables() -> None:
    """Every variable in a query is one of the dashboard, or Grafana's own."""
    names = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    text = json.dumps(PANELS)
    for name in (*names, "__rate_interval", "__range"):
        text = text.replace(f"${name}", "")

    assert "$" not in text
