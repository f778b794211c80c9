"""Lines of every schema version are read as records of the newest."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated, Any

import msgspec
import pytest

from otel_lifecycle import LatencyPrediction, LifecycleRecord
from otel_lifecycle.model.fields import Text, declare, record_name
from otel_lifecycle.model.latency import ActualLatency, PredictionError
from otel_lifecycle.records.line import decoder, parse_line

V1 = msgspec.json.encode(
    LifecycleRecord(
        request_id="request-1",
        model="m",
        started_at="2026-11-24T23:42:56.564324304Z",
        prediction=LatencyPrediction(),
        selected_route=None,
        actual=ActualLatency(),
        prediction_error=PredictionError(),
    )
)


# Everything a second version needs: it adds `models`, and requires a tenant.
class RecordV2(LifecycleRecord, kw_only=True, rename=record_name):
    schema_version: Annotated[int, declare("The version of this schema.", "1")] = 2
    tenant: Annotated[Text, declare("Whose request it is.", attribute="llm_router.tenant")]
    models: Annotated[tuple[str, ...], declare("The target models.")] = ()


def read_v1(text: bytes) -> RecordV2:
    old = msgspec.structs.asdict(parse_line(text))
    return RecordV2(**{**old, "schema_version": 2, "tenant": "", "models": (old["model"],)})


decode = decoder({1: read_v1, 2: msgspec.json.Decoder(RecordV2).decode})


def changed(**changes: Any) -> bytes:
    """A line of version 1 with some changed fields."""
    return json.dumps({**json.loads(V1), **changes}).encode()


def test_second_version() -> None:
    """Lines of version 1 become records of version 2, and those of version 2 are unchanged."""
    second = changed(schemaVersion=2, tenant="acme", models=["m", "n"])

    records = [decode(V1), decode(second)]

    assert [(r.schema_version, r.request_id, r.tenant, r.models) for r in records] == [
        (2, "request-1", "", ("m",)),
        (2, "request-1", "acme", ("m", "n")),
    ]
    assert [decode(msgspec.json.encode(record)) for record in records] == records


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (changed(schemaVersion=3), "schemaVersion 3 is newer than 2"),
        (changed(schemaVersion=0), "schemaVersion 0 is invalid; versions start at 1"),
        (b'{"schemaVersion":3}', "schemaVersion 3 is newer than 2"),
    ],
    ids=["newer", "older", "newer and of another shape"],
)
def test_unknown_versions(text: bytes, message: str) -> None:
    """An unknown version is refused, whatever else is in the line."""
    with pytest.raises(ValueError, match=message):
        decode(text)


@pytest.mark.parametrize(
    "line_",
    [
        V1.replace(b'{"schemaVersion":1,', b'{"schemaVersion":1,"schemaVersion":2,'),
        V1.replace(b'{"schemaVersion":1,', b"{"),
        V1.replace(b'{"schemaVersion":1,', b'{"schemaVersion":null,'),
    ],
    ids=["two versions", "none", "null"],
)
def test_no_version(line_: bytes) -> None:
    """A line without a version, or with two, is refused."""
    with pytest.raises(ValueError, match="schemaVersion"):
        parse_line(line_)


@pytest.mark.parametrize(
    "spell", [lambda text: text, lambda text: json.dumps(json.loads(text)).encode()]
)
def test_spelling(spell: Callable[[bytes], bytes]) -> None:
    """Other spellings of the same JSON line are read too."""
    assert parse_line(spell(V1)) == parse_line(V1)
