"""Following the log of an Envoy under load: kills, rotation, and the traces that come of it."""

from __future__ import annotations

import json
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub

from otel_lifecycle.records import read_records
from tests.cli.command import Command
from tests.envoy.clients import Ask, Seen, run
from tests.envoy.observing import ended, observe
from tests.envoy.programs import Engine, Envoy
from tests.full_disk import fill, mounted
from tests.observation.picked import export, spans
from tests.ports import free_port
from tests.records.shipping.collectors import GRPC, Collector
from tests.waiting import eventually

pytestmark = pytest.mark.envoy


@pytest.fixture
def start() -> Iterator[Callable[..., Command]]:
    """Starts `otel-lifecycle` with arguments."""
    with ExitStack() as stack:

        def start(*arguments: object, **options: dict[str, str]) -> Command:
            command = Command(*map(str, arguments), **options)
            stack.callback(command.close)
            return command

        yield start


@pytest.fixture
def observer(tmp_path: Path, start: Callable[..., Command]) -> Callable[..., Command]:
    """Starts `otel-lifecycle observe` for a log."""

    def observe(log: Path, *arguments: object, **options: dict[str, str]) -> Command:
        output = tmp_path / "records.jsonl"
        return start("observe", "--envoy-log", log, "--output", output, *arguments, **options)

    return observe


def test_killed_and_rotated(
    tmp_path: Path,
    engines: dict[str, Engine],
    envoy: Callable[..., Envoy],
    observer: Callable[..., Command],
) -> None:
    """Killed three times while the log is rotated under load: each request is recorded once."""
    requests = 1_500
    running = envoy("1.38")
    log = running.log
    asked = [Ask(f"r-{number}", engines["none"].address) for number in range(requests)]
    seen: dict[str, Seen] = {}
    load = threading.Thread(target=lambda: seen.update(run(running.port, asked, 16)))
    load.start()
    logs = [log]
    for number in range(1, 4):
        observing = observer(log)
        wanted = number * requests // 5
        eventually(lambda wanted=wanted: ended(*logs) > wanted)
        renamed = log.rename(log.with_name(f"access.log.{number}"))
        logs.append(renamed)
        running.reopen_logs()
        # Else it is opened again only if the load has not ended.
        seen |= run(running.port, [Ask(f"after-{number}", engines["none"].address)])
        eventually(lambda: log.exists() and log.stat().st_size > 0)
        observing.process.kill()
        observing.wait()
    load.join()
    eventually(lambda: ended(*logs) == requests + 3)
    records = observe(log, tmp_path / "records.jsonl")

    assert running.stats()["downstream_rq_completed"] == len(records) == requests + 3
    assert records.keys() == seen.keys()
    assert {record.outcome.value for record in records.values()} == {"completed"}


def test_full_disk(
    tmp_path: Path,
    engines: dict[str, Engine],
    envoy: Callable[..., Envoy],
    start: Callable[..., Command],
) -> None:
    """While records have no room, Envoy logs on: each request that it completed is recorded."""
    requests = 300
    running = envoy("1.38")
    asked = [Ask(f"r-{number}", engines["none"].address) for number in range(requests)]
    with mounted(tmp_path / "disk") as disk:
        output = disk / "records.jsonl"
        # Elsewhere: else the first line may be about the checkpoint.
        checkpoint = ("--checkpoint", tmp_path / "checkpoint")
        observing = start("observe", "--envoy-log", running.log, "--output", output, *checkpoint)
        seen = run(running.port, asked[:100], 16)
        eventually(lambda: output.exists() and list(read_records(output)))
        fill(disk / "filler")
        seen |= run(running.port, asked[100:], 16)
        assert observing.process.stderr is not None
        said = observing.process.stderr.readline()
        (disk / "filler").unlink()
        eventually(lambda: len(list(read_records(output))) == requests)
        observing.process.terminate()
        code, _, rest = observing.wait()
        records = [record.request_id for record in read_records(output)]

    assert running.stats()["downstream_rq_completed"] == len(records) == requests
    assert set(records) == seen.keys()
    assert said == (
        "otel-lifecycle: the records cannot be written: No space left on device; will keep "
        "retrying\n"
    )
    assert (code, rest.splitlines()[0]) == (0, "otel-lifecycle: observing resumed")


