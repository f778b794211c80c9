"""`read_table` and `Records`: the two tables, for any content of the files."""

from __future__ import annotations

import gzip
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pytest

from otel_lifecycle import EndpointMetrics, Load, NPUState, read_records
from otel_lifecycle.analysis.tables import QueryError, Records, read_table
from otel_lifecycle.model.decision import Decision, Pick, RecordedCandidate
from otel_lifecycle.model.features import MissingFeature, MissingReason, PredictionInput
from otel_lifecycle.model.record import ErrorInfo, RecordedLeg, Reroute
from otel_lifecycle.model.request import LegOutcome, LegRole, Outcome
from otel_lifecycle.model.route import EndpointSnapshot, RouteSnapshot
from otel_lifecycle.records import RecordError
from tests.cli.records import aggregated, disaggregated, record, timestamp, write
from tests.wording import NOT_AN_OBJECT

MOMENT = datetime(2026, 9, 21, 14, 13, 20, 500_000, timezone.utc)
FULL = record(
    "full",
    RouteSnapshot(
        leader=EndpointSnapshot(id="pod://llm/leader"),
        prefill=EndpointSnapshot(
            id="pod://llm/prefill",
            address="10.0.0.1",
            port="8000",
            metrics=EndpointMetrics(
                running_requests=3,
                waiting_requests=2,
                kv_cache_usage=0.25,
                active_models={"adapter": 1},
                update_time=MOMENT,
            ),
            inflight=Load(tokens=700, requests=2),
            npu=NPUState(data_status="fresh", device_count=2, ai_core_utilization_avg=12.5),
        ),
        decode=EndpointSnapshot(id="pod://llm/decode", name="rank-1"),
    ),
    500,
    ttft_ms=100,
    tpot_ms=2.5,
    e2e_ms=200,
    predicted=(90.0, None),
    model="qwen",
    input_token_length=1_000,
    output_length=41,
    rerouted=[Reroute(timestamp(600), "a", "b", "retry")],
    decision=Decision(
        "prefix_match",
        1,
        [
            Pick(
                "prefill",
                2,
                -0.5,
                7.5,
                [RecordedCandidate("a", score=1.5, scores={"load": 1.5}, inflight=Load(7, 1))],
            ),
            Pick("decode"),
        ],
    ),
    legs=(
        RecordedLeg(LegRole.PREFILL, "a", timestamp(500), timestamp(510), LegOutcome.ERROR),
        RecordedLeg(LegRole.PREFILL, "b", timestamp(520)),
    ),
    prediction_inputs=[
        PredictionInput(pod_type="prefill", input_token_length=1_000, kv_cache_usage=0.25),
        PredictionInput(pod_type="decode", input_token_length=1_000),
    ],
    missing_feature_reasons=[
        MissingFeature("decode", "kvCacheUsage", MissingReason.METRICS_MISSING)
    ],
    resource={"service.name": "router"},
)


def rows(path: Path, **options: Any) -> list[dict[str, Any]]:
    """Return a table as a list of rows."""
    return read_table(path, **options).to_pylist()


def test_request(tmp_path: Path) -> None:
    """A request is one row, its nested values are columns, and unknown values are null."""
    (row,) = rows(write(tmp_path / "records.jsonl", FULL))

    known = {name: value for name, value in row.items() if value is not None}
    assert known == {
        "request_id": "full",
        "model": "qwen",
        "operation": "",
        "provider": "",
        "outcome": "completed",
        "streaming": True,
        "started_at": MOMENT,
        "first_chunk_at": MOMENT.replace(microsecond=600_000),
        "completed_at": MOMENT.replace(microsecond=700_000),
        "input_token_length": 1_000,
        "input_token_source": "unknown",
        "output_length": 41,
        "selected_endpoint": "",
        "tracked_endpoints": [],
        "policy": "",
        "attempt": 1,
        "decision_reason": "prefix_match",
        "decision_filtered": 1,
        "decision_role": ["prefill", "decode"],
        "decision_chosen_rank": [2, None],
        "decision_margin": [-0.5, None],
        "decision_regret_ms": [7.5, None],
        "decision_candidates_id": [["a"], []],
        "decision_candidates_name": [[None], []],
        "decision_candidates_score": [[1.5], []],
        "decision_candidates_scores": [['{"load":1.5}'], []],
        "decision_candidates_prefix_cache_score": [[None], []],
        "decision_candidates_prediction_ttft_ms": [[None], []],
        "decision_candidates_prediction_tpot_ms": [[None], []],
        "decision_candidates_inflight_tokens": [[7], []],
        "decision_candidates_inflight_requests": [[1], []],
        "decision_candidates_waiting": [[None], []],
        "decision_candidates_kv_cache_usage": [[None], []],
        "rerouted_decision": [None],
        "rerouted_at": [MOMENT.replace(microsecond=600_000)],
        "rerouted_from_endpoint": ["a"],
        "rerouted_to_endpoint": ["b"],
        "rerouted_reason": ["retry"],
        "legs_role": ["prefill", "prefill"],
        "legs_endpoint": ["a", "b"],
        "legs_started_at": [MOMENT, MOMENT.replace(microsecond=520_000)],
        "legs_ended_at": [MOMENT.replace(microsecond=510_000), None],
        "legs_outcome": ["error", None],
        "prediction_ttft_ms": 90.0,
        "prediction_mode": "",
        "missing_feature_reasons_pod_type": ["decode"],
        "missing_feature_reasons_feature": ["kvCacheUsage"],
        "missing_feature_reasons_reason": ["metrics_missing"],
        "leader_id": "pod://llm/leader",
        "prefill_id": "pod://llm/prefill",
        "prefill_address": "10.0.0.1",
        "prefill_port": "8000",
        "prefill_running_requests": 3,
        "prefill_waiting_requests": 2,
        "prefill_kv_cache_usage": 0.25,
        "prefill_update_time": MOMENT,
        "prefill_inflight_tokens": 700,
        "prefill_inflight_requests": 2,
        "prefill_npu_data_status": "fresh",
        "prefill_npu_device_count": 2,
        "prefill_npu_ai_core_utilization_avg": 12.5,
        "decode_id": "pod://llm/decode",
        "decode_name": "rank-1",
        "route_mismatch": False,
        "endpoint_deleted": [],
        "ttft_ms": 100.0,
        "tpot_ms": 2.5,
        "e2e_ms": 200.0,
        "trace_state": "",
        "service_name": "router",
    }


