"""Prefill/decode proxies, on doubles of their structure, in front of engines with faults."""

from __future__ import annotations

import importlib.util
import inspect
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import httpx
import pytest
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from otel_lifecycle.instrumentation.pd_proxy import PDProxyInstrumentor
from tests.instrumentation.exchanges import (
    disconnected,
    failed,
    legs,
    paired,
    pick,
    picks,
    plain,
    prefilled,
    streamed,
    whole_answer,
)
from tests.instrumentation.generic_routers import make_pd_proxy
from tests.instrumentation.instrumented_process import (
    instrumented,
    served_by_any_fastapi,
)
from tests.instrumentation.test_generic import Observed, endpoint_id, make_engine, unobserved
from tests.matchers import SAMPLED, TIMESTAMP
from tests.ports import free_port
from tests.waiting import PATIENCE_SECONDS, eventually, until

DOUBLES = Path(__file__).parent / "doubles" / "pd_proxies"
ASKED = {"stream": True, "stream_options": {"include_usage": True}}
ID = {"x-request-id": "request-1"}
PREFILL_CACHED = 16
BROKEN = "httpx.RemoteProtocolError"


class Kind(NamedTuple):
    """One proxy, with the expected values."""

    double: str
    policy: str
    app: str = "app"
    candidates: int | None = 3


KINDS = [
    Kind("ascend_proxy", "SharedProxyScheduler"),
    Kind("ascend_proxy_old", "ProxyState"),
    Kind("toy_proxy", "get_next_client"),
    Kind("demo_proxy", "RoundRobinSchedulingPolicy", "create_app"),
    Kind("lmcache_proxy", "round_robin_pick_clients"),
    Kind("lmcache_mp_proxy", "round_robin_pick_clients", candidates=None),
    Kind("mini_lb", "MiniLoadBalancer"),
]
ASCEND, OLD, TOY = KINDS[:3]


class PrefillEngine:
    """Answers as a prefill engine, and fails on demand."""

    status = 200

    def __init__(self) -> None:
        self.answered = threading.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves any path."""
        if scope["type"] == "http":
            usage = {
                "prompt_tokens": 30,
                "completion_tokens": 1,
                "prompt_tokens_details": {"cached_tokens": PREFILL_CACHED},
            }
            transfer = {"do_remote_prefill": True, "remote_host": "127.0.0.1"}
            answer = {"choices": [], "usage": usage, "kv_transfer_params": transfer}
            await JSONResponse(answer, self.status)(scope, receive, send)
            self.answered.set()


class DecodeEngine:
    """A simulated engine that also tokenizes, and has some requests recomputed.

    It begins when there is a prefill, although some proxies call both at once.
    """

    def __init__(self, prefilled: threading.Event, **settings: Any) -> None:
        self.app: ASGIApp = make_engine("decode", **settings)
        self.prefilled = prefilled
        self.recompute = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves."""
        if scope.get("path") == "/v1/completions":
            await until(self.prefilled)
        if scope.get("path") == "/tokenize":
            await JSONResponse({"tokens": [1, 2]})(scope, receive, send)
        elif self.recompute and scope.get("path") == "/v1/completions":
            self.recompute -= 1
            answer = {"choices": [{"text": "", "stop_reason": "recomputed"}]}
            await JSONResponse(answer)(scope, receive, send)
        else:
            await self.app(scope, receive, send)


