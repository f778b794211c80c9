"""The JSON Schema of a record, as shipped in `record.schema.json`."""

from __future__ import annotations

import inspect
import json
from typing import Any

import msgspec

from otel_lifecycle.model.record import SCHEMA_VERSION, LifecycleRecord

_ID = "https://github.com/otel-lifecycle/otel-lifecycle/schemas/record-v{}.json"


def record_schema() -> dict[str, Any]:
    """Return the schema, with the bounds and descriptions that the fields declare."""
    schema = msgspec.json.schema(LifecycleRecord)
    for definition in schema["$defs"].values():
        definition["description"] = inspect.cleandoc(definition["description"])
    record = schema["$defs"][LifecycleRecord.__name__]
    record["required"].insert(0, "schemaVersion")  # only writers have a default
    record["properties"]["schemaVersion"]["const"] = SCHEMA_VERSION
    schema = _ordered(schema)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": _ID.format(SCHEMA_VERSION),
        "title": "A finished request of an LLM router",
        **schema,
    }


def _ordered(schema: Any) -> Any:
    """Return the schema with sorted alternatives; msgspec's order depends on its version."""
    if isinstance(schema, list):
        return [_ordered(part) for part in schema]  # pyright: ignore[reportUnknownVariableType]
    if not isinstance(schema, dict):
        return schema
    parts = {key: _ordered(value) for key, value in schema.items()}  # pyright: ignore[reportUnknownVariableType]
    if "anyOf" in parts:
        parts["anyOf"] = sorted(parts["anyOf"], key=json.dumps)
    return parts  # pyright: ignore[reportUnknownVariableType]
