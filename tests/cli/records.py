"""Record files written by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from otel_lifecycle import LatencyPrediction, LifecycleRecord
from otel_lifecycle.model.latency import ActualLatency, PredictionError
from otel_lifecycle.model.route import EndpointSnapshot, RouteSnapshot
from otel_lifecycle.model.timestamps import format_timestamp

START_NS = 1_790_000_000_000_000_000


def aggregated(pod: str) -> RouteSnapshot:
    """A route to one endpoint."""
    return RouteSnapshot(leader=_endpoint(pod))


def disaggregated(prefill: str, decode: str) -> RouteSnapshot:
    """A route to a pair of endpoints."""
    return RouteSnapshot(
        leader=_endpoint("leader"), prefill=_endpoint(prefill), decode=_endpoint(decode)
    )


def record(
    request_id: str,
    route: RouteSnapshot | None,
    at_ms: int,
    *,
    e2e_ms: int,
    ttft_ms: int | None = None,
    tpot_ms: float | None = None,
    predicted: tuple[float | None, float | None] = (None, None),
    **fields: Any,
) -> LifecycleRecord:
    """A record of a request that was dispatched `at_ms` milliseconds after the first."""
    first_chunk_at = None if ttft_ms is None else timestamp(at_ms + ttft_ms)
    return LifecycleRecord(
        **{
            "request_id": request_id,
            "streaming": True,
            "started_at": timestamp(at_ms),
            "first_chunk_at": first_chunk_at,
            "completed_at": timestamp(at_ms + e2e_ms),
            "selected_route": route,
            "prediction": LatencyPrediction(*predicted),
            "actual": ActualLatency(ttft_ms, tpot_ms, e2e_ms),
            "prediction_error": PredictionError(),
            **fields,
        }
    )


def timestamp(at_ms: int) -> str:
    """The time `at_ms` milliseconds after the first dispatch."""
    return format_timestamp(START_NS + at_ms * 1_000_000)


def write(path: Path, *records: LifecycleRecord) -> Path:
    """A record file."""
    path.write_bytes(b"".join(msgspec.json.encode(record) + b"\n" for record in records))
    return path


def _endpoint(pod: str) -> EndpointSnapshot:
    return EndpointSnapshot(id=f"pod://llm/{pod}", address=f"{pod}.local", port="8000")
