"""LiteLLM from the registry, proxy and program, in separate processes.

One process serves all scenarios, because starting takes long.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from demo.otlp_receiver import OTLPReceiver

from otel_lifecycle import LifecycleRecord, read_records
from otel_lifecycle.model.decision import Decision
from tests.examples.cluster import Server
from tests.instrumentation.exchanges import (
    ANY_ID,
    disconnected,
    failed,
    legs,
    plain,
    streamed,
    whole_answer,
)
from tests.instrumentation.test_generic import closed_port
from tests.matchers import MEASURED, SPAN_ID, TIMESTAMP, Matching
from tests.ports import free_port
from tests.routers.litellm_engine import FakeEngine
from tests.routers.litellm_settings import PROMPT, ROUTER, model_list
from tests.waiting import eventually

pytestmark = pytest.mark.routers

ROOT = Path(__file__).parents[2]
KEY = "sk-of-the-tests-4f1c2ab97d"
PATIENCE = 600.0  # LiteLLM takes ten seconds of a processor to start
LABELS = "tenant=x-tenant-id;plain,team=body:metadata.team;plain"
ASKED = {"stream": True, "stream_options": {"include_usage": True}}
COUNTED = {"inputTokenLength": 7, "outputLength": 5, "cachedTokens": 4}
ESTIMATED = {"inputTokenLength": 8, "outputLength": None, "cachedTokens": None}
UNCOUNTED = {
    **ESTIMATED,
    "inputTokenSource": "estimated",
    "actual": {
        "ttftMillis": MEASURED,
        "tpotMillis": None,
        "e2eMillis": MEASURED,
        "prefillMillis": None,
        "queueMillis": MEASURED,
    },
}
# They promise to report disconnects to the application (ASGI 2.4), but do not.
HIDES_DISCONNECTS = uvicorn.__version__.startswith(("0.30.", "0.31."))
OWN_CALLBACK = """
from litellm.integrations.custom_logger import CustomLogger

handler = CustomLogger()
"""


class Engines:
    """A fake engine, and a URL where nobody listens."""

    def __init__(self) -> None:
        self.fake = FakeEngine()
        self.server = Server(self.fake.app)
        self.url = self.server.url
        self.second = Server(self.fake.app)
        self.other = self.second.url
        self.nobody = closed_port()


@pytest.fixture(scope="module")
def engines() -> Iterator[Engines]:
    """The engines that LiteLLM calls."""
    engines = Engines()
    yield engines
    engines.server.stop()
    engines.second.stop()


class Telemetry:
    """The exports and records of a process."""

    def __init__(self, path: Path, receiver: OTLPReceiver) -> None:
        self.path = path
        self.receiver = receiver

    def records(self) -> list[LifecycleRecord]:
        """The records, in the order of their end."""
        return list(read_records(self.path)) if self.path.exists() else []

    def record(self, request_id: str) -> LifecycleRecord:
        """Return the only record of a request, when it exists and its span was exported."""

        def found() -> list[LifecycleRecord]:
            return [record for record in self.records() if record.request_id == request_id]

        eventually(lambda: bool(found()), 60)
        (record,) = found()
        eventually(lambda: record.span_id in self.exported("otel_lifecycle"), 60)
        return record

    def exported(self, scope: str) -> dict[str, Any]:
        """Return the spans of a scope, by id."""
        spans = self.receiver.spans(scope)
        found = {span.span_id.hex(): span for span in spans}
        assert len(found) == len(spans)
        return found

    def check(self) -> None:
        """Assert that each record has one ended span without a prompt, and nothing is in flight."""
        spans = self.exported("otel_lifecycle")
        assert {record.span_id for record in self.records()} == set(spans)
        assert len(self.records()) == len(spans)
        for span in spans.values():
            assert span.end_time_unix_nano >= span.start_time_unix_nano > 0
            assert PROMPT not in str(span)
        assert PROMPT not in self.path.read_text("utf-8")
        assert set(self.receiver.gauge("llm_router.inflight.requests").values()) <= {0}


def environment(path: Path, receiver: OTLPReceiver, **more: str) -> dict[str, str]:
    """The variables of an instrumented process that exports to the receiver."""
    return {
        **bare_environment(),
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_METRICS_EXPORTER": "otlp",
        "OTEL_LOGS_EXPORTER": "none",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "OTEL_LIFECYCLE_PERSISTENCE_OUTPUT_PATH": str(path),
        "OTEL_LIFECYCLE_PERSISTENCE_FLUSH_THRESHOLD": "0",
        "OTEL_LIFECYCLE_CLOSE_TIMEOUT": "60s",  # the machine may be busy
        **more,
    }


def bare_environment() -> dict[str, str]:
    """The variables of a process that stays off the network."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "examples")])
    return {**os.environ, "PYTHONPATH": paths, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}


