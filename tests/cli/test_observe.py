"""`otel-lifecycle observe`."""

from __future__ import annotations

import json
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub

from otel_lifecycle.records import Follower, RecordError, read_records
from tests.cli.command import Command
from tests.observation.entries import ENGINE, OBSERVED, end, ready, whole
from tests.observation.metrics import MetricsReceiver
from tests.observation.picked import LOG, export, spans
from tests.ports import free_port
from tests.records.shipping.collectors import GRPC, HTTP_PROTOBUF, Collector
from tests.waiting import eventually


def append(path: Path, *lines: bytes) -> None:
    """Appends lines to a log."""
    with path.open("ab") as file:
        file.write(b"".join(line + b"\n" for line in lines))


def ids(path: Path) -> list[str]:
    """The requests of a record file; every line is a record."""
    found: list[str] = []
    with Follower(path) as follower:
        for entry in follower.read():
            assert not isinstance(entry, RecordError), entry
            found.append(entry.record.request_id)
    return found


def test_printed(start: Callable[..., Command]) -> None:
    """Without a file the records go to standard output, and the end says what was seen."""
    code, output, error = start("observe", "--envoy-log", OBSERVED, "--once").wait()

    assert [json.loads(line)["requestId"] for line in output.splitlines()][:2] == ["Z-pd1", "Z-pd2"]
    assert code == 0
    assert error == (
        "otel-lifecycle: 16 records of 32 entries, 0 of them abandoned; still in flight: 0; left "
        "out: 0 not inference, 0 without an id, 0 late entries, 0 problems\n"
    )


def test_picker_log(tmp_path: Path, start: Callable[..., Command]) -> None:
    """What the log of a picker tells is in the record, also of what was in flight at a restart."""
    log, picker = tmp_path / "access.log", tmp_path / "picker.log"
    output = tmp_path / "records.jsonl"
    lines = OBSERVED.read_bytes().splitlines()
    append(log, *lines[:3])  # the second request has only begun
    picker.write_bytes(LOG.read_bytes())
    arguments = (
        "observe",
        "--envoy-log",
        log,
        "--picker-log",
        picker,
        "--output",
        output,
        "--once",
    )
    assert start(*arguments).wait()[0] == 0
    append(log, lines[3])
    assert start(*arguments).wait()[0] == 0

    found = [json.loads(line)["decision"]["picks"] for line in output.read_text().splitlines()]
    assert [[pick["role"] for pick in picks] for picks in found] == [
        ["prefill", "decode"],
        ["leader"],
    ]
    assert found[1][0]["candidates"][0]["scores"] == {
        "prefix-cache-scorer": 1.0,
        "queue-scorer": 1.0,
    }


def test_picker_spans(tmp_path: Path, start: Callable[..., Command]) -> None:
    """Spans that come after the end of their request are part of its record."""
    log, output = tmp_path / "access.log", tmp_path / "records.jsonl"
    append(log, *OBSERVED.read_bytes().splitlines()[:2])
    port = free_port()
    observing = start(
        "observe", "--envoy-log", log, "--otlp", port, "--output", output, "--picker-wait", "600"
    )
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = TraceServiceStub(channel)
        stub.Export(export(spans()[:1]), wait_for_ready=True, timeout=60)
        append(log, *OBSERVED.read_bytes().splitlines()[2:4])
        stub.Export(export(spans()), timeout=60)
    eventually(lambda: output.exists() and len(ids(output)) == 2)
    observing.process.terminate()

    assert observing.wait()[0] == 0
    assert [record.policy for record in read_records(output)][1] == (
        "2*prefix-cache-scorer+1*queue-scorer"
    )


def test_once_again(tmp_path: Path, start: Callable[..., Command]) -> None:
    """A second run goes on after the first, with the requests that were in flight."""
    log, output = tmp_path / "access.log", tmp_path / "records.jsonl"
    arguments = ("observe", "--envoy-log", log, "--output", output, "--once")
    append(log, *whole("a"), *whole("b")[:2])
    assert start(*arguments).wait()[0] == 0
    assert ids(output) == ["a"]

    append(log, *whole("b")[2:])
    code, _, error = start(*arguments).wait()
    assert ids(output) == ["a", "b"]
    assert code == 0
    assert "1 record of 2 entries" in error
    assert [record.dispatch_inflight is not None for record in read_records(output)] == [True, True]
    assert output.stat().st_mode & 0o777 == 0o600


