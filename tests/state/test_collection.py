"""Scraped state reaches span, record and gauges, and disappears with its source."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from otel_lifecycle import (
    Candidate,
    ConfigError,
    Endpoint,
    EndpointEvent,
    EndpointEventType,
    EndpointMetrics,
    NPUState,
    RequestLifecycleTracker,
    RequestStart,
    Route,
    RouteEndpoint,
    TrackerConfig,
)
from otel_lifecycle.config.collection import CollectionConfig
from otel_lifecycle.model.decision import Decision
from otel_lifecycle.model.features import PredictionInput
from tests.conftest import Bench
from tests.matchers import MEASURED
from tests.state.conftest import LaterClock, endpoint_of, reasons, request
from tests.state.servers import Site, engine_exposition, npu_exporter, npu_exposition
from tests.waiting import PATIENCE_SECONDS, eventually

_METRICS_FEATURES = ("numRequestWaiting", "numRequestRunning", "kvCacheUsage")
_NPU_FEATURES = ("hbmUtilization", "aiCoreUtilization", "bandwidthUtilization")


def has_state(bench: Bench, endpoint: Endpoint) -> Callable[[], bool]:
    """Return whether a request has both metrics and NPU state."""
    return lambda: reasons(request(bench, endpoint)) == {}


def test_span_record_and_gauges_agree(collecting: Callable[..., Bench], site: Site) -> None:
    """State of engine and exporter is on the span, in the record and in the gauges."""
    site.answers = {"/metrics": engine_exposition(3, 1, 0.25), "/npu": npu_exporter(60)}
    bench = collecting(targets=f"npu_exporter={site.url}/npu")
    endpoint = endpoint_of(site)
    eventually(has_state(bench, endpoint))

    record = bench.records[-1]
    attributes = bench.spans[-1]["attributes"]
    metrics = bench.telemetry.metrics()
    assert record.prediction_inputs == [
        PredictionInput("", 8, 0.0, 1, 3, 0.25, 0, 71.0, 60.0, 40.0, "127.0.0.1", 0)
    ]
    role = "llm_router.route.leader"
    assert {
        name.removeprefix(role): value
        for name, value in attributes.items()
        if name.startswith((f"{role}.npu", f"{role}.request", f"{role}.kv", f"{role}.metrics"))
    } == {
        ".request.running": 3,
        ".request.waiting": 1,
        ".kv_cache.utilization": 0.25,
        ".metrics.age": MEASURED,
        ".npu.status": "fresh",
        ".npu.count": 1,
        ".npu.age": MEASURED,
        ".npu.core.utilization.avg": 0.6,
        ".npu.core.utilization.max": 0.6,
        ".npu.memory.utilization.avg": 0.71,
        ".npu.memory.utilization.max": 0.71,
        ".npu.memory_bandwidth.utilization.avg": 0.4,
        ".npu.memory_bandwidth.utilization.max": 0.4,
    }
    engine = frozenset({("llm_router.endpoint.id", "pod://llm/qwen-0")})
    device = engine | {
        ("llm_router.npu.device.id", "0"),
        ("llm_router.npu.device.target", f"127.0.0.1:{site.port}"),
    }
    assert {
        name: metrics[name]
        for name in metrics
        if name.startswith(("llm_router.endpoint", "llm_router.npu", "hw."))
    } == {
        "llm_router.endpoint.request.running": {engine: 3},
        "llm_router.endpoint.request.waiting": {engine: 1},
        "llm_router.endpoint.kv_cache.utilization": {engine: 0.25},
        "llm_router.npu.core.utilization": {device: 0.6},
        "llm_router.npu.memory.utilization": {device: 0.71},
        "llm_router.npu.memory_bandwidth.utilization": {device: 0.4},
    }
    assert metrics["llm_router.collection.targets"] == {
        frozenset(
            {("llm_router.collection.source", source), ("llm_router.collection.state", "up")}
        ): 1
        for source in ("engine", "npu_exporter")
    }


def test_candidates(collecting: Callable[..., Bench], site: Site, make_site: Any) -> None:
    """Every candidate has the collected state of its engine, whichever was chosen."""
    other = make_site()
    site.answers = {"/metrics": engine_exposition(3, 1, 0.25)}
    other.answers = {"/metrics": engine_exposition(2, 5, 0.75)}
    bench = collecting()
    endpoints = [endpoint_of(site), endpoint_of(other, "qwen-1")]
    for endpoint in endpoints:
        eventually(lambda one=endpoint: reasons(request(bench, one)).keys() <= set(_NPU_FEATURES))
    candidates = [Candidate(endpoint, score) for score, endpoint in enumerate(endpoints)]
    start = RequestStart("request", Route(RouteEndpoint(endpoints[0])), candidates=candidates)
    with bench.tracker.track(start) as tracked:
        tracked.complete()

    decision = bench.records[-1].decision
    assert isinstance(decision, Decision)
    assert [(one.id, one.waiting, one.kv_cache_usage) for one in decision.picks[0].candidates] == [
        ("pod://llm/qwen-1", 5, 0.75),
        ("pod://llm/qwen-0", 1, 0.25),
    ]


def test_models_of_one_port(collecting: Callable[..., Bench], site: Site) -> None:
    """A request has the metrics of the model that it names, else the sum of the models."""
    series = [
        f'nv_trt_llm_request_metrics{{model="{model}",request_type="{kind}",version="1"}} {value}\n'
        for model, values in (("a", (2, 1)), ("b", (3, 4)))
        for kind, value in zip(("scheduled", "waiting"), values, strict=True)
    ] + [
        'nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="fraction",'
        f'model="{model}"}} {usage}\n'
        for model, usage in (("a", 0.5), ("b", 0.25))
    ]
    site.answers = {"/metrics": "".join(series).encode()}
    bench = collecting()
    endpoint = endpoint_of(site)
    eventually(lambda: "numRequestRunning" not in reasons(request(bench, endpoint)))

    def seen(model: str) -> tuple[int | None, int | None, float | None]:
        start = RequestStart("request-1", Route(RouteEndpoint(endpoint)), model=model)
        bench.tracker.track(start).complete()
        assert bench.tracker.flush()
        one = bench.records[-1].prediction_inputs[0]
        return one.num_request_running, one.num_request_waiting, one.kv_cache_usage

    for _ in range(2):
        assert seen("a") == (2, 1, 0.5)
        assert seen("b") == (3, 4, 0.25)
        assert seen("an-adapter-of-b") == (5, 5, None)
        assert seen("") == (5, 5, None)

    site.answers["/metrics"] = series[0].encode()
    eventually(lambda: seen("b") == (2, None, None))


def test_exporter_stops_and_comes_back(
    collecting: Callable[..., Bench],
    site: Site,
    later: LaterClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Without its exporter NPU state is stale, then missing; each change is logged once."""
    caplog.set_level("INFO", "otel_lifecycle.state")
    exporter = npu_exporter(now=later.time)
    site.answers = {"/metrics": engine_exposition(), "/npu": exporter}
    bench = collecting(clock=later, forget_after="1h", targets=f"npu_exporter={site.url}/npu")
    endpoint = endpoint_of(site)
    eventually(has_state(bench, endpoint))
    gauges = bench.telemetry.metrics()
    where = f"npu_exporter {site.url}/npu"
    seen = []

    def becomes(reason: str | None) -> Callable[[], bool]:
        expected = {} if reason is None else dict.fromkeys(_NPU_FEATURES, reason)
        return lambda: reasons(request(bench, endpoint)) == expected

    del site.answers["/npu"]
    eventually(lambda: f"{where}: http_404 (was up)" in caplog.messages)
    for reason, minutes in (("npu_stale", 20), ("npu_missing", 60)):
        later.put_forward(minutes)
        eventually(becomes(reason))
        npu = bench.records[-1].selected_route.leader.npu  # type: ignore[union-attr]
        seen.append((reason, None if npu is None else npu.data_status))
        assert "llm_router.npu.core.utilization" not in bench.telemetry.metrics()
    site.answers["/npu"] = exporter
    eventually(becomes(None))

    assert "llm_router.npu.core.utilization" in gauges
    assert seen == [("npu_stale", "stale"), ("npu_missing", None)]
    assert [message for message in caplog.messages if "npu_exporter" in message] == [
        f"{where}: up (was new)",
        f"{where}: http_404 (was up)",
        f"{where}: up (was http_404)",
    ]