def tool(name: str) -> str:
    """Return a command of the environment that runs the tests."""
    return str(Path(sys.executable).with_name(name))


INSTRUMENT = (tool("opentelemetry-instrument"), "--")


class Proxy:
    """Talks to a LiteLLM proxy."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._client = httpx.Client(
            timeout=300, trust_env=False, headers={"authorization": f"Bearer {KEY}"}
        )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def post(
        self, request_id: str, group: str, headers: Mapping[str, str] | None = None, **fields: Any
    ) -> httpx.Response:
        """Ask for a chat completion."""
        named = {"x-request-id": request_id} if request_id else {}
        return self._client.post(
            f"{self.url}/v1/chat/completions",
            json=self.body(group, **fields),
            headers={**named, **(headers or {})},
        )

    def leave(self, request_id: str) -> None:
        """Leave during the stream."""
        with self._client.stream(
            "POST",
            f"{self.url}/v1/chat/completions",
            json=self.body("slow", stream=True),
            headers={"x-request-id": request_id},
        ) as response:
            next(response.iter_raw())

    def body(self, group: str, **fields: Any) -> dict[str, Any]:
        """A call."""
        return {"model": group, "messages": [{"role": "user", "content": PROMPT}], **fields}

    def is_up(self) -> bool:
        """Return whether it serves; polled slowly, since starting needs all the CPU there is."""
        time.sleep(0.2)
        try:
            return self._client.get(f"{self.url}/health/liveliness").is_success
        except httpx.TransportError:
            return False


@contextmanager
def proxy(
    folder: Path,
    engines: Engines,
    prefix: tuple[str, ...],
    process_environment: Mapping[str, str],
    callbacks: object,
) -> Iterator[Proxy]:
    """Run a proxy."""
    (folder / "own_callback.py").write_text(OWN_CALLBACK)
    config = {
        "model_list": model_list(engines.url, engines.nobody),
        "router_settings": ROUTER,
        "litellm_settings": {"callbacks": callbacks},
        "general_settings": {"master_key": KEY},
    }
    path = folder / "config.yaml"
    path.write_text(json.dumps(config))
    port = free_port()
    command = [*prefix, tool("litellm"), "-c", str(path), "--host", "127.0.0.1"]
    with (
        path.with_suffix(".log").open("wb") as log,
        subprocess.Popen(
            [*command, "--port", str(port)],
            env=process_environment,
            cwd=folder,
            stdout=log,
            stderr=log,
        ) as process,
    ):
        try:
            served = Proxy(f"http://127.0.0.1:{port}")
            eventually(lambda: process.poll() is not None or served.is_up(), PATIENCE)
            assert process.poll() is None, path.with_suffix(".log").read_text("utf-8")
            yield served
            served.close()
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE)
        finally:
            process.kill()


class InstrumentedProxy(Proxy, Telemetry):
    """A proxy under `opentelemetry-instrument`, with its exports and records."""

    def __init__(self, url: str, path: Path, receiver: OTLPReceiver) -> None:
        Proxy.__init__(self, url)
        Telemetry.__init__(self, path, receiver)


@pytest.fixture(scope="module")
def instrumented(
    tmp_path_factory: pytest.TempPathFactory, engines: Engines
) -> Iterator[InstrumentedProxy]:
    """A proxy with its own callback, named by a string: its configuration drops all others.

    When it has ended, everything is exported and nothing is in flight.
    """
    folder = tmp_path_factory.mktemp("instrumented")
    records = folder / "records.jsonl"
    with OTLPReceiver() as receiver:
        process_environment = environment(records, receiver, OTEL_LIFECYCLE_LABELS=LABELS)
        with proxy(
            folder, engines, INSTRUMENT, process_environment, "own_callback.handler"
        ) as served:
            followed = InstrumentedProxy(served.url, records, receiver)
            yield followed
            followed.close()
        followed.check()


def routed(engines: Engines, request_id: str, group: str, **changes: Any) -> dict[str, Any]:
    """A stream of five tokens through a group with one deployment."""
    known = {
        "requestId": request_id,
        "model": group,
        "operation": "chat",
        "policy": "simple-shuffle",
        "candidates": 1,
        "parentSpanId": SPAN_ID,
        "spanKind": "internal",
        "finishReason": "stop",
        **COUNTED,
    }
    return streamed(engines.url, **{**known, **changes})


def rerouted(start: str, end: str, *reasons: Any, outcome: str = "completed") -> dict[str, Any]:
    """The changes for further attempts, the last of which has an outcome."""
    ends = ["addr://" + url.removeprefix("http://") for url in (start, end)]
    changes = [
        {"at": TIMESTAMP, "from": ends[0], "to": ends[1], "reason": reason} for reason in reasons
    ]
    calls = [("leader", start, "error")] * len(reasons)
    return {
        "attempt": len(reasons) + 1,
        "rerouted": changes,
        **legs(*calls, ("leader", end, outcome)),
    }


def check_trace(telemetry: InstrumentedProxy, engines: Engines, record: LifecycleRecord) -> None:
    """Assert that the server's span is the parent of ours, and ours that of each call."""
    servers = telemetry.exported("fastapi")
    eventually(lambda: record.parent_span_id in telemetry.exported("fastapi"), 60)
    servers = telemetry.exported("fastapi")
    assert record.parent_span_id in servers
    assert servers[str(record.parent_span_id)].trace_id.hex() == record.trace_id
    ours = f"00-{record.trace_id}-{record.span_id}-"
    calls = [sent for sent in engines.fake.traceparents if str(record.trace_id) in sent]
    assert all(sent.startswith(ours) for sent in calls)
    assert calls