def test_trace(
    tmp_path: Path,
    engines: dict[str, Engine],
    envoy: Callable[..., Envoy],
    observer: Callable[..., Command],
) -> None:
    """The spans of Envoy, picker, observer and engine are of one trace, each below its caller's."""
    with Collector(GRPC) as collector:
        port = free_port()
        running = envoy("1.38", collector_port=port)
        environment = {**collector.environment, "OTEL_METRICS_EXPORTER": "none"}
        observing = observer(running.log, "--otlp", port, environment=environment)
        eventually(lambda: is_listening(port), what="the observer listens")
        send(port, export(spans()))  # of other requests: now it knows that the picker sends any
        run(running.port, [Ask("traced", engines["slow"].address)])
        traceparent = running.picker.traceparents["traced"]
        send(port, picked("traced", traceparent))
        output = tmp_path / "records.jsonl"
        eventually(lambda: output.exists() and list(read_records(output)), what="it is recorded")
        (record,) = read_records(output)
        wanted = {record.span_id, record.parent_span_id}
        eventually(lambda: wanted <= {span["span_id"] for span in collector.spans})
        observing.process.terminate()
        assert observing.wait()[0] == 0
        found = [span for span in collector.spans if span["trace_id"] == record.trace_id]
    url = f"http://{engines['slow'].address}/debug/traceparents"
    with urllib.request.urlopen(url, timeout=30) as response:
        told = json.load(response)["traceparents"]

    by_id = {span["span_id"]: span for span in found}
    assert record.parent_span_id is not None
    envoys = by_id[record.parent_span_id]
    assert envoys["resource"]["service.name"] == "envoy"
    assert traceparent == f"00-{record.trace_id}-{record.parent_span_id}-01"
    below_envoy = {each["name"] for each in found if each["parent_span_id"] == envoys["span_id"]}
    assert {"route m", "gateway.request"} <= below_envoy
    (at_engine,) = (each for each in told if each["x-request-id"] == "traced")
    assert at_engine["traceparent"].split("-")[1] == record.trace_id
    assert record.policy == "2*prefix-cache-scorer+1*queue-scorer"


def send(port: int, spans: ExportTraceServiceRequest) -> None:
    """Sends spans as a picker does."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        TraceServiceStub(channel).Export(spans, timeout=60)


def picked(request_id: str, traceparent: str) -> ExportTraceServiceRequest:
    """The spans of a real decision, as that of another request."""
    _, trace_id, parent, _ = traceparent.split("-")
    found: list[dict[str, Any]] = []
    for each in spans():
        if each["trace"] == "99c923a5ababdb843a5ae69ea661e208":
            span = {**each, "trace": trace_id, "start": time.time_ns()}
            if span["name"] == "gateway.request":
                span["parent"] = parent
            if "gen_ai.request.id" in span["attrs"]:
                span["attrs"] = {**span["attrs"], "gen_ai.request.id": request_id}
            found.append(span)
    return export(found)


def test_otlp(
    tmp_path: Path,
    engines: dict[str, Engine],
    envoy: Callable[..., Envoy],
    start: Callable[..., Command],
) -> None:
    """Envoy sends its log instead of writing it: the records are the same."""
    port, output = free_port(), tmp_path / "records.jsonl"
    observing = start("observe", "--otlp", port, "--output", output)
    eventually(lambda: is_listening(port), what="the observer listens")
    running = envoy("1.38-otlp", observer_port=port)
    asked = [Ask(f"r-{number}", engines["none"].address) for number in range(200)]
    seen = run(running.port, asked, 16)
    eventually(lambda: output.exists() and len(list(read_records(output))) == 200)
    observing.process.terminate()
    assert observing.wait()[0] == 0

    records = {record.request_id: record for record in read_records(output)}
    assert records.keys() == seen.keys()
    for name, record in records.items():
        assert record.output_length == seen[name].usage["completion_tokens"]
        assert record.candidates == 2


def is_listening(port: int) -> bool:
    """Whether somebody listens on a port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
