"""The production stack's router, on a double with its modules and signatures."""

from __future__ import annotations

import importlib
import inspect
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from opentelemetry import propagate, trace
from opentelemetry.trace import SpanKind

from otel_lifecycle.instrumentation.production_stack import ProductionStackInstrumentor
from tests.examples.cluster import Server
from tests.examples.programmed_engine import EVENT, Engine
from tests.instrumentation.exchanges import (
    ANY_ID,
    disconnected,
    endpoint,
    failed,
    legs,
    metrics,
    paired,
    pick,
    picks,
    plain,
    streamed,
    whole_answer,
)
from tests.instrumentation.instrumented_process import closed_port
from tests.instrumentation.test_generic import Observed, endpoint_id, unobserved
from tests.matchers import MEASURED, TIMESTAMP
from tests.tracking.expected import latency
from tests.waiting import eventually

DOUBLE = Path(__file__).parent / "doubles" / "production_stack"
ASKED = {"stream": True, "stream_options": {"include_usage": True}}
ID = {"x-request-id": "request-1"}


@pytest.fixture(scope="module")
def stack() -> Iterator[Any]:
    """The modules of the double, under the real names."""
    sys.path.insert(0, str(DOUBLE))
    names = {
        "logic": "vllm_router.routers.routing_logic",
        "hashtrie": "vllm_router.prefix.hashtrie",
        "discovery": "vllm_router.service_discovery",
        "engine_stats": "vllm_router.stats.engine_stats",
        "request": "vllm_router.services.request_service.request",
        "app": "vllm_router.app",
    }
    yield SimpleNamespace(**{key: importlib.import_module(name) for key, name in names.items()})
    sys.path.remove(str(DOUBLE))
    for name in [name for name in sys.modules if name.split(".")[0] == "vllm_router"]:
        del sys.modules[name]


class Stack(Observed):
    """The router with engines and both instrumentations."""

    def __init__(self, path: Path, modules: Any) -> None:
        super().__init__(path)
        self.modules = modules
        self.infos: list[Any] = []
        self.engine_stats: dict[str, Any] = {}
        self.adapter = ProductionStackInstrumentor()
        self.adapter.instrument(
            tracer_provider=self.telemetry.tracer_provider,
            meter_provider=self.telemetry.meter_provider,
            store_name=str(path),
            persistence_output_path=str(path),
        )

    def add(self, url: str, label: str = "", stats: Any = None, **known: Any) -> None:
        """Add an endpoint to the router's service discovery."""
        self.infos.append(
            self.modules.discovery.EndpointInfo(
                url, ["m"], f"id-{len(self.infos)}", 0.0, label, False, **known
            )
        )
        if stats is not None:
            self.engine_stats[url] = self.modules.engine_stats.EngineStats(**stats)

    def start(self, router: Any, tracer: Any = None) -> Server:
        """Serves."""
        self.serve(self.modules.app.create_app(router, self.infos, self.engine_stats, tracer))
        assert self.cluster.router is not None
        return self.cluster.router

    def stop(self) -> None:
        """Stops everything."""
        super().stop()
        self.adapter.uninstrument()


@pytest.fixture
def router(tmp_path: Path, stack: Any) -> Iterator[Stack]:
    """The instrumented router, without engines."""
    observed = Stack(tmp_path / "records.jsonl", stack)
    yield observed
    observed.stop()


def test_round_robin(router: Stack) -> None:
    """Policy, candidates and the chosen engine's state are known; the load is our count."""
    stats = {"num_running_requests": 3.0, "num_queuing_requests": 1.0, "gpu_cache_usage_perc": 0.25}
    engine = router.add_engine("engine")
    router.add(engine.url, stats=stats)
    dead = closed_port()
    router.add(dead, stats={"num_running_requests": 99})
    router.start(router.modules.logic.RoundRobinRouter())
    response = router.post(headers=ID, **ASKED)

    assert response.headers["x-request-id"] == "request-1"
    record = router.record()
    assert plain(record) == streamed(
        endpoint(engine.url, metrics=metrics(3, 1, 0.25)), policy="RoundRobinRouter", candidates=2
    )
    assert picks(record) == [
        pick("leader", (engine.url, {"waiting": 1, "kvCacheUsage": 0.25}), (dead, {"waiting": 0}))
    ]


