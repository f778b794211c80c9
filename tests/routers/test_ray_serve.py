"""Ray Serve as users run it: proxies, ingress deployments and engines in Ray's processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest
from demo.otlp_receiver import METRICS_PATH, OTLPReceiver
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from otel_lifecycle import LifecycleRecord, read_records
from tests.instrumentation.exchanges import (
    disconnected,
    failed,
    metrics,
    plain,
    streamed,
    whole_answer,
)
from tests.matchers import SPAN_ID, Matching
from tests.ports import free_port
from tests.waiting import eventually

pytestmark = [pytest.mark.routers]
pytest.importorskip("ray.serve")

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
CLIENT_SPAN_ID = "b7ad6b7169203331"
POWER_OF_TWO, PREFIX_AWARE = "PowerOfTwoChoicesRequestRouter", "PrefixCacheAffinityRouter"
PATIENCE = 120
ATTEMPTS = 8
RUNTIME_ERROR = "ray.exceptions.RayTaskError(RuntimeError)"


@dataclass(frozen=True)
class Scenario:
    """One request, with its expected record."""

    name: str
    path: str
    changes: dict[str, Any] = field(default_factory=dict)
    fields: dict[str, Any] = field(default_factory=lambda: {"stream": True})
    leaves: bool = False

    @property
    def trace_id(self) -> str:
        """Distinguishes the traces."""
        return sha256(self.name.encode()).hexdigest()[:32]

    @property
    def application(self) -> str:
        """The application of the request."""
        return self.path.split("/")[1]

    @property
    def in_fleet(self) -> bool:
        """Whether an ingress deployment routes it on."""
        return self.application == "fleet"

    @property
    def deployment(self) -> str:
        """The deployment whose replica is chosen."""
        if self.in_fleet:
            return "Affine" if "/affine/" in self.path else "Engine"
        return self.application.capitalize()

    def send(self, url: str) -> tuple[Any, ...]:
        """Send the request; return all bytes that the client got."""
        headers = {
            "x-request-id": self.name,
            "traceparent": f"00-{self.trace_id}-{CLIENT_SPAN_ID}-01",
        }
        body = {"model": "m", "prompt": "hello " * 20, **self.fields}
        got = b""
        with (
            httpx.Client(trust_env=False, timeout=PATIENCE) as client,
            client.stream("POST", url + self.path, json=body, headers=headers) as response,
        ):
            try:
                for chunk in response.iter_raw():
                    got += chunk
                    if self.leaves:
                        break
            except httpx.RemoteProtocolError as error:
                got += str(error).encode()
        answer = [(name, value) for name, value in response.headers.raw if name.lower() != b"date"]
        return response.status_code, answer, got


STREAM: dict[str, Any] = {"stream": True}
LARGE = {"prompt": "hello " * 100_000}
SCENARIOS = [
    Scenario("alone-stream", "/alone/v1/completions"),
    Scenario("alone-whole", "/alone/v1/completions", whole_answer(), {}),
    Scenario("alone-large", "/alone/v1/completions", whole_answer(), LARGE),
    Scenario(
        "alone-fails-before",
        "/alone/v1/completions",
        {**whole_answer(), **failed("http_500")},
        {"fail": "before"},
    ),
    Scenario(
        "alone-fails-between",
        "/alone/v1/completions",
        failed(RUNTIME_ERROR, first_chunk=True),
        {**STREAM, "fail": "between"},
    ),
    Scenario(
        "alone-client-leaves",
        "/alone/v1/completions",
        disconnected(),
        {**STREAM, "chunks": 1_000, "pause": 0.1},
        leaves=True,
    ),
    Scenario("plain-whole", "/plain/v1/completions", whole_answer(), {}),
    Scenario("fleet-stream", "/fleet/v1/completions"),
    Scenario("fleet-whole", "/fleet/v1/completions", whole_answer(), {}),
    Scenario("fleet-prefix-aware", "/fleet/affine/v1/completions"),
    Scenario(
        "fleet-fails-before",
        "/fleet/v1/completions",
        {**whole_answer(), **failed("ray.exceptions.RayTaskError(RuntimeError)")},
        {"fail": "before"},
    ),
    Scenario(
        "fleet-fails-between",
        "/fleet/v1/completions",
        failed(RUNTIME_ERROR, first_chunk=True),
        {**STREAM, "fail": "between"},
    ),
    Scenario(
        "fleet-client-leaves",
        "/fleet/v1/completions",
        disconnected(),
        {**STREAM, "chunks": 1_000, "pause": 0.1},
        leaves=True,
    ),
    Scenario(
        "alone-replica-dies",
        "/alone/v1/completions",
        failed("ray.exceptions.ActorDiedError", first_chunk=True),
        {**STREAM, "fail": "kill", "pause": 2},
    ),
    Scenario(
        "fleet-replica-dies",
        "/fleet/v1/completions",
        failed("ray.exceptions.ActorDiedError", first_chunk=True),
        {**STREAM, "fail": "kill", "pause": 2},
    ),
]
IDS = [scenario.name for scenario in SCENARIOS]
BURST = 200
BURST_SCENARIOS = [Scenario(f"burst-{number}", "/fleet/v1/completions") for number in range(BURST)]


class RayCluster:
    """A small cluster on this machine, and Serve on it, twice."""

    def __init__(self, folder: Path, receiver: OTLPReceiver) -> None:
        self.records_path = folder / "records.jsonl"
        self.receiver = receiver
        self._log_path = folder / "ray.log"
        self._address = ""

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run the head, without instrumentation."""
        for _ in range(ATTEMPTS):  # Ray gives up after half a minute, which a busy machine exceeds
            with self._start() as head:
                try:
                    eventually(lambda: self._is_up() or head.poll() is not None, PATIENCE)
                    if head.poll() is None:
                        yield
                        return
                finally:
                    head.terminate()
                    head.wait()
                    with suppress(ProcessLookupError):
                        os.killpg(head.pid, signal.SIGKILL)
        raise AssertionError(self._log_path.read_text())

    def _start(self) -> subprocess.Popen[bytes]:
        self._address = f"127.0.0.1:{free_port()}"
        options = {
            "num-cpus": 2,
            "include-dashboard": "false",
            "include-log-monitor": "false",
            "node-ip-address": "127.0.0.1",
            "object-store-memory": 200_000_000,
            "port": self._address.rpartition(":")[2],
            "ray-client-server-port": free_port(),
            "dashboard-agent-grpc-port": free_port(),
            "dashboard-agent-listen-port": free_port(),
            "runtime-env-agent-port": free_port(),
            "metrics-export-port": free_port(),
        }
        arguments = [f"--{name}={value}" for name, value in options.items()]
        command = [str(BIN / "ray"), "start", "--head", "--block", "--no-monitor", *arguments]
        with self._log_path.open("wb") as log:
            return subprocess.Popen(
                command,
                env=self._environment(),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @contextmanager
    def serving(self, *command: str, **environment: str) -> Iterator[str]:
        """Run the applications, and yield their URL."""
        port = free_port()
        module = "tests.routers.ray_serve_app"
        with (
            self._log_path.open("ab") as log,
            subprocess.Popen(
                [*command, sys.executable, "-m", module, self._address, str(port)],
                env={**self._environment(), **environment},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            ) as driver,
        ):
            assert driver.stdin is not None
            assert driver.stdout is not None
            try:
                assert driver.stdout.readline() == b"ready\n"
                yield f"http://127.0.0.1:{port}"
                driver.stdin.close()
                assert driver.wait(PATIENCE) == 0
            finally:
                driver.kill()

    def instrumented(self) -> dict[str, str]:
        """The variables that a user sets."""
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.receiver.endpoint,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_METRIC_EXPORT_INTERVAL": "500",
            "OTEL_LOGS_EXPORTER": "none",
            "OTEL_BSP_SCHEDULE_DELAY": "500",
            "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS": "otel,process",
            "OTEL_LIFECYCLE_PERSISTENCE_OUTPUT_PATH": str(self.records_path),
        }

    def _is_up(self) -> bool:
        return "Ray runtime started" in self._log_path.read_text()

    def _environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "NO_PROXY": "127.0.0.1",
            "RAY_AUTH_MODE": "disabled",
            "RAY_worker_register_timeout_seconds": "180",
        }


