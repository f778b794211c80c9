"""The figures of the live view as plain lines, for a file or a pipe."""

from __future__ import annotations

import json
from collections.abc import Iterator

from otel_lifecycle.analysis.formatting import printable, significant
from otel_lifecycle.analysis.live.gauges import State
from otel_lifecycle.analysis.live.snapshot import Snapshot
from otel_lifecycle.analysis.live.tally import REQUESTS, Tally
from otel_lifecycle.model import Outcome
from otel_lifecycle.model.timestamps import format_timestamp


def plain_lines(snapshot: Snapshot) -> Iterator[str]:
    """Yield a line for all requests and one for each endpoint, as `name=value`; no unknown ones."""
    at = f"{format_timestamp(snapshot.now_ns)[:19]}Z"
    yield f"{at} all {_pairs(_figures(snapshot.tally, snapshot.seconds))}"
    for row in sorted(snapshot.rows, key=lambda row: (row.role, row.name)):
        place = {"role": row.role or None, "endpoint": row.name}
        figures = {**_figures(row.tally, snapshot.seconds), **_state(row.state)}
        yield f"{at} endpoint {_pairs({**place, **figures})}"
    for problem in snapshot.problems:
        yield f"{at} problem {_pairs({'text': problem})}"


def _figures(tally: Tally, seconds: float) -> dict[str, float | str | None]:
    counts = tally.counts
    return {
        "requests": counts[REQUESTS],
        "per_second": counts[REQUESTS] / seconds,
        "completed": counts[Outcome.COMPLETED.value],
        "left": counts[Outcome.CLIENT_DISCONNECT.value],
        "failed": tally.failed,
        "ttft_p50_ms": tally.ttft_ms.quantile(0.5),
        "ttft_p95_ms": tally.ttft_ms.quantile(0.95),
        "tpot_p50_ms": tally.tpot_ms.quantile(0.5),
        "tpot_p95_ms": tally.tpot_ms.quantile(0.95),
        "ttft_predicted_by_actual": tally.ttft_ratio.quantile(0.5),
        "tpot_predicted_by_actual": tally.tpot_ratio.quantile(0.5),
    }


def _state(state: State) -> dict[str, float | str | None]:
    return {
        "inflight": state.requests,
        "inflight_tokens": state.tokens,
        "running": state.running,
        "waiting": state.waiting,
        "kv_cache": state.kv_cache,
        "busy": state.busy,
    }


def _pairs(values: dict[str, float | str | None]) -> str:
    return " ".join(f"{name}={_value(one)}" for name, one in values.items() if one is not None)


def _value(value: float | str | None) -> str:
    if not isinstance(value, str):
        return significant(value or 0).replace(",", "")
    text = printable(value)
    return json.dumps(text, ensure_ascii=False) if set(text) & set(' "=') else text