class Proxied(Observed):
    """A PD proxy with its engines and both instrumentations."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.loaded: list[str] = []
        self.prefill_engine = PrefillEngine()
        self.prefill = self.cluster.add_app("prefill", unobserved(self.prefill_engine))
        self.adapter = PDProxyInstrumentor()
        self.adapter.instrument(
            tracer_provider=self.telemetry.tracer_provider,
            meter_provider=self.telemetry.meter_provider,
            store_name=str(path),
            persistence_output_path=str(path),
        )

    def load(self, kind: Kind, *, prefills: int = 2, **settings: Any) -> ModuleType:
        """Load the module of a double with several prefill engines, of which one runs."""
        self.decode_engine = DecodeEngine(self.prefill_engine.answered, **settings)
        self.decode = self.cluster.add_app("decode", unobserved(self.decode_engine))
        name = f"double_of_{kind.double}"
        spec = importlib.util.spec_from_file_location(name, DOUBLES / f"{kind.double}.py")
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        self.loaded.append(name)
        spec.loader.exec_module(module)
        module.instances = (  # type: ignore[attr-defined]
            [("127.0.0.1", self.prefill.port + number) for number in range(prefills)],
            [("127.0.0.1", self.decode.port)],
        )
        return module

    def start(self, kind: Kind, *, prefills: int = 2, **settings: Any) -> ModuleType:
        """Serve the double."""
        module = self.load(kind, prefills=prefills, **settings)
        app = getattr(module, kind.app)
        self.serve(app() if kind.app == "create_app" else app)
        return module

    def expected(self, kind: Kind, **changes: Any) -> dict[str, Any]:
        """The record of a complete stream."""
        known = {
            "policy": kind.policy,
            "candidates": kind.candidates,
            "cachedTokens": PREFILL_CACHED,
        }
        return paired(self.prefill.url, self.decode.url, **{**known, **changes})

    def called(self, *outcomes: str) -> dict[str, Any]:
        """The calls of a pair: a prefill, and how each of its decodes ended."""
        decodes = [("decode", self.decode.url, outcome) for outcome in outcomes]
        return legs(("prefill", self.prefill.url, "completed"), *decodes)

    def seen_by_decode(self) -> list[dict[str, str]]:
        """The trace contexts and ids sent to the decode engine."""
        seen = httpx.get(f"{self.decode.url}/debug/traceparents", timeout=PATIENCE_SECONDS).json()
        return seen["traceparents"]  # type: ignore[no-any-return]

    def stop(self) -> None:
        """Stop everything."""
        super().stop()
        self.adapter.uninstrument()
        for name in self.loaded:
            del sys.modules[name]


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Proxied]:
    """Any of the proxies, with its engines."""
    proxied = Proxied(tmp_path / "records.jsonl")
    yield proxied
    proxied.stop()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.double)
def test_stream(proxy: Proxied, kind: Kind) -> None:
    """Both legs form one route, in any order and wording of the calls."""
    proxy.start(kind)
    response = proxy.post(headers=ID, **ASKED)

    assert response.text.endswith("data: [DONE]\n\n")
    assert plain(proxy.record()) == proxy.expected(kind)


@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if kind.double != "lmcache_proxy"], ids=lambda kind: kind.double
)
def test_not_streaming(proxy: Proxied, kind: Kind) -> None:
    """The same for a complete answer, which LMCache's proxy does not support."""
    proxy.start(kind)
    proxy.post(headers=ID)

    assert plain(proxy.record()) == proxy.expected(kind, **whole_answer())


@pytest.mark.parametrize("kind", [ASCEND, OLD, TOY], ids=lambda kind: kind.double)
def test_ids(proxy: Proxied, kind: Kind) -> None:
    """If a proxy makes its own request id, the record has it and the client's."""
    proxy.start(kind, prefills=1)
    proxy.post(headers=ID)
    eventually(lambda: len(proxy.telemetry.spans) == 1)
    proxy.post()

    first, second = proxy.records(2)
    sent = [seen["x-request-id"] for seen in proxy.seen_by_decode()]
    assert (first.request_id, first.engine_request_id) == ("request-1", sent[0])
    assert (second.request_id, second.engine_request_id) == (sent[1], sent[1])


def test_one_trace(proxy: Proxied) -> None:
    """The decode engine's span becomes a child of ours."""
    proxy.start(TOY)
    proxy.post(headers=ID)

    record = proxy.record()
    assert [seen["traceparent"] for seen in proxy.seen_by_decode()] == [
        f"00-{record.trace_id}-{record.span_id}-{SAMPLED:02x}"
    ]


def test_one_token(proxy: Proxied) -> None:
    """A decode of one token is not a prefill, although it looks like one."""
    proxy.start(TOY)
    proxy.post(headers=ID, max_tokens=1)

    assert plain(proxy.record()) == proxy.expected(TOY, **whole_answer(), outputLength=1)


def test_engine_that_drains(proxy: Proxied) -> None:
    """A draining engine is not a candidate."""
    module = proxy.start(ASCEND)
    eventually(lambda: module.runtime is not None)
    pool = module.runtime.scheduler._pool(module.ServerRole.PREFILL)
    pool.tainted.update([*list(pool.servers)[1:], "0.0.0.0:1"])  # one that has left already
    proxy.post(headers=ID, **ASKED)

    assert plain(proxy.record()) == proxy.expected(ASCEND, candidates=2)


def test_prefill_fails(proxy: Proxied) -> None:
    """A prefill that fails twice is two attempts and an error, before a decode was chosen."""
    proxy.start(ASCEND)
    proxy.prefill_engine.status = 503
    assert proxy.post(headers=ID, **ASKED).status_code == 503

    here = endpoint_id(proxy.prefill)
    change = {"at": TIMESTAMP, "from": here, "to": here, "reason": "http_503"}
    assert plain(proxy.record()) == prefilled(
        proxy.prefill.url,
        **failed("http_503"),
        **legs(*[("prefill", proxy.prefill.url, "error")] * 2),
        attempt=2,
        rerouted=[change],
        policy="SharedProxyScheduler",
        candidates=2,
    )


