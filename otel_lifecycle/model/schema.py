"""The JSON Schema of a record, as shipped in `record.schema.json`."""

from __future__ import annotations

import inspect
from typing import Any

import msgspec

from otel_lifecycle.model.record import SCHEMA_VERSION, LifecycleRecord

_ID = "https://github.com/otel-lifecycle/otel-lifecycle/schemas/record-v{}.json"


def record_schema() -> dict[str, Any]:
    """The schema; bounds and descriptions are those that the fields declare."""
    schema = msgspec.json.schema(LifecycleRecord)
    for definition in schema["$defs"].values():
        definition["description"] = inspect.cleandoc(definition["description"])
    record = schema["$defs"][LifecycleRecord.__name__]
    record["required"].insert(0, "schemaVersion")  # it has a default only for those who write
    record["properties"]["schemaVersion"]["const"] = SCHEMA_VERSION
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": _ID.format(SCHEMA_VERSION),
        "title": "A finished request of an LLM router",
        **schema,
    }