def test_not_streaming(router: Stack) -> None:
    """A complete answer of an engine that was never scraped; the id is the router's."""
    engine = router.add_engine("engine")
    router.add(engine.url)
    router.start(router.modules.logic.RoundRobinRouter())
    response = router.post()

    assert plain(router.record()) == streamed(
        engine.url,
        **whole_answer(),
        requestId=response.headers["x-request-id"],
        policy="RoundRobinRouter",
        candidates=1,
    )


def test_pods(router: Stack) -> None:
    """If the router knows pods, the endpoint is a pod."""
    engine = router.add_engine("engine")
    router.add(engine.url, pod_name="qwen-0", namespace="llm")
    router.start(router.modules.logic.RoundRobinRouter())
    router.post(headers=ID, **ASKED)

    assert plain(router.record()) == streamed(
        endpoint(engine.url, id="pod://llm/qwen-0"), policy="RoundRobinRouter", candidates=1
    )


def test_kv_usage_of_zero(router: Stack) -> None:
    """A KV usage of 0 means that the router cannot read it: it is unknown."""
    engine = router.add_engine("engine")
    router.add(engine.url, stats={"num_running_requests": 2.0})
    router.start(router.modules.logic.RoundRobinRouter())
    router.post(headers=ID, **ASKED)

    assert plain(router.record()) == streamed(
        endpoint(engine.url, metrics=metrics(2, 0, None)), policy="RoundRobinRouter", candidates=1
    )


def test_session(router: Stack) -> None:
    """Asynchronous policies are observed after they have decided."""
    engine = router.add_engine("engine")
    router.add(engine.url)
    router.start(router.modules.logic.SessionRouter("x-session-id"))
    router.post(headers={**ID, "x-session-id": "s"}, **ASKED)

    assert plain(router.record()) == streamed(engine.url, policy="SessionRouter", candidates=1)


def test_prefix_match(router: Stack) -> None:
    """A prompt that fills its last chunk only in part has a score of at most 1."""
    engine = router.add_engine("engine")
    router.add(engine.url)
    router.start(router.modules.logic.PrefixAwareRouter())
    prompt = "x" * 480  # 512 characters, in whole chunks
    for _ in range(2):
        router.post(prompt=prompt, **ASKED)
        eventually(lambda: router.instrumentor.tracker.store.active_requests == 0)  # type: ignore[union-attr]

    known = {
        "policy": "PrefixAwareRouter",
        "candidates": 1,
        "inputTokenLength": 120,
        "requestId": ANY_ID,
    }
    records = router.records(2)
    assert [record.decision.reason for record in records] == ["fallback", "prefix_match"]  # type: ignore[union-attr]
    first, second = map(plain, records)
    assert first == streamed(engine.url, **known, prefixCacheScore=0.0)
    assert second == streamed(engine.url, **known, prefixCacheScore=1.0)


def test_prefix_match_below_the_threshold(router: Stack) -> None:
    """If another engine than the matching one is chosen, the score is unknown."""
    matching, chosen = router.add_engine("matching"), router.add_engine("chosen")
    router.add(matching.url)
    router.add(chosen.url)
    policy = router.modules.logic.PrefixAwareRouter(prefix_min_match_length=1024)
    policy.hashtrie._seen["hello " * 20] = {matching.url}
    router.start(policy)
    router.post(headers=ID, **ASKED)

    assert plain(router.record()) == streamed(chosen.url, policy="PrefixAwareRouter", candidates=2)


