"""The columns of the two tables, derived from the declared fields of a record.

A nested field becomes one column, named after its path: `actual.ttftMillis` is `ttft_ms`,
`selectedRoute.prefill.metrics.waitingQueueSize` is `prefill_waiting_requests`. Types are declared,
so a column has its type even if it is null in every record.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple, get_args, get_origin

import msgspec

from otel_lifecycle.model.features import PredictionInput
from otel_lifecycle.model.fields import Field, fields_of
from otel_lifecycle.model.record import LifecycleRecord
from otel_lifecycle.model.route import EndpointSnapshot

_MOMENT = "TIMESTAMPTZ"  # microseconds, which every tool reads
_TYPES: Mapping[object, str] = {str: "VARCHAR", bool: "BOOLEAN", int: "BIGINT", float: "DOUBLE"}
_MOMENT_KINDS = ("moment", "timestamp")
# Parts of a path that are omitted from a column's name.
_OMITTED_PARTS = ("actual", "metrics", "picks", "selected_route")
# Fields that a table with one row per request omits, or has in another form.
_OMITTED_FIELDS = (
    "schema_version",
    "prediction_inputs",
    "devices",
    "active_models",
    "waiting_models",
)


class Column(NamedTuple):
    """One column of a table.

    Attributes:
        name: Its name.
        type: Its DuckDB type; it may be null in any row.
        expression: SQL that computes it from a line of the record file.
        unit: UCUM; empty if it is not a number.
        text: Its meaning.
    """

    name: str
    type: str
    expression: str
    unit: str
    text: str


def line_type(struct: type[msgspec.Struct]) -> dict[str, str]:
    """Return the DuckDB type of each field of a struct in a line."""
    return {field.record_name: _type_in_line(field) for field in fields_of(struct)}


def _type_in_line(field: Field) -> str:
    if field.struct is not None:
        parts = ", ".join(f'"{name}" {kind}' for name, kind in line_type(field.struct).items())
        kind = f"STRUCT({parts})"
    elif get_origin(field.type) is dict:
        key, value = map(_plain_type, get_args(field.type))
        kind = f"MAP({key}, {value})"
    else:
        kind = _plain_type(field.type)
    return f"{kind}[]" if field.many else kind


def _plain_type(hint: object) -> str:
    while hasattr(hint, "__metadata__"):
        hint = get_args(hint)[0]
    return _TYPES.get(hint, "VARCHAR")  # enums and moments are text in a line


def _request_columns() -> Iterator[Column]:
    yield from _flat(LifecycleRecord, (), "")
    for key in ("service.name", "service.instance.id"):
        text = f"`{key}` of the router."
        yield Column(key.replace(".", "_"), "VARCHAR", f"resource['{key}']", "", text)


def _flat(struct: type[msgspec.Struct], path: tuple[str, ...], source: str) -> Iterator[Column]:
    for field in fields_of(struct):
        if field.name in _OMITTED_FIELDS or field.name == "resource":
            continue
        expression = f'{source}."{field.record_name}"' if source else f'"{field.record_name}"'
        parts = (*path, field.name)
        name = "_".join(part for part in parts if part not in _OMITTED_PARTS)
        text = field.declared.text
        if field.many and field.struct is not None:
            yield from _of_list(field, name, expression)
        elif field.struct is not None:
            yield from _flat(field.struct, parts, expression)
        elif field.kind in _MOMENT_KINDS:
            yield Column(name, _MOMENT, f"TRY_CAST({expression} AS {_MOMENT})", "", text)
        elif get_origin(field.type) is dict:
            yield _as_text(name, expression, text)
        else:
            yield Column(name, _type_in_line(field), expression, field.unit, text)


def _as_text(name: str, expression: str, text: str) -> Column:
    """Return a column of JSON text, which every tool reads."""
    return Column(name, "VARCHAR", f"CAST(to_json({expression}) AS VARCHAR)", "", text)


def _of_list(field: Field, name: str, expression: str) -> Iterator[Column]:
    """Yield one list column for each field of a list of structs."""
    assert field.struct is not None
    for part in _of_element(field.struct, "x", ""):
        yield Column(
            name + part.name,
            f"{part.type}[]",
            f"list_transform({expression}, lambda x: {part.expression})",
            part.unit,
            f"{part.text} One entry for each of `{field.record_name}`.",
        )


def _of_element(struct: type[msgspec.Struct], source: str, name: str) -> Iterator[Column]:
    """Yield the columns of one struct of a list; a list in it is a list, a mapping JSON text."""
    for field in fields_of(struct):
        value = f'{source}."{field.record_name}"'
        longer = name if field.name in _OMITTED_PARTS else f"{name}_{field.name}"
        kind, text = _type_in_line(field), field.declared.text
        if field.many and field.struct is not None:
            inner = chr(ord(source[0]) + 1)
            for part in _of_element(field.struct, inner, longer):
                expression = f"list_transform({value}, lambda {inner}: {part.expression})"
                yield part._replace(type=f"{part.type}[]", expression=expression)
        elif field.struct is not None and not any(one.many for one in fields_of(field.struct)):
            yield from _of_element(field.struct, value, longer)
        elif field.struct is not None or kind.startswith("MAP"):
            yield _as_text(longer, value, text)
        elif field.kind in _MOMENT_KINDS:
            yield Column(longer, _MOMENT, f"TRY_CAST({value} AS {_MOMENT})", "", text)
        else:
            yield Column(longer, kind, value, field.unit, text)


def _endpoint_columns() -> Iterator[Column]:
    yield Column("request_id", "VARCHAR", "request_id", "", "The router's id of the request.")
    text = "Time of the request's dispatch. Ids may repeat; with this time they do not."
    yield Column("started_at", _MOMENT, "started_at", "", text)
    yield Column("model", "VARCHAR", "model", "", "The target model, after any rewrite.")
    yield Column("role", "VARCHAR", "'{role}'", "", "`leader`, `prefill` or `decode`.")
    for column in _flat(EndpointSnapshot, (), ""):
        yield column._replace(expression=f'"{{role}}_{column.name}"')
    for column in _flat(PredictionInput, (), "features"):
        text = f"Predictor input; null if it cannot be trusted. {column.text}"
        yield column._replace(name=f"feature_{column.name}", text=text)


REQUEST_COLUMNS: tuple[Column, ...] = tuple(_request_columns())
"""One row per request; columns of the route's endpoints start with their role."""