def test_endpoints(tmp_path: Path) -> None:
    """Each endpoint that carried a request is one row, with its features."""
    found = rows(write(tmp_path / "records.jsonl", FULL), rows="endpoints")

    assert [{name: value for name, value in row.items() if value is not None} for row in found] == [
        {
            "request_id": "full",
            "started_at": MOMENT,
            "model": "qwen",
            "role": "prefill",
            "id": "pod://llm/prefill",
            "address": "10.0.0.1",
            "port": "8000",
            "running_requests": 3,
            "waiting_requests": 2,
            "kv_cache_usage": 0.25,
            "update_time": MOMENT,
            "inflight_tokens": 700,
            "inflight_requests": 2,
            "npu_data_status": "fresh",
            "npu_device_count": 2,
            "npu_ai_core_utilization_avg": 12.5,
            "feature_pod_type": "prefill",
            "feature_input_token_length": 1_000,
            "feature_kv_cache_usage": 0.25,
        },
        {
            "request_id": "full",
            "started_at": MOMENT,
            "model": "qwen",
            "role": "decode",
            "id": "pod://llm/decode",
            "name": "rank-1",
            "feature_pod_type": "decode",
            "feature_input_token_length": 1_000,
        },
    ]


@pytest.mark.parametrize(
    ("route", "roles"),
    [
        (aggregated("solo"), ["leader"]),
        (disaggregated("prefill", "decode"), ["prefill", "decode"]),
        (disaggregated("both", "both"), ["prefill"]),
        (RouteSnapshot(EndpointSnapshot("pod://a/b"), EndpointSnapshot("pod://a/b")), ["prefill"]),
        (None, []),
    ],
    ids=["aggregated", "pair", "the same twice", "prefill alone", "none"],
)
def test_roles(tmp_path: Path, route: RouteSnapshot | None, roles: list[str]) -> None:
    """Each row is an endpoint that carried the request, as for its load."""
    path = write(tmp_path / "records.jsonl", record("a", route, 0, e2e_ms=1))

    assert [row["role"] for row in rows(path, rows="endpoints")] == roles


def test_types_without_values(tmp_path: Path) -> None:
    """A column has its type even if it is null in every row, or there are no rows."""
    some = read_table(write(tmp_path / "some.jsonl", record("a", None, 0, e2e_ms=1)))
    none = read_table(write(tmp_path / "none.jsonl"))

    assert some.schema == none.schema
    assert not [field for field in some.schema if str(field.type) == "null"]


def test_tools(tmp_path: Path) -> None:
    """pandas, Polars and DuckDB accept the table."""
    found = read_table(write(tmp_path / "records.jsonl", FULL))

    frame = found.to_pandas()
    assert isinstance(frame, pd.DataFrame)
    assert frame["ttft_ms"].tolist() == [100.0]
    series = pl.from_arrow(found)
    assert isinstance(series, pl.DataFrame)
    assert series["prefill_npu_device_count"].to_list() == [2]
    relation = duckdb.sql("SELECT tpot_ms FROM found")
    assert relation is not None
    assert relation.fetchall() == [(2.5,)]