def test_engine_stops(
    collecting: Callable[..., Bench],
    site: Site,
    later: LaterClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """If the engine stops answering, its metrics are stale, then missing."""
    site.answers = {"/metrics": engine_exposition(), "/npu": npu_exporter(now=later.time)}
    bench = collecting(clock=later, forget_after="1h", targets=f"npu_exporter={site.url}/npu")
    endpoint = endpoint_of(site)
    eventually(has_state(bench, endpoint))
    del site.answers["/metrics"]
    eventually(lambda: f"engine {site.url}/metrics: http_404 (was up)" in caplog.messages)

    for reason, minutes in (("metrics_stale", 20), ("metrics_missing", 60)):
        later.put_forward(minutes)
        expected = dict.fromkeys(_METRICS_FEATURES, reason)
        eventually(
            lambda expected=expected: expected.items() <= reasons(request(bench, endpoint)).items()
        )
        assert "llm_router.endpoint.request.running" not in bench.telemetry.metrics()


def test_router_keeps_its_own(collecting: Callable[..., Bench], site: Site) -> None:
    """The router's own values are recorded unchanged; only missing ones are filled in."""
    site.answers = {"/metrics": engine_exposition(3), "/npu": npu_exporter(60)}
    bench = collecting(targets=f"npu_exporter={site.url}/npu")
    endpoint = endpoint_of(site)
    eventually(has_state(bench, endpoint))
    own = EndpointMetrics(running_requests=9)

    with_metrics = request(bench, RouteEndpoint(endpoint, own)).selected_route
    with_npu = request(bench, RouteEndpoint(endpoint, npu=NPUState(device_count=2))).selected_route

    assert with_metrics is not None
    assert with_npu is not None
    assert (
        with_metrics.leader.metrics,
        with_metrics.leader.npu and with_metrics.leader.npu.data_status,
    ) == (own, "fresh")
    assert (
        with_npu.leader.metrics and with_npu.leader.metrics.running_requests,
        with_npu.leader.npu,
    ) == (3, NPUState(device_count=2))


def test_endpoint_leaves(collecting: Callable[..., Bench], site: Site) -> None:
    """A deleted endpoint is no longer scraped, and disappears from the gauges."""
    site.answers = {"/metrics": engine_exposition()}
    bench = collecting()
    endpoint = endpoint_of(site)
    event = EndpointEvent(EndpointEventType.ADD_OR_UPDATE, endpoint)
    bench.tracker.extract_endpoint(event)
    running = "llm_router.endpoint.request.running"
    eventually(lambda: running in bench.telemetry.metrics())

    bench.tracker.extract_endpoint(EndpointEvent(EndpointEventType.DELETE, endpoint))
    eventually(lambda: "llm_router.collection.targets" not in bench.telemetry.metrics())
    assert running not in bench.telemetry.metrics()

    asked = site.asked["/metrics"]
    time.sleep(0.3)  # six times the interval
    assert site.asked["/metrics"] <= asked + 1  # one may have been on its way


def test_endpoint_comes_back(collecting: Callable[..., Bench], site: Site) -> None:
    """An endpoint that leaves and comes back, at once or elsewhere, is scraped again."""
    site.answers = {"/metrics": engine_exposition()}
    bench = collecting()
    endpoint = endpoint_of(site)
    elsewhere = Endpoint("llm", "qwen-1", "127.0.0.1", "1", "rank")
    running = "llm_router.endpoint.request.running"
    for event, known in [
        (EndpointEventType.ADD_OR_UPDATE, endpoint),
        (EndpointEventType.DELETE, endpoint),
        (EndpointEventType.ADD_OR_UPDATE, endpoint),
        (EndpointEventType.ADD_OR_UPDATE, elsewhere),
        (EndpointEventType.ADD_OR_UPDATE, msgspec.structs.replace(elsewhere, port=str(site.port))),
    ]:
        bench.tracker.extract_endpoint(EndpointEvent(event, known))
        if event is EndpointEventType.ADD_OR_UPDATE and known is endpoint:
            eventually(lambda: running in bench.telemetry.metrics())

    eventually(lambda: len(bench.telemetry.metrics()[running]) == 2)


@pytest.mark.parametrize("ahead", [3600, -3600])
def test_exporter_with_another_clock(
    collecting: Callable[..., Bench], site: Site, ahead: int
) -> None:
    """Values from the past or the future are stale."""
    site.answers["/npu"] = npu_exposition(at=time.time() + ahead)
    bench = collecting(targets=f"npu_exporter={site.url}/npu", endpoints=False)
    endpoint = endpoint_of(site)
    stale = dict.fromkeys(_NPU_FEATURES, "npu_stale")

    eventually(lambda: stale.items() <= reasons(request(bench, endpoint)).items())


def test_gpus_have_the_names_of_opentelemetry(collecting: Callable[..., Bench], site: Site) -> None:
    """GPU gauges have the conventions' names; the record has GPUs like NPUs."""
    labels = 'gpu="1",UUID="GPU-1",Hostname="node-1",namespace="llm",pod="qwen-0"'
    site.answers["/gpu"] = (
        f"DCGM_FI_DEV_GPU_UTIL{{{labels}}} 50\n"
        f"DCGM_FI_DEV_FB_USED{{{labels}}} 30\n"
        f"DCGM_FI_DEV_FB_FREE{{{labels}}} 10\n"
    ).encode()
    bench = collecting(targets=f"dcgm={site.url}/gpu", endpoints=False)
    endpoint = endpoint_of(site)
    eventually(lambda: reasons(request(bench, endpoint)).get("aiCoreUtilization") is None)

    metrics = bench.telemetry.metrics()
    point = frozenset(
        {
            ("llm_router.endpoint.id", "pod://llm/qwen-0"),
            ("hw.id", "1"),
            ("hw.type", "gpu"),
            ("llm_router.npu.device.target", f"127.0.0.1:{site.port}"),
        }
    )
    assert {
        name: metrics[name] for name in metrics if name.startswith(("hw.", "llm_router.npu"))
    } == {
        "hw.gpu.utilization": {point: 0.5},
        "hw.gpu.memory.utilization": {point: 0.75},
    }
    assert bench.records[-1].prediction_inputs[0].ai_core_utilization == 50.0


def test_trackers_of_a_store_share_one_collector(
    collecting: Callable[..., Bench], site: Site
) -> None:
    """Trackers of one store scrape once; conflicting settings are refused."""
    bench = collecting()
    config = bench.tracker.config
    store = config.store_name
    with_same = RequestLifecycleTracker(
        TrackerConfig(store_name=store, collection=config.collection)
    )

    assert with_same.store.collector is bench.tracker.store.collector
    other = CollectionConfig(enabled=True, interval=timedelta(seconds=2))
    with pytest.raises(
        ConfigError, match=r"^collection of store .* is already set to enabled=True"
    ):
        RequestLifecycleTracker(TrackerConfig(store_name=store, collection=other))
    with_same.close()


def test_extra_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra, enabling collection is an error that says what to install."""
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    state = importlib.import_module("otel_lifecycle.state")
    for name in [name for name in sys.modules if name.startswith("otel_lifecycle.state")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr("otel_lifecycle.state", state)  # the import below replaces it here, too

    with pytest.raises(ConfigError, match=r"pip install 'otel-lifecycle\[collect\]'$"):
        RequestLifecycleTracker(
            TrackerConfig(store_name="no-extra", collection=CollectionConfig(enabled=True))
        )


def test_bad_certificate_file(tmp_path: Path) -> None:
    """A certificate that cannot be read is an invalid setting."""
    collection = CollectionConfig(enabled=True, ca_file=str(tmp_path / "none.pem"))
    with pytest.raises(ConfigError, match=r"^collection: .*none\.pem: cannot be read"):
        RequestLifecycleTracker(TrackerConfig(store_name="bad-ca", collection=collection))


def rewrite(path: Path, text: str) -> None:
    """Replace a file atomically, so that no reader finds it empty."""
    part = path.with_suffix(".part")
    part.write_text(text)
    part.replace(path)


def test_targets_file(
    collecting: Callable[..., Bench],
    site: Site,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A targets file is read again when it changes; an invalid file is logged once."""
    site.answers = {"/a": engine_exposition(), "/b": engine_exposition()}
    path = tmp_path / "targets.json"
    bench = collecting(targets_file=str(path), endpoints=False)
    collector: Any = bench.tracker.store.collector

    def asked(name: str) -> Callable[[], bool]:
        before = site.asked[name]
        return lambda: site.asked[name] > before + 1

    eventually(lambda: len(caplog.messages) == 1)  # it is not there yet
    rewrite(path, f'[{{"url": "{site.url}/a"}}]')
    eventually(asked("/a"))
    rewrite(path, '[{"url": "http://"}]')
    eventually(lambda: len(caplog.messages) == 2)
    eventually(asked("/a"))
    rewrite(path, f'[{{"url": "{site.url}/b"}}, {{"url": "{site.url}/b"}}]')
    eventually(asked("/b"))

    eventually(lambda: collector.targets() == {("engine", "up"): 1})
    assert caplog.messages[1] == (
        f"targets file {path}: invalid parameters: 0.url must be a URL such as "
        "http://10.0.0.7:8000/metrics, got 'http://'; keeping the previous targets"
    )


def test_targets_with_secrets(
    collecting: Callable[..., Bench], site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """A target's query is sent with each scrape, but never logged, shown or recorded."""
    caplog.set_level("DEBUG", "otel_lifecycle")
    site.answers = {"/metrics": engine_exposition(), "/npu": npu_exporter()}
    bench = collecting(targets=f"npu_exporter={site.url}/npu?token=secret, {site.url}/no?secret#x")
    endpoint = endpoint_of(site)
    eventually(has_state(bench, endpoint))
    eventually(lambda: f"engine {site.url}/no?***: http_404 (was new)" in caplog.messages)

    assert f"npu_exporter {site.url}/npu?***: up (was new)" in caplog.messages
    assert "llm_router.npu.core.utilization" in bench.telemetry.metrics()
    everything = (caplog.text, bench.telemetry.metrics(), bench.records, bench.spans)
    assert "secret" not in repr(everything)


def test_targets_file_that_is_a_pipe(
    collecting: Callable[..., Bench], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A pipe as targets file is refused without waiting."""
    path = tmp_path / "targets.json"
    os.mkfifo(path)
    collecting(targets_file=str(path), endpoints=False)
    eventually(lambda: bool(caplog.messages))

    assert caplog.messages == [
        f"targets file {path}: cannot be read: {path} is not a regular file; "
        "keeping the previous targets"
    ]


def test_fork(collecting: Callable[..., Bench], site: Site) -> None:
    """A forked child collects for itself from its first request on."""
    site.answers = {"/metrics": engine_exposition(), "/npu": npu_exporter()}
    bench = collecting(targets=f"npu_exporter={site.url}/npu")
    endpoint = endpoint_of(site)
    eventually(has_state(bench, endpoint))
    fork = multiprocessing.get_context("fork")
    receiving, sending = fork.Pipe(duplex=False)

    def child() -> None:
        store = bench.tracker.store

        def targets() -> object:
            assert store.collector is not None
            return store.collector.targets()

        before = targets()
        request(bench, endpoint)
        eventually(lambda: targets() == {("engine", "up"): 1, ("npu_exporter", "up"): 1})
        sending.send(before)

    process = fork.Process(target=child)
    process.start()
    assert receiving.poll(PATIENCE_SECONDS)
    assert receiving.recv() == {}
    process.join()
    eventually(has_state(bench, endpoint))