class KVManager:
    """Answers as LMCache's controller does."""

    def __init__(self, matched: int, instances: dict[str, str]) -> None:
        self.matched = matched
        self.instances = instances

    async def handle_orchestration_message(self, message: Any) -> Any:
        """Look up tokens, or an engine's instance id."""
        if hasattr(message, "tokens"):
            return SimpleNamespace(layout_info={"instance-0": ("LocalCPU", self.matched)})
        return SimpleNamespace(instance_id=self.instances[message.ip])


@pytest.mark.parametrize(("threshold", "score"), [(2000, 0.75), (0, None)])
def test_kv_aware(router: Stack, threshold: int, score: float | None) -> None:
    """The lookup gives token count and score, which is used if it decided."""
    other, holder = router.add_engine("other"), router.add_engine("holder")
    router.add(other.url)
    router.add(holder.url)
    manager = KVManager(90, {other.url: "instance-1", holder.url: "instance-0"})
    router.start(router.modules.logic.KvawareRouter(manager, kv_aware_threshold=threshold))
    router.post(headers=ID, **ASKED)

    record = router.record()
    assert record.decision.reason == ("prefix_match" if score else "fallback")  # type: ignore[union-attr]
    assert plain(record) == streamed(
        holder.url if score else other.url,
        policy="KvawareRouter",
        candidates=2,
        inputTokenLength=120,
        inputTokenSource="tokenized",
        prefixCacheScore=score,
    )


def test_failover(router: Stack) -> None:
    """A failover is one more attempt of the same request, with the new engine's state."""
    dead, engine = closed_port(), router.add_engine("engine")
    router.add(dead, stats={"num_running_requests": 7})
    router.add(engine.url, stats={"num_running_requests": 1, "gpu_cache_usage_perc": 0.5})
    policy = router.modules.logic.RoundRobinRouter()
    policy.max_instance_failover_reroute_attempts = 1
    router.start(policy)
    router.post(headers=ID, **ASKED)

    assert plain(router.record()) == streamed(
        endpoint(engine.url, metrics=metrics(1, 0, 0.5)),
        policy="RoundRobinRouter",
        candidates=1,
        **legs(("leader", dead, "error"), ("leader", engine.url, "completed")),
        attempt=2,
        rerouted=[
            {
                "at": TIMESTAMP,
                "from": dead.replace("http", "addr"),
                "to": endpoint_id(engine),
                "reason": "aiohttp.client_exceptions.ClientConnectorError",
            }
        ],
    )


def test_engine_error(router: Stack) -> None:
    """An engine's error is passed on by the router, and is not a first token."""
    engine = router.add_engine("engine")
    router.add(engine.url)
    router.start(router.modules.logic.RoundRobinRouter())
    router.cluster.break_engine("engine", "http_500")
    assert router.post(headers=ID, **ASKED).status_code == 500

    assert plain(router.record()) == streamed(
        engine.url, **failed("http_500"), policy="RoundRobinRouter", candidates=1
    )


def test_connection_cut_in_mid_stream(router: Stack) -> None:
    """After an engine dies the router's count is wrong, and ours is right."""
    engine, heard = Engine(), threading.Event()
    engine.headers = [(b"content-type", b"text/event-stream")]
    engine.pieces = [EVENT, heard, None]  # aiohttp drops what it has when a connection breaks
    url = router.cluster.add_app("engine", unobserved(engine)).url
    router.add(url)
    router.start(router.modules.logic.RoundRobinRouter())
    with pytest.raises(httpx.RemoteProtocolError):
        router.listen(heard, ID)

    assert plain(router.record()) == streamed(
        url,
        **failed("aiohttp.client_exceptions.ClientPayloadError", first_chunk=True),
        policy="RoundRobinRouter",
        candidates=1,
    )


def test_client_disconnect(router: Stack) -> None:
    """A client that leaves is a disconnect."""
    engine = router.add_engine("engine", time_scale=1.0)
    router.add(engine.url)
    url = router.start(router.modules.logic.RoundRobinRouter()).url
    body = {"model": "m", "prompt": "hello " * 20, "max_tokens": 4000, "stream": True}
    with router.client.stream("POST", f"{url}/v1/completions", json=body, headers=ID) as response:
        next(response.iter_raw())

    assert plain(router.record()) == streamed(
        engine.url,
        **disconnected(),
        policy="RoundRobinRouter",
        candidates=1,
    )


