"""Observing a log to its end."""

from __future__ import annotations

from pathlib import Path

from otel_lifecycle.cli import main
from otel_lifecycle.model.record import LifecycleRecord
from otel_lifecycle.model.timestamps import parse_timestamp
from otel_lifecycle.records import read_records
from tests.envoy.programs import Envoy
from tests.waiting import eventually


def settle(envoy: Envoy, requests: int) -> None:
    """Waits until Envoy has ended so many requests, and logged them."""
    eventually(lambda: ended(envoy.log) >= requests, what="all are in the log")
    assert envoy.stats()["downstream_rq_total"] == requests


def ended(*logs: Path) -> int:
    """How many requests have ended, as the whole lines of the logs say."""
    lines = [line for log in logs for line in log.read_bytes().splitlines(keepends=True)]
    return sum(b'"type":"DownstreamEnd"' in line and line.endswith(b"\n") for line in lines)


def observe(log: Path, output: Path) -> dict[str, LifecycleRecord]:
    """The records of a log, by request; each is there once."""
    arguments = ["observe", "--envoy-log", str(log), "--output", str(output), "--once"]
    assert main(arguments) == 0
    records = list(read_records(output))
    found = {record.request_id: record for record in records}
    assert len(found) == len(records)
    return found


def unix_ns(moment: str | None) -> int:
    """A moment of a record."""
    assert moment is not None
    return parse_timestamp(moment)