@pytest.mark.parametrize("asked", [{}, {"stream_options": {"include_usage": True}}])
def test_stream(instrumented: InstrumentedProxy, engines: Engines, asked: dict[str, Any]) -> None:
    """A stream's tokens are known if the client or LiteLLM asks for them."""
    request_id = f"stream-{len(asked)}"
    response = instrumented.post(request_id, "good", stream=True, **asked)

    record = instrumented.record(request_id)
    assert response.status_code == 200
    known = any(str(record.trace_id) in call for call in engines.fake.asked_for_usage)
    assert known or not asked
    assert plain(record) == routed(
        engines, request_id, "good", candidates=2, **({} if known else UNCOUNTED)
    )
    check_trace(instrumented, engines, record)


def test_whole_answer(instrumented: InstrumentedProxy, engines: Engines) -> None:
    """A complete answer to a client without a request id has LiteLLM's own id."""
    response = instrumented.post("", "good")
    request_id = response.headers["x-litellm-call-id"]

    record = instrumented.record(request_id)
    assert plain(record) == routed(engines, request_id, "good", candidates=2, **whole_answer())
    check_trace(instrumented, engines, record)


def test_labels(instrumented: InstrumentedProxy, engines: Engines) -> None:
    """Labels that the settings name are read in headers and in LiteLLM's metadata."""
    headers = {"x-tenant-id": "acme", "x-other": "a secret"}
    instrumented.post("labels", "good", headers, metadata={"team": "blue", "user": "a secret"})

    record = plain(instrumented.record("labels"))
    labels = {"tenant": "acme", "team": "blue"}
    assert record == routed(
        engines, "labels", "good", candidates=2, labels=labels, **whole_answer()
    )


def test_fallback(instrumented: InstrumentedProxy, engines: Engines) -> None:
    """Retries and the change to another group are attempts of one request."""
    response = instrumented.post("fallback", "falls-back")

    record = instrumented.record("fallback")
    assert response.status_code == 200
    assert plain(record) == routed(
        engines,
        "fallback",
        "falls-back",
        **whole_answer(),
        **rerouted(engines.url, engines.url, "http_500", "http_500"),
        candidates=2,  # of the group it falls back to
    )
    check_trace(instrumented, engines, record)


