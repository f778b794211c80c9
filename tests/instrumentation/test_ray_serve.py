"""Ray Serve, on a double with its names, signatures and order of calls."""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry import trace

from otel_lifecycle import LifecycleRecord, Load, read_records
from otel_lifecycle.instrumentation.ray.replicas import Applications
from otel_lifecycle.instrumentation.ray.serve import RayServeInstrumentor
from otel_lifecycle.model.record import ErrorInfo
from otel_lifecycle.testing import InMemoryTelemetry
from tests.instrumentation.exchanges import (
    disconnected,
    failed,
    metrics,
    picks,
    plain,
    streamed,
    whole_answer,
)
from tests.waiting import PATIENCE_SECONDS, eventually

DOUBLE = Path(__file__).parent / "doubles" / "ray_serve"
BODY = {"model": "m", "prompt": "hello " * 20, "stream": True}
TRACE_ID, CLIENT_SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
USAGE = {"prompt_tokens": 30, "completion_tokens": 8, "prompt_tokens_details": {"cached_tokens": 0}}
STREAM = [
    b'data: {"choices": [{"text": "a"}]}\n\n',
    b'data: {"choices": [], "usage": %b}\n\n' % json.dumps(USAGE).encode(),
    b"data: [DONE]\n\n",
]
Message = dict[str, Any]


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """The modules of the double, under the real names."""
    sys.path.insert(0, str(DOUBLE))
    names = ["exceptions", "serve"]
    names += [f"serve._private.{name}" for name in ("common", "router", "replica", "proxy")]
    modules = {name.rpartition(".")[2]: importlib.import_module(f"ray.{name}") for name in names}
    yield SimpleNamespace(**modules)
    sys.path.remove(str(DOUBLE))
    for name in [name for name in sys.modules if name.split(".")[0] == "ray"]:
        del sys.modules[name]


async def engine(scope: Any, receive: Any, send: Any) -> None:
    """Answer with a stream of eight tokens."""
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for chunk in STREAM:
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


