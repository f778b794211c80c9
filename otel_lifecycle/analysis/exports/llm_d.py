"""Writes the training rows of llm-d's latency predictor; needs the extra `collect`."""

from __future__ import annotations

from pathlib import Path

import msgspec

from otel_lifecycle.analysis.exports.whole_file import whole_file
from otel_lifecycle.analysis.tables.database import (
    ENDPOINTS,
    REQUEST_KEY,
    REQUESTS,
    Records,
    fetch,
)
from otel_lifecycle.model import Outcome
from otel_lifecycle.model.features import PredictionInput
from otel_lifecycle.model.fields import fields_of
from otel_lifecycle.prediction.llm_d_format import training_rows

_FEATURES = ", ".join(
    f"'{field.name}': e.feature_{field.name}" for field in fields_of(PredictionInput)
)
_TRAINING = f"""
SELECT strftime(any_value(r.completed_at), '%Y-%m-%dT%H:%M:%S.%fZ') AS completed_at,
    any_value(r.ttft_ms) AS ttft_ms, any_value(r.tpot_ms) AS tpot_ms,
    any_value(r.output_length) AS output_length,
    list({{{_FEATURES}}} ORDER BY e.role DESC) AS inputs
FROM {REQUESTS} r JOIN {ENDPOINTS} e USING ({", ".join(REQUEST_KEY)})
WHERE r.outcome = '{Outcome.COMPLETED.value}'
GROUP BY r.request_id, r.started_at ORDER BY r.started_at, r.request_id
"""


def write_llm_d(records: Records, path: Path) -> int:
    """Write the training rows of llm-d's latency predictor, one JSON object per line.

    These are the entries that shadow prediction sends to the training server: those of completed
    streams without missing features.

    Returns:
        The number of rows.
    """
    written = 0
    with whole_file(path) as unfinished, open(unfinished, "wb") as file:
        for row in fetch(records, _TRAINING):
            inputs = [PredictionInput(**features) for features in row["inputs"]]
            entries = training_rows(
                inputs, row["completed_at"], row["ttft_ms"], row["tpot_ms"], row["output_length"]
            )
            file.writelines(msgspec.json.encode(entry) + b"\n" for entry in entries)
            written += len(entries)
    return written