@pytest.mark.parametrize(
    ("group", "status", "reason"),
    [
        ("error", 500, "http_500"),
        ("limited", 429, "http_429"),
        ("dead", 500, "httpx.ConnectError"),
        ("hang", 408, Matching(r"httpx\.(Read|)Timeout(Exception|)")),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_engine_fails(
    instrumented: InstrumentedProxy,
    engines: Engines,
    group: str,
    status: int,
    reason: Any,
    stream: bool,
) -> None:
    """An engine that fails twice gives an error; the first attempt's reason is kept."""
    request_id = f"{group}-{stream}"
    response = instrumented.post(request_id, group, stream=stream)

    url = engines.nobody if group == "dead" else engines.url
    record = instrumented.record(request_id)
    actual = plain(record)
    assert response.status_code == status
    assert actual == {
        **routed(engines, request_id, group),
        **{
            field: actual[field]
            for field in ("selectedEndpoint", "trackedEndpoints", "selectedRoute")
        },
        **failed(f"http_{status}"),
        **ESTIMATED,
        **rerouted(url, url, reason, outcome="error"),
        "streaming": stream,
    }
    assert record.selected_endpoint == "addr://" + url.removeprefix("http://")


@pytest.mark.parametrize("group", ["drop", "cut"])
def test_cut_stream(instrumented: InstrumentedProxy, engines: Engines, group: str) -> None:
    """A truncated stream is an error, even if LiteLLM ends it properly."""
    response = instrumented.post(group, group, stream=True)

    record = instrumented.record(group)
    assert record.error is not None
    assert response.status_code == 200
    assert plain(record) == routed(
        engines, group, group, **{**failed(record.error.type, first_chunk=True), **ESTIMATED}
    )
    assert group == "drop" or record.error.type == "stream_truncated"
    check_trace(instrumented, engines, record)


@pytest.mark.skipif(HIDES_DISCONNECTS, reason="this uvicorn hides disconnects")
def test_disconnect(instrumented: InstrumentedProxy, engines: Engines) -> None:
    """A client that leaves is a disconnect, although LiteLLM logs a success."""
    instrumented.leave("left")

    record = instrumented.record("left")
    assert plain(record) == routed(engines, "left", "slow", **{**disconnected(), **ESTIMATED})
    check_trace(instrumented, engines, record)


@pytest.mark.parametrize(("group", "key"), [("unknown", KEY), ("good", "sk-of-nobody")])
def test_rejected(instrumented: InstrumentedProxy, group: str, key: str) -> None:
    """A request that reaches no engine is rejected, with the status of the answer."""
    request_id = f"rejected-{group}"
    response = httpx.post(
        f"{instrumented.url}/v1/chat/completions",
        json=instrumented.body(group),
        headers={"x-request-id": request_id, "authorization": f"Bearer {key}"},
        timeout=300,
    )

    record = instrumented.record(request_id)
    assert record.error is not None
    assert response.status_code in (400, 401)
    assert (record.outcome.value, record.error.type, record.selected_route) == (
        "rejected",
        f"http_{response.status_code}",
        None,
    )


def test_many_streams(instrumented: InstrumentedProxy) -> None:
    """200 concurrent streams have one record each, all completed."""
    ids = [f"crowd-{number}" for number in range(200)]
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda each: instrumented.post(each, "good", **ASKED), ids))

    assert {answer.status_code for answer in answers} == {200}
    records = [instrumented.record(each) for each in ids]
    assert {(record.outcome.value, record.output_length) for record in records} == {
        ("completed", 5)
    }
    assert len({record.trace_id for record in records}) == 200


def test_same_answers(instrumented: InstrumentedProxy, engines: Engines, tmp_path: Path) -> None:
    """The proxy answers the same bytes with and without instrumentation."""
    calls: list[tuple[str, dict[str, Any]]] = [
        (group, {"stream": stream})
        for group in ("good", "falls-back", "error", "limited", "drop", "cut", "unknown")
        for stream in (False, True)
    ]

    def answers(served: Proxy) -> list[tuple[int, str]]:
        found: list[tuple[int, str]] = []
        for group, fields in calls:
            response = served.post("same", group, **fields)
            # The second in an answer; LiteLLM's other generated values are in its headers.
            content = re.sub(r'"created": ?\d+', '"created":0', response.text)
            found.append((response.status_code, content))
        return found

    with proxy(tmp_path, engines, (), bare_environment(), "own_callback.handler") as bare:
        expected = answers(bare)

    assert answers(instrumented) == expected


@pytest.mark.parametrize("version", ["", "2"])
def test_its_own_tracing(tmp_path: Path, engines: Engines, version: str) -> None:
    """LiteLLM's own spans are all there, and ours is one more per request."""
    records = tmp_path / "records.jsonl"
    more = {"OTEL_EXPORTER": "otlp_http"} | ({"LITELLM_OTEL_V2": "true"} if version else {})
    with ExitStack() as stack:
        receiver = stack.enter_context(OTLPReceiver())
        more["OTEL_ENDPOINT"] = receiver.endpoint
        served = stack.enter_context(
            proxy(tmp_path, engines, INSTRUMENT, environment(records, receiver, **more), ["otel"])
        )
        followed = InstrumentedProxy(served.url, records, receiver)
        stack.callback(followed.close)
        for request_id, asked in (("whole", {}), ("stream", ASKED)):
            assert followed.post(request_id, "good", **asked).status_code == 200
            record = followed.record(request_id)
            assert (record.outcome.value, record.output_length) == ("completed", 5)
            assert record.parent_span_id is not None
        eventually(lambda: bool(receiver.spans("litellm")), 60)
    followed.check()