ENDPOINT_COLUMNS: tuple[Column, ...] = tuple(_endpoint_columns())
"""One row per endpoint that carried the request, as the router saw it at dispatch.

Computed from the row of the request, by `{role}`, and from its `features` for that role.
"""

_ROUTE = '"selectedRoute"'
_ONE_ENDPOINT = " AND ".join(
    f'{_ROUTE}."decode"."{name}" IS NOT DISTINCT FROM {_ROUTE}."prefill"."{name}"'
    for name in ("id", "address", "port", "name")
)
HIDDEN_COLUMNS: tuple[Column, ...] = (
    Column(
        "roles",
        "VARCHAR[]",
        f"""CASE WHEN {_ROUTE} IS NULL THEN [] WHEN {_ROUTE}."prefill" IS NULL THEN ['leader']
        WHEN {_ROUTE}."decode" IS NULL OR ({_ONE_ENDPOINT}) THEN ['prefill']
        ELSE ['prefill', 'decode'] END""",
        "",
        "The roles that carried the request; see `Route.counted`.",
    ),
    Column(
        "prediction_inputs",
        line_type(LifecycleRecord)["predictionInputs"],
        '"predictionInputs"',
        "",
        "The features of each endpoint that carried the request.",
    ),
)
"""Columns of a request from which the rows of its endpoints are computed."""