@pytest.mark.parametrize("kind", [ASCEND, OLD], ids=lambda kind: kind.double)
def test_work_of_the_candidates(proxy: Proxied, kind: Kind) -> None:
    """vllm-ascend's own numbers, from before it adds the request: the least work is best."""
    module = proxy.start(kind)
    if kind is OLD:
        eventually(lambda: module.proxy_state is not None)
        servers = module.proxy_state.prefillers
    else:
        eventually(lambda: module.runtime is not None)
        servers = [*module.runtime.scheduler._pool(module.ServerRole.PREFILL).servers.values()]
    servers[0].active_tokens, servers[0].active_kv_cache = 10.0, 20.0
    servers[1].active_tokens = 100.0
    proxy.post(headers=ID, **ASKED)

    busy = f"http://127.0.0.1:{proxy.prefill.port + 1}"
    assert picks(proxy.record()) == [
        pick(
            "prefill",
            (
                proxy.prefill.url,
                {"score": -16.0, "scores": {"active_tokens": -10.0, "active_kv_cache": -20.0}},
            ),
            (busy, {"score": -100.0, "scores": {"active_tokens": -100.0, "active_kv_cache": 0.0}}),
            rank=1,
            margin=84.0,
        ),
        pick(
            "decode",
            (
                proxy.decode.url,
                {"score": 0.0, "scores": {"active_tokens": 0.0, "active_kv_cache": 0.0}},
            ),
            rank=1,
        ),
    ]


def test_without_prefill(proxy: Proxied) -> None:
    """If a proxy continues after a failed prefill, the decode engine does everything."""
    proxy.load(TOY)
    proxy.prefill_engine.status = 503
    proxy.serve(make_pd_proxy(proxy.prefill.url, proxy.decode.url))
    proxy.post(headers=ID, **ASKED)

    change = {
        "at": TIMESTAMP,
        "from": endpoint_id(proxy.prefill),
        "to": endpoint_id(proxy.decode),
        "reason": "http_503",
    }
    assert plain(proxy.record()) == streamed(
        proxy.decode.url,
        **legs(("prefill", proxy.prefill.url, "error"), ("leader", proxy.decode.url, "completed")),
        attempt=2,
        rerouted=[change],
    )


def test_decode_fails(proxy: Proxied) -> None:
    """A failed decode is an error, even if the proxy answers 200 with an empty body."""
    proxy.start(ASCEND)
    proxy.cluster.break_engine("decode", "http_500")
    response = proxy.post(headers=ID, **ASKED)

    pair = f"{endpoint_id(proxy.prefill)}+{endpoint_id(proxy.decode)}"
    change = {"at": TIMESTAMP, "from": pair, "to": pair, "reason": "http_500"}
    assert (response.status_code, response.content) == (200, b"")
    assert plain(proxy.record()) == proxy.expected(
        ASCEND, **failed("http_500"), **proxy.called("error", "error"), attempt=2, rerouted=[change]
    )


def test_decode_cut_in_mid_stream(proxy: Proxied) -> None:
    """A decode that drops is an error, even if the proxy ends its response properly."""
    proxy.start(ASCEND)
    proxy.cluster.break_engine("decode", "drop_mid_stream")
    assert proxy.post(headers=ID, **ASKED).status_code == 200

    assert plain(proxy.record()) == proxy.expected(
        ASCEND, **failed(BROKEN, first_chunk=True), **proxy.called("error")
    )


def test_decode_sent_again_in_mid_stream(proxy: Proxied) -> None:
    """If an older proxy repeats a broken decode, each time is an attempt."""
    proxy.start(OLD)
    proxy.cluster.break_engine("decode", "drop_mid_stream")
    proxy.post(headers=ID, **ASKED)

    pair = f"{endpoint_id(proxy.prefill)}+{endpoint_id(proxy.decode)}"
    change = {"at": TIMESTAMP, "from": pair, "to": pair, "reason": BROKEN}
    assert plain(proxy.record()) == proxy.expected(
        OLD,
        **failed(BROKEN, first_chunk=True),
        **proxy.called(*["error"] * 3),
        attempt=3,
        rerouted=[change] * 2,
    )