def run_program(
    engines: Engines,
    process_environment: Mapping[str, str],
    *prefix: str,
    program: str = "litellm_program",
) -> list[Any]:
    """Run a program that calls the router; return its output."""
    command = [*prefix, sys.executable, "-m", f"tests.routers.{program}"]
    urls = [engines.url, engines.other if program == "litellm_strategies" else engines.nobody]
    done = subprocess.run(
        [*command, *urls],
        env=process_environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]


def test_program(tmp_path: Path, engines: Engines) -> None:
    """Each call of `Router` in a program has one span and one record, however it ends."""
    path = tmp_path / "records.jsonl"
    with OTLPReceiver() as receiver:
        answers = run_program(engines, environment(path, receiver), *INSTRUMENT)
    telemetry = Telemetry(path, receiver)
    telemetry.check()

    records = telemetry.records()
    crowd = [record for record in records if record.model == "good"]
    assert {(record.outcome.value, record.output_length) for record in crowd} == {("completed", 5)}
    # Three streams and two complete answers besides the crowd; blocking ones are followed too.
    assert len(crowd) == 204
    assert [len(answer) for name, answer in answers if name == "crowd"] == [2]

    root = {"requestId": ANY_ID, "parentSpanId": None, "spanKind": "server"}
    (stream, *_) = crowd
    assert plain(stream) == routed(engines, "", "good", **{**root, "candidates": 2})
    ours = f"00-{stream.trace_id}-{stream.span_id}-"
    assert [sent for sent in engines.fake.traceparents if sent.startswith(ours)]

    def ends(group: str) -> list[tuple[str, str, int, list[str]]]:
        return [
            (
                record.outcome.value,
                "" if record.error is None else record.error.type.rpartition(".")[2],
                record.attempt,
                [change.reason for change in record.rerouted],
            )
            for record in records
            if record.model == group
        ]

    assert ends("falls-back") == [("completed", "", 3, ["http_500", "http_500"])]
    assert ends("error") == [("error", "http_500", 2, ["http_500"])]
    assert ends("limited") == [("error", "http_429", 2, ["http_429"])]
    assert ends("dead") == [("error", "InternalServerError", 2, ["httpx.ConnectError"])]
    assert [end[:3] for end in ends("hang")] == [("error", "Timeout", 2)]
    assert [end[0] for end in ends("cut")] == ["error"]
    assert [end[0] for end in ends("drop")] == ["error"]
    assert [end[:2] for end in ends("unknown")] == [("rejected", "BadRequestError")]
    completed, *cut = (end[0] for end in ends("slow"))
    assert completed == "completed"
    # Streams of older versions cannot be closed.
    assert sorted(cut) in (["abandoned", "abandoned"], ["abandoned", "client_disconnect"])


def test_program_gets_the_same(tmp_path: Path, engines: Engines) -> None:
    """A program gets the same answers, chunk by chunk, with and without instrumentation."""
    with OTLPReceiver() as receiver:
        observed = run_program(
            engines, environment(tmp_path / "records.jsonl", receiver), *INSTRUMENT
        )

    assert observed == run_program(engines, bare_environment())


def test_program_strategies(tmp_path: Path, engines: Engines) -> None:
    """What each strategy compares becomes the score of each deployment; the best is chosen."""
    path = tmp_path / "records.jsonl"
    with OTLPReceiver() as receiver:
        run_program(engines, environment(path, receiver), *INSTRUMENT, program="litellm_strategies")
    last = {record.policy: record.decision for record in read_records(path)}

    compared: dict[str, Any] = {}
    for policy, decision in last.items():
        assert isinstance(decision, Decision)
        (pick,) = decision.picks
        assert {one.id for one in pick.candidates} == {
            "addr://" + url.removeprefix("http://") for url in (engines.url, engines.other)
        }
        # By latency, it takes any that is about as fast as the fastest.
        assert pick.chosen_rank == 1 or policy == "latency-based-routing"
        compared[policy] = [(one.score, one.scores) for one in pick.candidates]
    in_flight = (0.0, {"requests": 0.0})
    assert compared == {
        "least-busy": [in_flight, in_flight],
        "latency-based-routing": [
            (latency, {"latency": latency}) for latency, _ in compared["latency-based-routing"]
        ],
        "usage-based-routing-v2": [
            (tokens, {"tpm": tokens, **requests})
            for tokens, requests in compared["usage-based-routing-v2"]
        ],
        "cost-based-routing": [(-1.25, {"cost": -1.25}), (-1.5, {"cost": -1.5})],
    }
    assert min(score for score, _ in compared["latency-based-routing"]) < 0
    assert max(score for score, _ in compared["usage-based-routing-v2"]) <= 0