class InflightReceiver(OTLPReceiver):
    """Also keeps the last value of every process's in-flight gauges."""

    def __init__(self) -> None:
        super().__init__()
        self.inflight: dict[tuple[bytes, bytes], int] = {}

    def accept(self, path: str, content: bytes) -> None:
        """Accept the body of one export."""
        super().accept(path, content)
        if path != METRICS_PATH:
            return
        for resource in ExportMetricsServiceRequest.FromString(content).resource_metrics:
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    if metric.name == "llm_router.inflight.requests":
                        for point in metric.gauge.data_points:
                            endpoint = b"".join(a.SerializeToString() for a in point.attributes)
                            process = resource.resource.SerializeToString()
                            self.inflight[process, endpoint] = point.as_int


@dataclass
class Run:
    """The results of all scenarios, without instrumentation and with it."""

    plain: dict[str, tuple[Any, ...]]
    answers: dict[str, tuple[Any, ...]]
    burst: list[tuple[Any, ...]]
    records: list[LifecycleRecord]
    receiver: InflightReceiver

    def record(self, scenario: Scenario) -> LifecycleRecord:
        """Return the only record of a scenario."""
        (record,) = (one for one in self.records if one.request_id == scenario.name)
        return record

    def trace(self, scenario: Scenario) -> dict[str, Span]:
        """Return the spans of a scenario by id; those of scope `otel_lifecycle` are ours."""
        return {
            span.span_id.hex(): span
            for scope in ("otel_lifecycle", "fastapi", "engine")
            for span in self.receiver.spans(scope)
            if span.trace_id.hex() == scenario.trace_id
        }


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Run all scenarios."""
    receiver = InflightReceiver()
    with receiver:
        cluster = RayCluster(tmp_path_factory.mktemp("ray"), receiver)
        tool = str(BIN / "opentelemetry-instrument")
        with cluster.running():
            with cluster.serving() as url:
                expected = {scenario.name: scenario.send(url) for scenario in SCENARIOS}
            with cluster.serving(tool, **cluster.instrumented()) as url:
                answers = {scenario.name: scenario.send(url) for scenario in SCENARIOS}
                with ThreadPoolExecutor(BURST) as clients:
                    burst = list(clients.map(lambda one: one.send(url), BURST_SCENARIOS))
        yield Run(expected, answers, burst, list(read_records(cluster.records_path)), receiver)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=IDS)
def test_answer(run: Run, scenario: Scenario) -> None:
    """The client gets the same bytes as without instrumentation."""
    assert run.answers[scenario.name] == run.plain[scenario.name]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=IDS)
def test_record(run: Run, scenario: Scenario) -> None:
    """Each request has one record, of the choice that matters, from any process."""
    record = plain(run.record(scenario))
    leader = record["selectedRoute"]["leader"]
    stats = leader.pop("metrics", None)

    if scenario.application == "alone":
        # Ray forgets a queue length after ten seconds.
        known = {**stats, "runningRequestsSize": 0}
        assert known == {**metrics(0, 1, 0.25)}
    assert record == streamed(
        {
            "id": Matching(f"ray://{scenario.application}/{scenario.deployment}/[0-9a-z]+"),
            "address": leader["address"],
            "inflight": {"tokens": 0, "requests": 0},
            "prefillTokens": 0,
        },
        **{
            "requestId": scenario.name,
            "finishReason": None if scenario.fields.get("stream") else "stop",
            "selectedEndpoint": leader["id"],
            "trackedEndpoints": [leader["id"]],
            "servedEndpoint": leader["id"],
            "policy": PREFIX_AWARE if scenario.deployment == "Affine" else POWER_OF_TWO,
            "candidates": 1 if scenario.deployment == "Plain" else 2,
            "traceId": scenario.trace_id,
            "traceFlags": 1,
            "parentSpanId": SPAN_ID if scenario.in_fleet else CLIENT_SPAN_ID,
            "spanKind": "internal" if scenario.in_fleet else "server",
            **scenario.changes,
        },
    )


@pytest.mark.parametrize("scenario", SCENARIOS, ids=IDS)
def test_trace(run: Run, scenario: Scenario) -> None:
    """Each request has one lifecycle span, below the client's and above the engine's."""
    spans, ours = run.trace(scenario), run.record(scenario).span_id
    lifecycle = [
        span.span_id.hex()
        for span in run.receiver.spans("otel_lifecycle")
        if span.trace_id.hex() == scenario.trace_id
    ]
    assert lifecycle == [ours]
    if scenario.fields.get("fail") == "kill":  # the process with the other spans is dead
        return

    def lineage(span_id: str) -> list[str]:
        parent = spans[span_id].parent_span_id.hex()
        return [parent, *(lineage(parent) if parent in spans else [])]

    assert {lineage(span_id)[-1] for span_id in spans} == {CLIENT_SPAN_ID}
    for generated in (span_id for span_id, span in spans.items() if span.name == "generate"):
        assert ours in lineage(generated)


def test_burst(run: Run) -> None:
    """Each of many concurrent streams has its answer, its record and its span."""
    body = run.plain["fleet-stream"][2]
    assert [(status, got) for status, _, got in run.burst] == [(200, body)] * BURST
    records = [record for record in run.records if record.request_id.startswith("burst-")]
    assert {record.request_id for record in records} == {one.name for one in BURST_SCENARIOS}
    assert {record.outcome.value for record in records} == {"completed"}
    assert len(records) == BURST


def test_nothing_is_lost(run: Run) -> None:
    """After Serve has shut down, every record is in the file, and every span was exported."""
    recorded = sorted(record.span_id or "" for record in run.records)
    exported = sorted(span.span_id.hex() for span in run.receiver.spans("otel_lifecycle"))
    assert len(recorded) == len(SCENARIOS) + BURST
    assert exported == recorded


def test_nothing_is_in_flight(run: Run) -> None:
    """At the end no replica has any load, in any process."""
    assert run.receiver.inflight
    assert set(run.receiver.inflight.values()) == {0}