def test_recompute(proxy: Proxied) -> None:
    """A recomputed request starts its route anew, as one more attempt."""
    proxy.start(ASCEND, prefills=1)
    proxy.decode_engine.recompute = 1
    proxy.post(headers=ID, **ASKED)

    prefill = endpoint_id(proxy.prefill)
    change = {
        "at": TIMESTAMP,
        "from": f"{prefill}+{endpoint_id(proxy.decode)}",
        "to": prefill,
        "reason": "retry",
    }
    broken_off = proxy.called("cancelled")["legs"]
    assert plain(proxy.record()) == proxy.expected(
        ASCEND,
        legs=broken_off + proxy.called("completed")["legs"],
        attempt=2,
        rerouted=[change],
        candidates=2,
    )


@pytest.mark.parametrize("kind", [ASCEND, TOY], ids=lambda kind: kind.double)
def test_client_disconnect(proxy: Proxied, kind: Kind) -> None:
    """A client that leaves is a disconnect."""
    proxy.start(kind, time_scale=1.0)
    assert proxy.cluster.router is not None
    body = {"model": "m", "prompt": "hello " * 20, "max_tokens": 4000, "stream": True}
    url = f"{proxy.cluster.router.url}/v1/completions"
    with httpx.stream("POST", url, json=body, headers=ID, timeout=PATIENCE_SECONDS) as response:
        next(response.iter_raw())

    assert plain(proxy.record()) == proxy.expected(
        kind, **disconnected(), **proxy.called("cancelled")
    )


def test_bound_clients(proxy: Proxied) -> None:
    """If LMCache's proxy keeps a client on its engines, that choice is the policy."""
    kind = Kind("lmcache_proxy", "pick_up_clients")
    module = proxy.start(kind)
    module.BOUND_CLIENT = True  # type: ignore[attr-defined]
    proxy.post(headers=ID, **ASKED)

    assert plain(proxy.record()) == proxy.expected(kind)


def test_application_by_name(proxy: Proxied) -> None:
    """An application that uvicorn imports by name is inspected after the import."""
    module = proxy.load(ASCEND)
    proxy.serve(f"{module.__name__}:create_app")
    proxy.post(headers=ID, **ASKED)

    assert plain(proxy.record()) == proxy.expected(ASCEND)


def test_picker_unknown(proxy: Proxied, caplog: pytest.LogCaptureFixture) -> None:
    """An unknown way of choosing causes one warning, and the route is still known."""
    module = proxy.load(TOY)
    source = inspect.getsource(module).replace("get_next_client", "choose")
    exec(source, module.__dict__)
    del module.get_next_client  # type: ignore[attr-defined]
    address = "127.0.0.1"
    module.instances = ([(address, proxy.prefill.port)], [(address, proxy.decode.port)])  # type: ignore[attr-defined]
    proxy.serve(module.app)
    proxy.post(headers=ID, **ASKED)

    assert plain(proxy.record()) == proxy.expected(TOY, policy="", candidates=None)
    assert [message for message in caplog.messages if module.__name__ in message] == [
        f"nothing known in {module.__name__} chooses endpoints: policy and candidates are missing"
    ]


def test_other_applications(proxy: Proxied) -> None:
    """A module with only some of the names is not such a proxy, and is left alone."""
    module = proxy.load(TOY)
    sends = module.send_request_to_service
    del module.stream_service_response  # type: ignore[attr-defined]
    proxy.serve(module.app)

    assert module.send_request_to_service is sends


def test_kinds_of_functions(proxy: Proxied) -> None:
    """Coroutine functions and asynchronous generators keep their kind."""
    module = proxy.start(ASCEND)
    assert inspect.iscoroutinefunction(module.send_request_to_service)
    assert inspect.isasyncgenfunction(module.stream_service_response)


def test_uninstrumented(proxy: Proxied) -> None:
    """Uninstrumenting restores a proxy's own functions."""
    module = proxy.load(ASCEND)
    scheduler = module.SharedProxyScheduler

    def functions() -> list[Any]:
        return [
            module.send_request_to_service,
            module.stream_service_response,
            scheduler._pick_server,
        ]

    before = functions()
    proxy.serve(module.app)
    during = functions()
    proxy.adapter.uninstrument()

    assert [function is own for function, own in zip(during, before, strict=True)] == [False] * 3
    assert functions() == before
    assert proxy.post(headers=ID).status_code == 200


def test_script(tmp_path: Path, proxy: Proxied) -> None:
    """A proxy run as a script under `opentelemetry-instrument` needs nothing else."""
    proxy.load(TOY)
    port = free_port()
    script = [str(DOUBLES / "toy_proxy.py"), str(port)]
    script += [str(proxy.prefill.port), str(proxy.decode.port)]
    with instrumented(script, port, tmp_path / "script.jsonl") as process:
        process.post(**ASKED)
        (record,) = process.records()

    assert plain(record) == proxy.expected(TOY, candidates=2, **served_by_any_fastapi(record))