class Serve:
    """An application of one deployment, `Engine`, or with an ingress in front of it."""

    def __init__(self, path: Path, ray: Any, **options: Any) -> None:
        self.ray = ray
        self.path = path
        self.telemetry = InMemoryTelemetry()
        self.instrumentor = RayServeInstrumentor()
        self.instrumentor.instrument(
            tracer_provider=self.telemetry.tracer_provider,
            meter_provider=self.telemetry.meter_provider,
            store_name=str(path),
            persistence_output_path=str(path),
            persistence_flush_threshold=1_000,
            **options,
        )
        ray.serve.deployments.clear()
        # Another one than that of the test before, of which an answer may still be on its way.
        RayServeInstrumentor._applications = Applications()

    def deploy(self, name: str, *targets: Any, **stats: Any) -> Any:
        """Make a router of a deployment with one replica per target."""
        self.ray.serve.deployments.setdefault("default", []).append(name)
        router = self.ray.router.AsyncioRouter("default")
        router.update_deployment_config(None)
        deployment = self.ray.common.DeploymentID(name)
        router.request_router.update_replicas(
            [
                self.ray.common.RunningReplica(
                    self.ray.common.ReplicaID(f"r{index}", deployment),
                    self.ray.replica.Replica(target),
                    stats,
                )
                for index, target in enumerate(targets)
            ]
        )
        return router

    def with_ingress(self, router: Any, answer: Callable[..., Awaitable[None]]) -> Any:
        """Make a router of an ingress that calls the engine through a second router."""

        async def ingress(scope: Any, receive: Any, send: Any) -> None:
            await answer(router, json.loads((await receive())["body"]), send)

        ingress_router = self.deploy("Ingress", ingress)
        applications = self.instrumentor._applications
        eventually(lambda: applications.has_several("default"))
        return ingress_router

    def post(
        self,
        router: Any,
        body: bytes = json.dumps(BODY).encode(),
        *,
        leaving: bool = False,
        late: bool = False,
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> list[Message]:
        """Send one request through the proxy; return the client's answer."""
        got: list[Message] = []
        parts = [body[:9], body[9:]] if late else [body]

        async def serve() -> None:
            async def receive() -> Message:
                part = parts.pop(0)
                return {"type": "http.request", "body": part, "more_body": bool(parts)}

            async def send(message: Message) -> None:
                got.append(message)
                if leaving and len(got) == 3:
                    raise asyncio.CancelledError

            scope = {**SCOPE, "headers": [*SCOPE["headers"], *headers]}
            await self.ray.proxy.HTTPProxy(router)(scope, receive, send)

        asyncio.run(serve())
        return got

    def records(self) -> list[LifecycleRecord]:
        """Return the records; each has a span, and nothing is in flight."""
        tracker = self.instrumentor.tracker
        assert tracker is not None
        assert tracker.flush(timeout=30)
        records = list(read_records(self.path)) if self.path.exists() else []
        spans = [
            format(span.context.span_id, "016x") for span in self.telemetry.spans if span.context
        ]
        assert [record.span_id for record in records] == spans
        assert tracker.store.active_requests == 0
        assert set(tracker.store.loads().values()) <= {Load()}
        return records

    def record(self) -> dict[str, Any]:
        """Return the only record, as plain values."""
        (record,) = self.records()
        return plain(record)


SCOPE = {
    "type": "http",
    "method": "POST",
    "path": "/v1/completions",
    "headers": [
        (b"x-request-id", b"request-1"),
        (b"traceparent", f"00-{TRACE_ID}-{CLIENT_SPAN_ID}-01".encode()),
    ],
}


@pytest.fixture
def settings() -> dict[str, Any]:
    """Settings of the instrumentation; a test may have others."""
    return {}


@pytest.fixture
def serve(tmp_path: Path, ray: Any, settings: dict[str, Any]) -> Iterator[Serve]:
    """Ray Serve, instrumented."""
    serve = Serve(tmp_path / "records.jsonl", ray, **settings)
    yield serve
    if serve.instrumentor.is_instrumented_by_opentelemetry:
        serve.instrumentor.uninstrument()
    serve.telemetry.shutdown()


def replica(name: str, **stats: Any) -> dict[str, Any]:
    """A replica as an endpoint of a route, with nothing else in flight."""
    known = {"metrics": {**metrics(0, 0, None), **stats}} if stats else {}
    return {
        "id": f"ray://default/{name}",
        "address": "10.0.0.1",
        "inflight": {"tokens": 0, "requests": 0},
        "prefillTokens": 0,
        **known,
    }


def routed(name: str, candidates: int = 1, **changes: Any) -> dict[str, Any]:
    """The record of a complete stream through the proxy."""
    return streamed(
        changes.pop("leader", replica(name)),
        **{
            "policy": "FirstRequestRouter",
            "finishReason": None,
            "candidates": candidates,
            "traceId": TRACE_ID,
            "parentSpanId": CLIENT_SPAN_ID,
            "traceFlags": 1,
            **changes,
        },
    )


def test_one_deployment(serve: Serve) -> None:
    """The proxy follows the request, and the record has the router's values of the replica."""
    router = serve.deploy("Engine", engine, engine, kv_cache_usage=0.25, waiting_requests=2, x="y")
    router.request_router.replica_queue_len_cache.update(
        dict.fromkeys(router.request_router.curr_replicas, 3)
    )
    got = serve.post(router)

    assert b"".join(message.get("body", b"") for message in got) == b"".join(STREAM)
    stats = {"runningRequestsSize": 3, "waitingQueueSize": 2, "kvCacheUsagePercent": 0.25}
    leader = replica("Engine/r0", **stats)
    assert serve.record() == routed("Engine/r0", 2, leader=leader)
    (record,) = serve.records()
    (pick,) = picks(record)
    assert (pick["chosenRank"], pick["margin"]) == (1, 0.0)
    assert [
        (one["id"], one["score"], one["waiting"], one["kvCacheUsage"]) for one in pick["candidates"]
    ] == [(f"ray://default/Engine/r{number}", -3.0, 2, 0.25) for number in (0, 1)]


@pytest.mark.parametrize(
    "settings",
    [{"labels": "tenant=x-tenant-id;plain,user=body:user;plain", "slo": "e2e=x-slo-e2e-ms"}],
)
@pytest.mark.parametrize("has_ingress", [False, True])
def test_labels(serve: Serve, has_ingress: bool) -> None:
    """Labels and targets are read in the request, by the proxy and by an ingress."""

    async def answer(router: Any, body: Any, send: Any) -> None:
        await router.assign_request(serve.ray.common.RequestMetadata("request-1"), body)
        await engine(SCOPE, _nothing, send)

    router = serve.deploy("Engine", engine)
    if has_ingress:
        router = serve.with_ingress(router, answer)
    headers = [(b"x-tenant-id", b"acme"), (b"x-slo-e2e-ms", b"1e9"), (b"x-other", b"a secret")]
    serve.post(router, json.dumps({**BODY, "user": "alice"}).encode(), headers=headers)

    assert serve.record() == routed(
        "Engine/r0",
        labels={"tenant": "acme", "user": "alice"},
        slo={"e2e": {"targetMillis": 1e9, "met": True}},
    )


def test_trace_reaches_the_replica(serve: Serve) -> None:
    """Our span is the replica's parent, in its headers and in its context."""
    seen: list[tuple[int, str]] = []

    async def noting(scope: Any, receive: Any, send: Any) -> None:
        current = trace.get_current_span().get_span_context()
        seen.append((current.span_id, dict(scope["headers"])[b"traceparent"].decode()))
        await engine(scope, receive, send)

    serve.post(serve.deploy("Engine", noting))

    (record,) = serve.records()
    assert seen == [(int(record.span_id or "", 16), f"00-{TRACE_ID}-{record.span_id}-01")]


def test_ingress(serve: Serve) -> None:
    """In an application of several deployments the ingress's call is the route."""
    seen: list[int] = []

    async def generate(body: Any) -> bytes:
        seen.append(trace.get_current_span().get_span_context().span_id)
        return json.dumps({"choices": [{"finish_reason": "stop"}], "usage": USAGE}).encode()

    async def answer(router: Any, body: Any, send: Any) -> None:
        metadata = serve.ray.common.RequestMetadata("request-1")
        chosen = await router.assign_request(metadata, body)
        content = await serve.ray.replica.call(chosen, metadata, body)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": content})

    ingress = serve.with_ingress(serve.deploy("Engine", generate), answer)
    serve.post(ingress, json.dumps({**BODY, "stream": False}).encode())

    record = serve.record()
    assert record == routed("Engine/r0", **whole_answer(), finishReason="stop")
    assert seen == [int(record["spanId"], 16)]


def test_without_a_proxy(serve: Serve) -> None:
    """An ingress without instructions from a proxy follows its requests itself."""

    async def answer(router: Any, body: Any, send: Any) -> None:
        await router.assign_request(serve.ray.common.RequestMetadata("request-1"), body)
        await engine(SCOPE, _nothing, send)

    ingress = serve.with_ingress(serve.deploy("Engine", engine), answer)
    (replica,) = ingress.request_router.curr_replicas.values()

    async def receive() -> Message:
        return {"type": "http.request", "body": json.dumps(BODY).encode()}

    async def call() -> None:
        metadata = serve.ray.common.RequestMetadata("request-1", is_http_request=True)
        async for _ in serve.ray.replica.stream(replica, metadata, SCOPE, receive):
            pass

    asyncio.run(call())

    assert serve.record() == routed("Engine/r0")


def test_auxiliary_deployments(serve: Serve) -> None:
    """Of several calls, the one that carries the prompt is the route."""

    async def answer(router: Any, body: Any, send: Any) -> None:
        for target, argument in ((before, "text"), (router, body), (after, "text")):
            await target.assign_request(serve.ray.common.RequestMetadata("request-1"), argument)
        await engine(SCOPE, _nothing, send)

    before, after = serve.deploy("Tokenizer", engine), serve.deploy("Filter", engine)
    serve.post(serve.with_ingress(serve.deploy("Engine", engine), answer))

    assert serve.record() == routed("Engine/r0")


async def _nothing(*_: Any) -> None:
    """Do nothing."""


def test_replica_rejects(serve: Serve) -> None:
    """If a replica is full, or died before it accepted, there is another attempt."""
    router = serve.deploy("Engine", engine, engine)
    router.rejections = 1
    serve.post(router)

    (record,) = serve.records()
    (reroute,) = record.rerouted
    change = (reroute.from_endpoint, reroute.to_endpoint, reroute.reason)
    assert change == ("ray://default/Engine/r0", "ray://default/Engine/r1", "retry")
    assert (record.attempt, record.outcome.value) == (2, "completed")
    assert record.selected_endpoint == "ray://default/Engine/r1"


def test_error_after_chunks(serve: Serve) -> None:
    """An error during a stream, which Ray takes for its end, is an error."""

    async def failing(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": STREAM[0], "more_body": True})
        raise RuntimeError

    serve.post(serve.deploy("Engine", failing))

    assert serve.record() == routed("Engine/r0", **failed("RuntimeError", first_chunk=True))


def test_disconnect(serve: Serve) -> None:
    """A request cancelled by the proxy because its client left is a disconnect."""
    serve.post(serve.deploy("Engine", engine), leaving=True)

    assert serve.record() == routed("Engine/r0", **disconnected())


def test_no_replica(serve: Serve) -> None:
    """A request for which the proxy finds no replica is rejected."""
    got = serve.post(serve.deploy("Engine"))

    (record,) = serve.records()
    assert got[0]["status"] == 503
    assert (record.outcome.value, record.error and record.error.type) == ("rejected", "ValueError")
    assert record.selected_route is None


def test_ingress_dies(serve: Serve) -> None:
    """If an ingress dies with its record, the proxy records what it knows."""

    class Dead:
        async def handle_request_streaming(self, *_: Any) -> Any:
            raise serve.ray.exceptions.RayActorError
            yield

    ingress = serve.with_ingress(serve.deploy("Engine", engine), _nothing)
    for replica in ingress.request_router.curr_replicas.values():
        replica.target = Dead()
    serve.post(ingress)

    endings = [(record.outcome.value, record.error) for record in serve.records()]
    assert endings == [("rejected", ErrorInfo("ray.exceptions.RayActorError"))]


def test_body_after_the_choice(serve: Serve) -> None:
    """The proxy chooses before it has the body; model and prompt are still known."""

    async def reading(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["more_body"]:
            pass
        await engine(scope, _nothing, send)

    serve.post(serve.deploy("Engine", reading), late=True)

    assert serve.record() == routed("Engine/r0")
    (span,) = serve.telemetry.spans
    assert (span.name, (span.attributes or {})["gen_ai.request.model"]) == ("route m", "m")


def test_other_paths(serve: Serve) -> None:
    """Requests that are not inference are ignored."""
    router = serve.deploy("Engine", engine)
    proxy = serve.ray.proxy.HTTPProxy(router)
    asyncio.run(proxy({**SCOPE, "path": "/docs"}, _nothing, _nothing))

    assert serve.records() == []


def test_replicas_come_and_go(serve: Serve) -> None:
    """The gauges of a replica disappear with it."""
    router = serve.deploy("Engine", engine, engine)
    tracker = serve.instrumentor.tracker
    assert tracker is not None
    both = {f"ray://default/Engine/r{index}": Load() for index in range(2)}
    assert tracker.store.loads() == both
    router.request_router.update_replicas(list(router.request_router.curr_replicas.values())[1:])

    assert tracker.store.loads() == {"ray://default/Engine/r1": Load()}


def test_controller_that_answers_late(ray: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that a newer one has overtaken is not used."""
    applications, late = Applications(), threading.Event()
    deployments: list[str] = []

    def status() -> Any:
        deployments.append("another")
        known = SimpleNamespace(deployments=list(deployments))
        if len(known.deployments) == 1:
            late.wait(PATIENCE_SECONDS)
        return SimpleNamespace(applications={"default": known})

    monkeypatch.setattr(ray.serve, "status", status)
    before = set(threading.enumerate())
    applications.look_up("default")
    eventually(lambda: deployments)
    applications.look_up("default")
    eventually(lambda: applications.has_several("default"))
    late.set()
    for thread in set(threading.enumerate()) - before:
        if thread.name == "otel-lifecycle-ray":
            thread.join(PATIENCE_SECONDS)

    assert applications.has_several("default")


def test_policies_stay_as_they_are(serve: Serve, ray: Any) -> None:
    """Policy classes are not wrapped, because Ray pickles them by value."""
    policy = ray.router.FirstRequestRouter
    before = dict(vars(policy))
    serve.deploy("Engine", engine)

    assert dict(vars(policy)) == before


def test_shutdown(serve: Serve, ray: Any) -> None:
    """All records are in the file after `shutdown`, because Ray then kills the replica."""
    serve.post(serve.deploy("Engine", engine))
    asyncio.run(ray.replica.Replica(engine).shutdown())

    assert len(list(read_records(serve.path))) == 1


def test_missing_hook(serve: Serve, ray: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A policy without a method causes one warning, and requests continue."""
    choose = ray.router.FirstRequestRouter._choose_replica_for_request

    class Other(ray.router.FirstRequestRouter):
        _choose_replica_for_request = None
        choose_replica = choose

    for _ in range(2):
        router = ray.router.AsyncioRouter("default", Other)
        router.update_deployment_config(None)
        assert router.request_router._choose_replica_for_request is None

    assert [record.message for record in caplog.records] == [
        "RequestRouter._choose_replica_for_request does not exist: its values stay unknown"
    ]


def test_uninstrument(serve: Serve) -> None:
    """After uninstrumenting everything passes through, also in wrapped routers."""
    router = serve.deploy("Engine", engine)
    expected = serve.post(router)
    assert len(serve.records()) == 1
    serve.instrumentor.uninstrument()

    assert serve.post(router) == expected
    assert len(serve.telemetry.spans) == 1