def test_unknown_model(router: Stack) -> None:
    """A request answered without an engine is rejected, without a route."""
    router.start(router.modules.logic.RoundRobinRouter())
    assert router.post(headers=ID).status_code == 404

    expected = streamed("http://nowhere:1", **whole_answer())
    assert plain(router.record()) == {
        **expected,
        "outcome": "rejected",
        "finishReason": None,
        "firstByteAt": None,
        "error": {"type": "http_404"},
        "actual": latency(MEASURED),
        "dispatchInflight": None,
        "selectedEndpoint": "",
        "servedEndpoint": None,
        "trackedEndpoints": [],
        "selectedRoute": None,
        "outputLength": None,
        "cachedTokens": None,
        "inputTokenSource": "estimated",
    }


def test_pinned(router: Stack) -> None:
    """If the client names the engine, there are no policy and candidates."""
    engine = router.add_engine("engine")
    router.add(engine.url)
    server = router.start(router.modules.logic.RoundRobinRouter())
    body = {"model": "m", "prompt": "hello " * 20, "max_tokens": 8, **ASKED}
    router.client.post(f"{server.url}/v1/completions?id=id-0", json=body, headers=ID)

    assert plain(router.record()) == streamed(engine.url)


@pytest.mark.parametrize("mode", ["fixed", "orchestrated"])
@pytest.mark.parametrize("stream", [True, False])
def test_prefill_decode(router: Stack, mode: str, stream: bool) -> None:
    """Both PD modes give one route with the state of both engines."""
    prefill, decode = router.add_engine("prefill"), router.add_engine("decode")
    router.add(prefill.url, "prefill", {"num_queuing_requests": 4})
    router.add(decode.url, "decode", {"num_running_requests": 5, "gpu_cache_usage_perc": 0.75})
    logic = router.modules.logic
    policies = {
        "fixed": (logic.DisaggregatedPrefillRouter(), None),
        "orchestrated": (
            logic.DisaggregatedPrefillOrchestratedRouter(["prefill"], ["decode"]),
            2,
        ),
    }
    policy, candidates = policies[mode]
    router.start(policy)
    router.post(headers=ID, **(ASKED if stream else {}))

    assert plain(router.record()) == paired(
        endpoint(prefill.url, metrics=metrics(0, 4, None)),
        endpoint(decode.url, metrics=metrics(5, 0, 0.75)),
        **({} if stream else whole_answer()),
        policy=type(policy).__name__,
        candidates=candidates,
    )


@pytest.mark.parametrize("mode", ["fixed", "orchestrated"])
def test_prefill_fails(router: Stack, mode: str) -> None:
    """If a prefill fails, the whole route is known already."""
    prefill, decode = router.add_engine("prefill"), router.add_engine("decode")
    router.add(prefill.url, "prefill")
    router.add(decode.url, "decode")
    logic = router.modules.logic
    policy = (
        logic.DisaggregatedPrefillRouter()
        if mode == "fixed"
        else logic.DisaggregatedPrefillOrchestratedRouter(["prefill"], ["decode"])
    )
    router.start(policy)
    router.cluster.break_engine("prefill", "http_500")
    assert router.post(headers=ID, **ASKED).status_code == 500

    assert plain(router.record()) == paired(
        prefill.url,
        decode.url,
        prefilled=False,
        legs=None,
        **failed("http_500"),
        policy=type(policy).__name__,
        candidates=None if mode == "fixed" else 2,
    )


