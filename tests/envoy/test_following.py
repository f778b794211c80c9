"""Following the log of an Envoy under load: kills, rotation, and the traces that come of it."""

from __future__ import annotations

import json
import socket
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from otel_lifecycle.records import read_records
from tests.cli.command import Command
from tests.envoy.clients import Ask, Seen, run
from tests.envoy.observing import ended, observe, settle
from tests.envoy.programs import Engine, Envoy, free_port
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
        eventually(lambda: log.exists() and log.stat().st_size > 0)
        observing.process.kill()
        observing.wait()
    load.join()
    eventually(lambda: ended(*logs) == requests)
    records = observe(log, tmp_path / "records.jsonl")

    assert running.stats()["downstream_rq_completed"] == requests
    assert records.keys() == seen.keys()
    assert {record.outcome.value for record in records.values()} == {"completed"}


def test_trace(
    tmp_path: Path,
    engines: dict[str, Engine],
    envoy: Callable[..., Envoy],
    observer: Callable[..., Command],
) -> None:
    """Envoy's span, ours and the engine's are of one trace, and ours is a child of Envoy's."""
    with Collector(GRPC) as collector:
        port = int(collector.environment["OTEL_EXPORTER_OTLP_ENDPOINT"].rpartition(":")[2])
        running = envoy("1.38", collector_port=port)
        run(running.port, [Ask("traced", engines["other"].address)])
        settle(running, 1)
        environment = {**collector.environment, "OTEL_METRICS_EXPORTER": "none"}
        code, _, error = observer(running.log, "--once", environment=environment).wait()
        assert code == 0, error
        (record,) = read_records(tmp_path / "records.jsonl")
        wanted = {record.span_id, record.parent_span_id}
        eventually(lambda: wanted <= {span["span_id"] for span in collector.spans})
        spans = {span["span_id"]: span for span in collector.spans}
    url = f"http://{engines['other'].address}/debug/traceparents"
    with urllib.request.urlopen(url, timeout=30) as response:
        told = json.load(response)["traceparents"]

    assert record.parent_span_id is not None
    envoys = spans[record.parent_span_id]
    assert envoys["resource"]["service.name"] == "envoy"
    assert envoys["trace_id"] == record.trace_id
    (at_engine,) = (each for each in told if each["x-request-id"] == "traced")
    assert at_engine["traceparent"].split("-")[1] == record.trace_id


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