def test_bad_lines(tmp_path: Path, start: Callable[..., Command]) -> None:
    """Each line that is no entry is named and counted, and the others are recorded."""
    log = tmp_path / "access.log"
    append(
        log, b"GET / 200", *whole("a"), b"{}", b"x" * (2 << 20), end("b", t="yesterday"), end("c")
    )
    with log.open("ab") as file:
        file.write(b'{"type":"Downstr')
    output = tmp_path / "records.jsonl"
    code, _, error = start("observe", "--envoy-log", log, "--output", output, "--once").wait()

    assert ids(output) == ["a", "c"]
    assert code == 1
    *problems, summary = error.splitlines()
    assert [problem.split(": ")[1] for problem in problems] == [
        f"{log}:{number}" for number in (1, 6, 7, 8, 10)
    ]
    assert summary.endswith("4 problems")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--output", "{folder}/none/records.jsonl"),
        ("--output", "{folder}/none/records.jsonl", "--checkpoint", "{folder}/none/c"),
        ("--output", "{folder}"),
        ("--output", "{folder}/foreign.jsonl"),
        ("--output", "{folder}/records.jsonl", "--checkpoint", "{folder}/foreign.jsonl"),
        ("--endpoints", "{folder}/foreign.jsonl"),
        ("--endpoints", "{folder}/none"),
        ("--envoy-log", "{folder}/none"),
        ("--picker-log", "{folder}/none"),
        ("--abandon-after", "0"),
    ],
)
def test_wrong_usage(
    tmp_path: Path, start: Callable[..., Command], arguments: tuple[str, ...]
) -> None:
    """What cannot work is said in one line, and nothing is written."""
    foreign = tmp_path / "foreign.jsonl"
    foreign.write_text("not ours\n")
    given = [each.format(folder=tmp_path) for each in arguments]
    code, output, error = start("observe", "--envoy-log", OBSERVED, "--once", *given).wait()

    assert (code, output, error.count("\n"), ".lock" in error) == (2, "", 1, False)
    assert foreign.read_text() == "not ours\n"


def test_two_observers(tmp_path: Path, start: Callable[..., Command]) -> None:
    """A checkpoint has one user, and belongs to one log."""
    output = tmp_path / "records.jsonl"
    arguments = ("--output", output, "--checkpoint", tmp_path / "c")
    running = start("observe", "--envoy-log", OBSERVED, *arguments)
    eventually(lambda: len(ids(output)) == 16)
    code, _, error = start("observe", "--envoy-log", OBSERVED, "--once", *arguments).wait()
    assert (code, "another process" in error) == (2, True)

    running.process.send_signal(signal.SIGTERM)
    assert running.wait()[0] == 0
    other = tmp_path / "x"
    other.touch()
    code, _, error = start("observe", "--envoy-log", other, "--once", *arguments).wait()
    assert (code, "the checkpoint covers" in error) == (2, True)


def test_killed_again_and_again(tmp_path: Path, start: Callable[..., Command]) -> None:
    """Killed at any point and started again: each request once, through rotation."""
    log, output = tmp_path / "access.log", tmp_path / "records.jsonl"
    expected: list[str] = []
    for round_number in range(6):
        observer = start("observe", "--envoy-log", log, "--output", output)
        for number in range(400):
            name = f"{round_number}-{number}"
            expected.append(name)
            append(log, *whole(name))
            if number == 200 and round_number % 2:
                log.rename(log.with_name(f"access.log.{round_number}"))
        wanted = len(expected) - 300  # in the middle of its work
        eventually(lambda wanted=wanted: len(ids(output)) >= wanted)
        observer.process.kill()
        observer.wait()
    code, _, error = start("observe", "--envoy-log", log, "--output", output, "--once").wait()

    assert (code, error.count("problems"), sorted(ids(output))) == (0, 1, sorted(expected))


def test_full_disk(tmp_path: Path, start: Callable[..., Command]) -> None:
    """What cannot be written is not lost: the observer says so, and waits."""
    log, output = tmp_path / "access.log", tmp_path / "records.jsonl"
    observer = start("observe", "--envoy-log", log, "--output", output)
    append(log, *whole("a"))
    eventually(lambda: ids(output) == ["a"])
    limit = output.stat().st_size + 1_000
    resource.prlimit(observer.process.pid, resource.RLIMIT_FSIZE, (limit, -1))
    append(log, *whole("b"), *whole("c"))
    assert observer.process.stderr is not None
    assert "the records cannot be written" in observer.process.stderr.readline()
    assert ids(output) == ["a"]
    resource.prlimit(observer.process.pid, resource.RLIMIT_FSIZE, (-1, -1))
    eventually(lambda: ids(output) == ["a", "b", "c"])

    observer.process.send_signal(signal.SIGINT)
    assert observer.wait()[0] == 0


@pytest.mark.parametrize("protocol", [GRPC, HTTP_PROTOBUF])
def test_spans_and_metrics(tmp_path: Path, start: Callable[..., Command], protocol: str) -> None:
    """Each record is a span as well, a child of Envoy's; those not sampled are left out."""
    output = tmp_path / "records.jsonl"
    with Collector(protocol) as collector:
        environment = {**collector.environment, "OTEL_METRICS_EXPORTER": "none"}
        code, _, error = start(
            *("observe", "--envoy-log", OBSERVED, "--output", output, "--once"),
            environment=environment,
        ).wait()

        assert sorted(collector.request_ids) == sorted(set(ids(output)) - {"Z-tps0"})
        assert (code, "15 spans sent, 0 refused" in error) == (0, True)
        code, _, error = start(
            *("observe", "--envoy-log", OBSERVED, "--output", output, "--once"),
            environment=environment,
        ).wait()
        assert (code, len(collector.request_ids)) == (0, 15)
    (span,) = (
        each for each in collector.spans if each["name"] == "route m" and "Z-ok" in str(each)
    )
    assert span["attributes"]["llm_router.route.leader.id"] == "addr://127.0.0.1:9101"


