"""Generates files from the declared fields: `make docs`.

These are the JSON Schema of the record, and the tables of attributes, fields and columns on the
pages about telemetry, the record file and tables, each between two marks.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import groupby
from pathlib import Path

import msgspec

from otel_lifecycle.analysis.tables import ENDPOINT_COLUMNS, REQUEST_COLUMNS, Column
from otel_lifecycle.model.fields import DeclarationError, Field, fields_of
from otel_lifecycle.model.record import LifecycleRecord
from otel_lifecycle.model.schema import record_schema
from otel_lifecycle.telemetry.attributes import Attribute, span_attributes

ROOT = Path(__file__).parents[1]
SCHEMA = "otel_lifecycle/model/record.schema.json"

_SECTIONS = {
    "request": "The request",
    "route": "The route",
    "decision": "The decision",
    "load": "The load of the selected endpoint at dispatch, without this request",
    "role": "Each endpoint of the route, with the prefix `llm_router.route.` and its role",
    "chip": "Each chip of such an endpoint, with the same prefix, as arrays with -1 for unknown",
    "leg": "Each call of the router, if there is more than one, as arrays",
    "prediction": "Prefix cache and prediction",
    "result": "The result",
    "slo": "Targets of latencies (`slo`), if there are any; they count from the start of the span",
    "label": "Labels, if the setting `labels` or the program names any",
}
_ROLE = "llm_router.route.leader"
_OTHER_ROLES = re.compile(r"selectedRoute\.(prefill|decode)\.")
_OTHER_SNAPSHOTS = re.compile(r'(TRY_CAST\()?"selectedRoute"."(prefill|decode)"')
_OF_THE_SPAN = re.compile(r" On the span: .*?\.(?=$| One entry)")
_CLICKHOUSE_TYPES = {
    "VARCHAR": "String",
    "BIGINT": "Int64",
    "DOUBLE": "Float64",
    "BOOLEAN": "Bool",
    "TIMESTAMPTZ": "DateTime64(6, 'UTC')",
}
_MARKS = re.compile(r"(<!-- make docs: (.*?) -->\n).*?(<!-- end -->)", re.DOTALL)
_JSON_TYPES = {str: "text", int: "integer", float: "number", bool: "true, false", datetime: "time"}


def generated() -> dict[str, str]:
    """Return the content of each generated file, by its path.

    Raises:
        DeclarationError: A field or an attribute is declared twice, or without what it needs.
    """
    for struct in structs(LifecycleRecord):
        check_source(struct)
    texts = {SCHEMA: json.dumps(record_schema(), indent=2) + "\n"}
    tables = {
        "attributes": attribute_tables(span_attributes()),
        "fields": field_tables(),
        "request columns": column_table(REQUEST_COLUMNS),
        "endpoint columns": column_table(ENDPOINT_COLUMNS),
    }
    for name, columns in (("requests", REQUEST_COLUMNS), ("endpoints", ENDPOINT_COLUMNS)):
        texts[f"collector/clickhouse/{name}.sql"] = clickhouse_table(name, columns)
    for page in ("docs/telemetry.md", "docs/record-file.md", "docs/tables.md"):
        texts[page] = _MARKS.sub(
            lambda found: f"{found[1]}\n{tables[found[2]]}\n{found[3]}",
            (ROOT / page).read_text("utf-8"),
        )
    return texts


def structs(struct: type[msgspec.Struct]) -> list[type[msgspec.Struct]]:
    """Return a struct and all structs in it, each once, outermost first."""
    found = {struct: None}
    for field in fields_of(struct):
        if field.struct is not None:
            found |= dict.fromkeys(structs(field.struct))
    return list(found)


def check_source(struct: type[msgspec.Struct]) -> None:
    """Check for a field declared twice in a class: Python itself would use only the last.

    Raises:
        DeclarationError: A field is declared twice.
    """
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(struct))).body
    assert isinstance(node, ast.ClassDef)
    names = Counter(
        statement.target.id
        for statement in node.body
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
    )
    for name, times in names.items():
        if times > 1:
            raise DeclarationError(f"{struct.__name__}.{name} is declared twice")


def attribute_tables(attributes: Iterable[Attribute]) -> str:
    """Return one table for each section of the span."""
    attributes = [one for one in attributes if not _OTHER_ROLES.match(one.field)]
    order = [*_SECTIONS, *{one.section: None for one in attributes if one.section not in _SECTIONS}]
    attributes.sort(key=lambda one: order.index(one.section))
    return "\n".join(
        table
        for section, members in groupby(attributes, key=lambda one: one.section)
        for table in _attribute_table(section, list(members))
    )


def _attribute_table(section: str, attributes: list[Attribute]) -> Iterator[str]:
    title = _SECTIONS.get(section, f"On the {section.replace(' ', ' `', 1)}`")
    settings = {one.opt_in for one in attributes}
    if len(settings) == 1 and settings != {""}:
        title += f"; with `{settings.pop()}`"
    yield f"{title}:\n"
    yield "| attribute | type, unit | from | meaning |\n|---|---|---|---|"
    for one in attributes:
        name = one.name.removeprefix(_ROLE) if one.section in ("role", "chip") else one.name
        text = one.text
        if one.opt_in and one.section != "chip":
            text += f" With `{one.opt_in}`."
        kind = f"{one.type}, {one.unit}" if one.unit else one.type
        yield f"| `{name}` | {kind} | {one.source} | {text} |"
    yield ""


def clickhouse_table(name: str, columns: Iterable[Column]) -> str:
    """Return the statement that creates a table of these columns in ClickHouse."""
    known = {"model", "outcome", "request_id", "role", "started_at"}  # in every row
    lines: list[str] = []
    for column in columns:
        kind, depth = _CLICKHOUSE_TYPES[column.type.rstrip("[]")], column.type.count("[]")
        if depth:
            kind = "Array(" * depth + f"Nullable({kind})" + ")" * depth
        elif column.name not in known:
            kind = f"Nullable({kind})"
        elif column.name in ("model", "outcome"):
            kind = f"LowCardinality({kind})"
        text = _OF_THE_SPAN.sub("", column.text).replace("'", "\\'")
        lines.append(f"    {column.name} {kind} COMMENT '{text}'")
    key = {
        "requests": "model, started_at, request_id",
        "endpoints": "request_id, started_at, role",
    }[name]
    partition = "PARTITION BY toYYYYMMDD(started_at)\n" if name == "requests" else ""
    return (
        f"-- Made by `make docs`. A row that is inserted again replaces the first.\n"
        f"CREATE TABLE IF NOT EXISTS {name}\n(\n" + ",\n".join(lines) + "\n)\n"
        f"ENGINE = ReplacingMergeTree\n{partition}ORDER BY ({key});\n"
    )


def column_table(columns: Iterable[Column]) -> str:
    """Return the table of some columns; those of prefill and decode are like the leader's."""
    lines = ["| column | type, unit | meaning |\n|---|---|---|"]
    for column in columns:
        if _OTHER_SNAPSHOTS.match(column.expression):
            continue
        kind = f"{column.type}, {column.unit}" if column.unit else column.type
        text = _OF_THE_SPAN.sub("", column.text)
        lines.append(f"| `{column.name}` | {kind} | {text} |")
    return "\n".join([*lines, ""])


def field_tables() -> str:
    """Return one table for each object of the record."""
    return "\n".join(line for struct in structs(LifecycleRecord) for line in _field_table(struct))


def _field_table(struct: type[msgspec.Struct]) -> Iterator[str]:
    yield f"### {struct.__name__}\n"
    yield "| field | type, unit | meaning |\n|---|---|---|"
    for field in fields_of(struct):
        yield f"| `{field.record_name}` | {_type(field)} | {field.declared.text} |"
    yield ""


def _type(field: Field) -> str:
    if field.struct is not None:
        kind = f"[{field.struct.__name__}](#{field.struct.__name__.lower()})"
    elif field.is_enum:
        kind = "text"
    else:
        kind = _JSON_TYPES.get(field.type, "object")
    if field.kind == "timestamp":
        kind = "time"
    if field.many:
        kind = f"list of {kind}"
    if field.optional:
        kind += " or null"
    return f"{kind}, {field.unit}" if field.unit else kind


def main() -> None:
    """Write all generated files."""
    for path, text in generated().items():
        (ROOT / path).write_text(text, "utf-8")


if __name__ == "__main__":
    main()
