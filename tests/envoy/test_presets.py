"""Every preset with the Envoy it is for: each request is recorded as its client saw it."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from otel_lifecycle.model.record import LifecycleRecord
from otel_lifecycle.model.slo import RecordedSLO, RecordedTarget
from tests.envoy.clients import Ask, Seen, run
from tests.envoy.observing import observe, settle, unix_ns
from tests.envoy.programs import VERSIONS, Engine, Envoy
from tests.ports import free_port

pytestmark = pytest.mark.envoy

PRESETS = [f"{version}{kind}" for version in VERSIONS for kind in ("", "-reporter")]
REQUESTS = int(os.environ.get("ENVOY_REQUESTS", "220"))

_numbers = itertools.count()  # engines serve all tests: each request has another name
_RESET, _REFUSED = "upstream_reset_after_response_started", "upstream_reset_before_response_started"
# What each kind of request ends with: status, outcome and error.
_ENDS: dict[str, tuple[int, str, str | None]] = {
    "stream": (200, "completed", None),
    "whole": (200, "completed", None),
    "pair": (200, "completed", None),
    "failing": (500, "error", "http_500"),
    "dropping": (200, "error", _RESET),
    "truncating": (200, "completed", None),
    "hanging": (0, "client_disconnect", None),
    "leaving": (200, "client_disconnect", None),
    "saturated": (429, "rejected", "saturated"),
    "malformed": (400, "rejected", "http_400"),
    "unreachable": (503, "error", _REFUSED),
}


def asks(engines: dict[str, Engine], requests: int) -> list[Ask]:
    """Requests of all kinds."""
    engine = engines["none"].address
    nowhere = f"127.0.0.1:{free_port()}"
    kinds: dict[str, Callable[[str], Ask]] = {
        "stream": lambda name: Ask(name, engine),
        "whole": lambda name: Ask(name, engine, stream=False),
        "pair": lambda name: Ask(name, engine, prefill=engines["slow"].address),
        "failing": lambda name: Ask(name, engines["http_500"].address),
        "dropping": lambda name: Ask(name, engines["drop_mid_stream"].address, tokens=9),
        "truncating": lambda name: Ask(name, engines["truncate"].address, tokens=9),
        "hanging": lambda name: Ask(name, engines["hang"].address, leave=0),
        "leaving": lambda name: Ask(name, engines["slow"].address, tokens=4_096, leave=2),
        "saturated": lambda name: Ask(name, engine, refusal=429),
        "malformed": lambda name: Ask(name, engine, content=b'{"model":'),
        "unreachable": lambda name: Ask(name, nowhere),
    }
    names = list(kinds)
    return [
        kinds[names[number % len(names)]](f"{names[number % len(names)]}-{next(_numbers)}")
        for number in range(requests)
    ]


@pytest.mark.parametrize("preset", PRESETS)
def test_each_request(
    preset: str, tmp_path: Path, engines: dict[str, Engine], envoy: Callable[..., Envoy]
) -> None:
    """As many records as requests, each with what engine and client know of it."""
    running = envoy(preset)
    asked = asks(engines, REQUESTS)
    seen = run(running.port, asked)
    settle(running, REQUESTS)
    records = observe(running.log, tmp_path / "records.jsonl")

    answered = sum(each.status > 0 for each in seen.values())
    assert running.stats()["downstream_rq_completed"] == answered
    assert records.keys() == seen.keys()
    for ask in asked:
        check(preset, ask, seen[ask.name], records[ask.name], engines)


def check(
    preset: str, ask: Ask, seen: Seen, record: LifecycleRecord, engines: dict[str, Engine]
) -> None:
    """Compares a record with what its client saw."""
    kind = ask.name.partition("-")[0]
    status, outcome, error = _ENDS[kind]
    if kind == "truncating" and preset in ("1.36", "1.37"):
        outcome, error = "error", "stream_truncated"
    if kind == "dropping" and seen.status == 502:  # Envoy saw it before it had sent anything
        status = 502
    assert (seen.status, record.outcome.value) == (status, outcome), (seen, record)
    assert (record.error and record.error.type) == error
    assert record.operation == "text_completion"
    usage = seen.usage
    assert record.output_length == usage.get("completion_tokens")
    if usage:
        assert record.input_token_length == usage["prompt_tokens"]
        assert record.cached_tokens == usage["prompt_tokens_details"]["cached_tokens"]
    assert record.received_at is not None
    times = [seen.sent_ns, unix_ns(record.received_at), unix_ns(record.started_at)]
    if outcome == "rejected":
        assert record.selected_route is record.actual.queue_ms is None
    else:
        assert record.selected_endpoint == f"addr://{ask.endpoint}"
        assert record.dispatch_inflight is not None or kind == "unreachable"
        assert record.candidates == 2
        assert record.streaming is ask.stream
    if kind in ("stream", "pair", "whole"):
        assert seen.first_ns is not None
        times += [unix_ns(record.first_byte_at), seen.first_ns]
        assert record.served_endpoint == record.selected_endpoint
        assert record.model == "m"
    if kind == "pair":
        prefill = f"addr://{engines['slow'].address}"
        assert record.tracked_endpoints == [prefill, f"addr://{ask.endpoint}"]
    assert times == sorted(times)
    assert (record.actual.ttft_ms is not None) == (kind in _WITH_OUTPUT and status == 200)
    assert record.completed_at is not None
    assert unix_ns(record.completed_at) >= times[2]


_WITH_OUTPUT = ("stream", "pair", "dropping", "truncating", "leaving")


@pytest.mark.parametrize("preset", ["1.38", "1.36"])
def test_retries(
    preset: str, tmp_path: Path, engines: dict[str, Engine], envoy: Callable[..., Envoy]
) -> None:
    """Each attempt of Envoy is a leg, and the request begins with the first."""
    running = envoy(preset, retries=2)
    run(running.port, [Ask("retried", engines["http_500"].address)])
    settle(running, 1)
    record = observe(running.log, tmp_path / "records.jsonl")["retried"]

    assert (record.attempt, record.error and record.error.type) == (3, "http_500")
    assert isinstance(record.legs, tuple)
    assert [(leg.role.value, leg.outcome and leg.outcome.value) for leg in record.legs] == [
        ("leader", "error")
    ] * 3
    times = [record.started_at]
    for leg in record.legs:
        assert leg.ended_at is not None
        times += [leg.started_at, leg.ended_at]
    assert times == sorted(times)


def test_choice_in_metadata(
    tmp_path: Path, engines: dict[str, Engine], envoy: Callable[..., Envoy]
) -> None:
    """A picker that says its choice in metadata alone is understood too."""
    running = envoy("1.38", by_header=False)
    run(running.port, [Ask("told", engines["none"].address)])
    settle(running, 1)
    record = observe(running.log, tmp_path / "records.jsonl")["told"]

    assert record.selected_endpoint == f"addr://{engines['none'].address}"
    assert record.dispatch_inflight is not None


def test_headers(
    tmp_path: Path,
    engines: dict[str, Engine],
    envoy: Callable[..., Envoy],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Headers that are added to the log, and named in the settings, are labels and targets."""
    read = {"x-tenant-id": "%REQ(X-TENANT-ID)%", "x-slo-ttft-ms": "%REQ(X-SLO-TTFT-MS)%"}

    def log_headers(http: dict[str, Any]) -> None:
        for log in http["access_log"]:
            log["typed_config"]["log_format"]["json_format"]["headers"] = read

    running = envoy("1.38", change=log_headers)
    headers = {"x-tenant-id": "acme", "x-slo-ttft-ms": "60000"}
    engine = engines["none"].address
    run(running.port, [Ask("said", engine, more_headers=headers), Ask("silent", engine)])
    settle(running, 2)
    monkeypatch.setenv("OTEL_LIFECYCLE_LABELS", "tenant=x-tenant-id;plain")
    monkeypatch.setenv("OTEL_LIFECYCLE_SLO", "ttft=x-slo-ttft-ms")
    records = observe(running.log, tmp_path / "records.jsonl")

    assert records["said"].labels == {"tenant": "acme"}
    assert isinstance(records["said"].slo, RecordedSLO)
    assert records["said"].slo.ttft == RecordedTarget(60_000.0, met=True)
    assert records["silent"].labels is records["silent"].slo is msgspec.UNSET
