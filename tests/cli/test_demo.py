"""The whole demo, as a user runs it."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest
from demo.otlp_receiver import OTLPReceiver

import otel_lifecycle
from otel_lifecycle import Outcome, read_records
from tests.cli.command import Command
from tests.waiting import eventually

ROOT = Path(otel_lifecycle.__file__).parents[1]
TRACE = Path(
    os.environ.get("OTEL_LIFECYCLE_TRACE")
    or ROOT / "../shared/data/mooncake_conversation_trace.jsonl"
)

Start: TypeAlias = Callable[..., Command]

TRACE_REQUESTS = 1_000


def facts(output: str) -> dict[str, str]:
    """The lines at the end of a demo, by their first word."""
    names = "clients|records|spans|in flight|report"
    return {
        match[1]: match[2].strip() for match in re.finditer(rf"^({names}) +(.*)$", output, re.M)
    }


def assert_agrees(output: str, folder: Path, requests: int, endpoints: int) -> None:
    """One answer, one record and one span for each request, and nothing in flight."""
    records = list(read_records(folder / "records.jsonl"))
    told = facts(output)
    assert told["clients"].startswith(f"{requests:,} requests: ")
    assert told["records"] == f"{requests:,} in {folder}/records.jsonl"
    assert told["spans"] == f"{requests:,} exported, those of the records"
    assert re.match(rf"gauges of {endpoints} endpoints? back at 0; ", told["in flight"])
    assert len(records) == requests
    assert len({record.request_id for record in records}) == requests
    assert len({record.span_id for record in records}) == requests


def test_pd(start: Start, tmp_path: Path) -> None:
    """Requests, records and spans agree, nothing stays in flight, and no process is left."""
    command = start("demo", "--requests", "40", "--output", tmp_path)

    code, output, error = command.wait()

    assert (code, error, command.children()) == (0, "", {})
    assert_agrees(output, tmp_path, 40, endpoints=5)
    routes = [record.selected_route for record in read_records(tmp_path / "records.jsonl")]
    assert all(route is not None and route.prefill and route.decode for route in routes)
    assert "decode-1 crashes" in output
    assert f"otel-lifecycle top {tmp_path}" in output


@pytest.mark.slow
def test_leaves_only_the_page(start: Start, tmp_path: Path) -> None:
    """Without a folder to keep things in, the page is all that is left; a slow machine is told."""
    command = start(
        *("demo", "--requests", "1500", "--speed", "100000"),
        *("--mode", "aggregated", "--engines", "1"),
        environment={"TMPDIR": str(tmp_path)},
    )

    code, output, error = command.wait()

    (page,) = tmp_path.iterdir()
    assert (code, error) == (0, "")
    assert page.read_text().startswith("<!doctype html>")
    assert str(page) in "".join(output.split())
    assert "this machine cannot keep up" in " ".join(output.split())
    shown = (ROOT / "README.md").read_text("utf-8").partition("$ make demo\nrequests ")[2]
    assert set(facts(output)) == {"clients", "records", "spans", "in flight"} <= set(facts(shown))


@pytest.mark.slow
def test_aggregated(start: Start, tmp_path: Path) -> None:
    """One engine serves everything; it is not killed, as no other could replace it."""
    command = start(
        *("demo", "--requests", "20", "--speed", "2"),
        *("--mode", "aggregated", "--engines", "1", "--output", tmp_path),
    )

    code, output, error = command.wait()

    assert (code, error, command.children()) == (0, "", {})
    assert_agrees(output, tmp_path, 20, endpoints=1)
    assert "crashes" not in output


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGINT, 130),
        pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, 129, marks=pytest.mark.slow),
    ],
)
def test_stopped_on_the_way(
    start: Start, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    """A signal ends everything, with one line that names the place of the records."""
    command = start("demo", "--mode", "aggregated", "--engines", "2", "--output", tmp_path)
    wait_for_records(tmp_path)

    command.process.send_signal(number)
    result = command.wait()

    assert (result[0], result[2], command.children()) == (
        code,
        f"otel-lifecycle: stopped by {number.name}; records and logs: {tmp_path}\n",
        {},
    )
    assert list(read_records(tmp_path / "records.jsonl"))


def test_router_dies(start: Start, tmp_path: Path) -> None:
    """A process that dies early is named, and the others are stopped."""
    command = start("demo", "--mode", "aggregated", "--engines", "2", "--output", tmp_path)
    wait_for_records(tmp_path)
    (router,) = [pid for name, pid in command.children().items() if "-m hermes_router" in name]

    os.kill(router, signal.SIGKILL)
    code, _, error = command.wait()

    assert (code, command.children()) == (1, {})
    assert re.fullmatch(r"otel-lifecycle: router was killed by SIGKILL: .*/router\.log\)\n", error)


def test_router_cannot_start(start: Start, tmp_path: Path) -> None:
    """A process that cannot start is named, with its last output."""
    environment = {"PYTHONWARNINGS": "error", "PYTHONPATH": str(tmp_path)}
    (tmp_path / "uvicorn.py").write_text("raise RuntimeError('no server here')")

    command = start("demo", "--output", tmp_path / "output", environment=environment)
    code, _, error = command.wait()

    assert (code, command.children()) == (1, {})
    # All engines fail; which of them does so first is chance.
    assert re.match(r"otel-lifecycle: (leader|prefill|decode)-\d exited with 1: ", error)
    assert "RuntimeError: no server here" in error
    assert error.count("\n") == 1


@pytest.mark.slow
def test_own_collector(start: Start, tmp_path: Path) -> None:
    """With the user's endpoint, spans and gauges go only there."""
    with OTLPReceiver() as collector:
        environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_SERVICE_NAME": "mine",
        }
        code, output, _ = start(
            *("demo", "--requests", "20", "--speed", "2"),
            *("--mode", "aggregated", "--engines", "1", "--output", tmp_path),
            environment=environment,
        ).wait()
        spans = collector.spans("otel_lifecycle")
        peak = collector.peak("llm_router.inflight.requests")

    records = list(read_records(tmp_path / "records.jsonl"))
    assert code == 0
    assert facts(output)["spans"] == "exported as OTEL_EXPORTER_OTLP_* configure, not counted here"
    assert sorted(span.span_id.hex() for span in spans) == sorted(
        str(record.span_id) for record in records
    )
    assert {record.resource["service.name"] for record in records} == {"mine"}
    assert len(peak) == 1