def test_gauges_and_histograms(tmp_path: Path, start: Callable[..., Command]) -> None:
    """The load of each endpoint while requests are in flight, and the latencies of the others."""
    log, output = tmp_path / "access.log", tmp_path / "records.jsonl"
    other = "10.0.0.2:8000"
    append(log, *whole("a"), *whole("b")[:2], *whole("c")[:2])
    append(log, whole("d")[0], ready("d", ep=other))
    load = "llm_router.inflight.requests"
    with MetricsReceiver() as receiver:
        observing = start(
            *("observe", "--envoy-log", log, "--output", output),
            environment={
                "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": f"http://127.0.0.1:{receiver.port}",
                "OTEL_METRIC_EXPORT_INTERVAL": "200",
            },
        )
        both = {f"addr://{ENGINE}": 2.0, f"addr://{other}": 1.0}
        eventually(lambda: receiver.gauge(load) == both, what="the load is exported")
        append(log, *whole("b")[2:], *whole("c")[2:])
        eventually(lambda: receiver.gauge(load) == {**both, f"addr://{ENGINE}": 0.0})
        observing.process.terminate()
        assert observing.wait()[0] == 0

        counts = {
            name: receiver.counts(name)
            for name in ("gen_ai.server.request.duration", "gen_ai.server.time_to_first_token")
        }
    assert list(counts.values()) == [3, 3]


def test_endpoints_file(tmp_path: Path, start: Callable[..., Command]) -> None:
    """Names, namespaces and pods of the endpoints come from the picker's own file."""
    named = tmp_path / "endpoints.json"
    endpoint = {"address": "127.0.0.1", "port": 9101, "name": "d0", "namespace": "ns"}
    named.write_text(json.dumps({"endpoints": [{**endpoint, "podName": "pod-0"}]}))
    output = tmp_path / "records.jsonl"
    arguments = ("--endpoints", named, "--output", output, "--once")
    assert start("observe", "--envoy-log", OBSERVED, *arguments).wait()[0] == 0
    record = next(iter(read_records(output)))

    assert record.tracked_endpoints == ["addr://127.0.0.1:9107", "pod://ns/pod-0"]
    assert record.selected_route is not None
    assert record.selected_route.leader.name == "d0"


@pytest.mark.parametrize("address", ["", "x", "0", "70000", "host:"])
def test_wrong_addresses(start: Callable[..., Command], address: str) -> None:
    """An address that is none is refused in one line; OTLP has no end to wait for."""
    code, _, error = start("observe", "--otlp", address).wait()
    assert (code, error.count("\n")) == (2, 1)


def test_one_source(start: Callable[..., Command]) -> None:
    """The log is a file or comes over OTLP, which has no end."""
    for arguments in ((), ("--picker-log", LOG), ("--otlp", 4319, "--once")):
        code, _, error = start("observe", *arguments).wait()
        assert (code, error.count("\n")) == (2, 1)


def test_killed_before_it_saved_anything(tmp_path: Path, start: Callable[..., Command]) -> None:
    """Records that were written just before a crash are not written again, even the first."""
    log, output = tmp_path / "access.log", tmp_path / "records.jsonl"
    arguments = ("observe", "--envoy-log", log, "--output", output, "--once")
    log.touch()
    assert start(*arguments).wait()[0] == 0
    checkpoint = tmp_path / "records.jsonl.observe"
    at_start = checkpoint.read_bytes()
    append(log, *whole("a"), *whole("b"))
    assert start(*arguments).wait()[0] == 0
    checkpoint.write_bytes(at_start)
    append(log, *whole("c"))
    assert start(*arguments).wait()[0] == 0

    assert ids(output) == ["a", "b", "c"]


def test_rotated_records(tmp_path: Path, start: Callable[..., Command]) -> None:
    """The record file is rotated as a tracker's, and each request is in it once."""
    log, output = tmp_path / "access.log", tmp_path / "records.jsonl"
    environment = {
        "OTEL_LIFECYCLE_PERSISTENCE_ROTATE_BYTES": "20000",
        "OTEL_LIFECYCLE_PERSISTENCE_COMPRESSION": "gzip",
    }
    for part in range(3):
        append(log, *(line for number in range(30) for line in whole(f"{part}-{number}")))
        observer = start("observe", "--envoy-log", log, "--output", output, environment=environment)
        eventually(lambda part=part: len(ids(output)) >= 30 * part + 1)
        observer.process.kill()
        observer.wait()
    arguments = ("observe", "--envoy-log", log, "--output", output, "--once")
    assert start(*arguments, environment=environment).wait()[0] == 0

    assert len(list(tmp_path.glob("records.*.jsonl*"))) >= 5
    assert sorted(ids(output)) == sorted(f"{part}-{n}" for part in range(3) for n in range(30))