def test_decode_fails(router: Stack) -> None:
    """A router that answers 200 before its engine has refused made an error."""
    prefill, decode = router.add_engine("prefill"), router.add_engine("decode")
    router.add(prefill.url, "prefill")
    router.add(decode.url, "decode")
    router.start(router.modules.logic.DisaggregatedPrefillRouter())
    router.cluster.break_engine("decode", "http_500")
    assert router.post(headers=ID, **ASKED).status_code == 200

    assert plain(router.record()) == paired(
        prefill.url,
        decode.url,
        **{**failed("http_500"), "firstByteAt": TIMESTAMP},
        **legs(("prefill", prefill.url, "completed"), ("decode", decode.url, "error")),
        policy="DisaggregatedPrefillRouter",
    )


class OwnTracing:
    """The router's `--otel-endpoint`: spans that are never current."""

    def __init__(self, telemetry: Any) -> None:
        self.tracer = telemetry.tracer_provider.get_tracer("vllm-router")
        self.spans: list[Any] = []

    def inject(self, headers: dict[str, str]) -> None:
        """Make one span per call, and put it into the headers."""
        span = self.tracer.start_span("process_request", kind=SpanKind.CLIENT)
        propagate.inject(headers, trace.set_span_in_context(span))
        span.end()
        self.spans.append(span)


def test_own_tracing(router: Stack) -> None:
    """Our span is between the router's own and the engine's, in one trace."""
    engine = router.add_engine("engine")
    router.add(engine.url)
    tracing = OwnTracing(router.telemetry)
    router.start(router.modules.logic.RoundRobinRouter(), tracing)
    router.post(headers=ID, **ASKED)

    record = router.record()
    (theirs,) = [span.get_span_context() for span in tracing.spans]
    seen = router.client.get(f"{engine.url}/debug/traceparents").json()["traceparents"]
    assert plain(record) == streamed(
        engine.url,
        policy="RoundRobinRouter",
        candidates=1,
        traceId=format(theirs.trace_id, "032x"),
        parentSpanId=format(theirs.span_id, "016x"),
        spanKind="internal",
    )
    assert [found["traceparent"] for found in seen] == [
        f"00-{record.trace_id}-{record.span_id}-{record.trace_flags:02x}"
    ]


def test_signatures(router: Stack) -> None:
    """Signatures are unchanged, and asynchronous functions stay so."""
    logic, hashtrie = router.modules.logic, router.modules.hashtrie
    assert not inspect.iscoroutinefunction(logic.RoundRobinRouter.route_request)
    assert inspect.iscoroutinefunction(logic.SessionRouter.route_request)
    assert inspect.iscoroutinefunction(hashtrie.HashTrie.longest_prefix_match)
    assert list(inspect.signature(logic.SessionRouter.route_request).parameters) == [
        "self",
        "endpoints",
        "engine_stats",
        "request_stats",
        "request",
        "request_json",
    ]


def test_uninstrumented(tmp_path: Path, stack: Any) -> None:
    """Uninstrumenting restores the router's functions; kept references pass through."""
    logic, request = stack.logic, stack.request

    def functions() -> list[Any]:
        return [
            logic.RoundRobinRouter.route_request,
            logic.DisaggregatedPrefillOrchestratedRouter.select_prefill_endpoint,
            stack.hashtrie.HashTrie.longest_prefix_match,
            request.route_disaggregated_prefill_request,
        ]

    before = functions()
    observed = Stack(tmp_path / "records.jsonl", stack)
    kept = logic.RoundRobinRouter().route_request
    during = functions()
    observed.stop()

    assert [function is own for function, own in zip(during, before, strict=True)] == [False] * 4
    assert functions() == before
    assert kept([SimpleNamespace(url="http://a:1")], {}, {}, None) == "http://a:1"


def test_alone(tmp_path: Path, stack: Any, router: Stack) -> None:
    """Without the generic layer nothing is tracked, and the router works."""
    router.instrumentor.uninstrument()
    engine = router.add_engine("engine")
    router.add(engine.url)
    router.start(router.modules.logic.RoundRobinRouter())

    assert router.post(headers=ID).status_code == 200
    assert router.telemetry.spans == []
