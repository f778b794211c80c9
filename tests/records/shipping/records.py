"""Records of traced requests."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import msgspec

from otel_lifecycle import LifecycleRecord
from tests.records.segments import lines


def traced(*request_ids: str, **fields: Any) -> bytes:
    """Return lines of records with their own ids, sampled unless the fields say otherwise."""
    return b"".join(_line(request_id, fields) for request_id in request_ids)


def _line(request_id: str, fields: dict[str, Any]) -> bytes:
    record = msgspec.json.decode(lines(request_id), type=LifecycleRecord)
    digest = blake2b(request_id.encode(), digest_size=24).hexdigest()
    ids = {"trace_id": digest[:32], "span_id": digest[32:], "trace_flags": 1}
    completed_at = "2026-11-25T02:54:28.500000000Z"
    record = msgspec.structs.replace(record, **{"completed_at": completed_at, **ids, **fields})
    return msgspec.json.encode(record) + b"\n"