@pytest.mark.slow
@pytest.mark.skipif(not TRACE.exists(), reason=f"no Mooncake trace at {TRACE}")
@pytest.mark.parametrize(("mode", "endpoints", "speed"), [("pd", 5, 8), ("aggregated", 4, 10)])
def test_mooncake_trace(
    start: Start, tmp_path: Path, mode: str, endpoints: int, speed: int
) -> None:
    """A thousand requests of a real trace: each has one answer, one span and one record."""
    command = start(
        *("demo", "--mode", mode, "--requests", str(TRACE_REQUESTS)),
        *("--trace", TRACE, "--speed", str(speed), "--output", tmp_path),
    )

    code, output, error = command.wait()

    assert (code, error, command.children()) == (0, "", {})
    assert_agrees(output, tmp_path, TRACE_REQUESTS, endpoints)
    records = list(read_records(tmp_path / "records.jsonl"))
    assert {record.request_id for record in records} == {
        f"trace-{number}" for number in range(1, TRACE_REQUESTS + 1)
    }
    complete = sum(record.outcome is Outcome.COMPLETED for record in records)
    assert f"{complete:,} complete" in facts(output)["clients"]


def wait_for_records(folder: Path) -> None:
    """Waits until a demo has written its first record."""
    records = folder / "records.jsonl"
    eventually(lambda: records.exists() and records.stat().st_size, what="a record is written")