def test_segments_and_compression(tmp_path: Path) -> None:
    """A live file includes its closed segments, and a folder all its files."""
    first = write(tmp_path / "one.20261125T025428.123Z.000001.jsonl", FULL)
    packed = first.with_name(f"{first.name}.gz")
    packed.write_bytes(gzip.compress(first.read_bytes()))
    first.unlink()
    live = write(tmp_path / "one.jsonl", record("live", None, 0, e2e_ms=1))
    write(tmp_path / "two.jsonl", record("other", None, 0, e2e_ms=1))

    assert [row["request_id"] for row in rows(live)] == ["full", "live"]
    assert {row["request_id"] for row in rows(tmp_path)} == {"full", "live", "other"}


def test_condition(tmp_path: Path) -> None:
    """Only requests that meet the condition are read, with their endpoints."""
    path = write(
        tmp_path / "records.jsonl",
        FULL,
        record("b", aggregated("x"), 0, e2e_ms=1, outcome=Outcome.ERROR, error=ErrorInfo("Oh")),
    )

    assert [row["request_id"] for row in rows(path, where="error_type = 'Oh'")] == ["b"]
    assert [row["id"] for row in rows(path, where="ttft_ms IS NULL", rows="endpoints")] == [
        "pod://llm/x"
    ]


@pytest.mark.parametrize("where", ["no_such_column > 1", "ttft_ms >", "model", "); DROP"])
def test_wrong_condition(tmp_path: Path, where: str) -> None:
    """Invalid SQL is reported before anything is read, in one line that repeats it."""
    path = write(tmp_path / "records.jsonl", FULL)

    with pytest.raises(QueryError) as raised:
        read_table(path, where=where)
    assert str(raised.value).startswith(f"{where!r}: ")
    assert "\n" not in str(raised.value)


def test_bad_lines(tmp_path: Path) -> None:
    """An invalid line is refused with its place; `Records` counts it and continues."""
    path = write(tmp_path / "records.jsonl", FULL)
    good = path.read_bytes()
    newer = good.replace(b'"schemaVersion":1', b'"schemaVersion":2')
    path.write_bytes(good + b"[]\n" + newer + b"\x00\xff\n\n" + good + b'{"schemaVersion"')

    with pytest.raises(RecordError) as raised:
        read_table(path)
    assert str(raised.value) == f"{path}:2: {NOT_AN_OBJECT}"
    with Records(path) as records:
        assert records.count() == 2
        assert [problem.line for problem in records.problems] == [2, 3, 4, 5]


def test_time_that_is_none(tmp_path: Path) -> None:
    """A record without a valid time of its start is an invalid line."""
    path = write(tmp_path / "records.jsonl", FULL)
    path.write_bytes(path.read_bytes() + path.read_bytes().replace(b"2026-09-21", b"2026-13-21"))

    with Records(path) as records:
        assert records.count() == 1
        assert [problem.line for problem in records.problems] == [2]


def test_unfinished_line(tmp_path: Path) -> None:
    """A last line without an end is not loaded, and named."""
    path = write(tmp_path / "records.jsonl", FULL)
    path.write_bytes(path.read_bytes() + path.read_bytes()[:-10])

    with Records(path) as records:
        assert (records.count(), records.problem_count) == (1, 0)
        assert [(line.path, line.line) for line in records.unfinished] == [(path, 2)]


def test_repeated_id(tmp_path: Path) -> None:
    """Requests of one id are told apart by the time of their dispatch."""
    path = write(
        tmp_path / "records.jsonl",
        record("again", aggregated("solo-0"), 0, e2e_ms=9, output_length=1),
        record("again", aggregated("solo-1"), 5, e2e_ms=9, output_length=2),
    )

    found = rows(path, rows="endpoints", where="output_length = 2")
    assert [row["id"] for row in found] == ["pod://llm/solo-1"]


def test_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading in chunks loses and doubles nothing, and finds the invalid lines in each."""
    monkeypatch.setattr("otel_lifecycle.analysis.tables.database._CHUNK_BYTES", 10_000)
    path = tmp_path / "records.jsonl"
    lines = write(path, *(record(f"r{i}", None, i, e2e_ms=1) for i in range(100))).read_bytes()
    split = lines.splitlines(keepends=True)
    path.write_bytes(b"".join([*split[:50], b"oh\n", *split[50:], b"no\n"]))

    told: list[int] = []
    with Records(path, progress=told.append) as records:
        found = records.connection.execute("SELECT request_id FROM requests").fetchall()
        assert [row[0] for row in found] == [f"r{i}" for i in range(100)]
        assert [problem.line for problem in records.problems] == [51, 102]
    assert told == sorted(told)
    assert told[-1] == 100
    assert len(told) > 2


def test_nothing_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The temporary database is deleted, also after an error."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    path = write(tmp_path / "records.jsonl", FULL)

    read_table(path)
    with pytest.raises(QueryError):
        read_table(path, where="oh")
    assert list((tmp_path / "temporary").iterdir()) == []
    assert len(list(read_records(path))) == 1
