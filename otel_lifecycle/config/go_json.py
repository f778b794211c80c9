"""Reads settings from JSON, as Go's decoder does."""

from __future__ import annotations

import json
from typing import Any

from pydantic.alias_generators import to_camel

from otel_lifecycle.config.settings import ConfigError, Settings
from otel_lifecycle.runtime.text import shown


def parse_json(model: type[Settings], text: str | bytes) -> dict[str, Any]:
    """Return the settings in a JSON text, by their names in Python.

    Keys match in any case, null values are omitted, and of a repeated key the last counts (of a
    section, field by field). Empty text and `null` have none.

    Args:
        model: What they are settings of.
        text: The text.

    Raises:
        ConfigError: It is not JSON, or has an unknown field.
    """
    if not text.strip():
        return {}
    try:
        # From bytes Python would accept UTF-16 and a byte order mark, which Go's decoder refuses.
        text = text if isinstance(text, str) else text.decode()
        values = json.loads(text, object_pairs_hook=_Object)
        json.dumps(
            values, ensure_ascii=False
        ).encode()  # refuse half a surrogate pair, which no path and no log accepts
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"invalid parameters: not valid JSON: {error}") from error
    return {} if values is None else _go_keys(model, values)


def sections_of(model: type[Settings]) -> dict[str, type[Settings]]:
    """Return the fields of some settings that are settings themselves."""
    return {
        name: type(field.default)
        for name, field in model.model_fields.items()
        if isinstance(field.default, Settings)
    }


class _Object(dict[str, Any]):
    """A JSON object that keeps its members as written, including repeated keys."""

    def __init__(self, members: list[tuple[str, Any]]) -> None:
        super().__init__(members)
        self.members = members


def _go_keys(model: type[Settings], values: object, path: str = "") -> dict[str, Any]:
    """Return the fields of a JSON object: keys in any case, nulls omitted, as in Go."""
    if not isinstance(values, _Object):
        raise ConfigError(
            f"invalid parameters: {path or 'they'} must be a JSON object, got {shown(values)}"
        )
    sections = sections_of(model)
    fields = {to_camel(name).lower(): name for name in model.model_fields}
    result: dict[str, Any] = {}
    for key, value in values.members:
        name = fields.get(key.casefold())
        if name is None:
            unknown = f"{path}.{key}" if path else key
            raise ConfigError(f"invalid parameters: unknown field {unknown!r}")
        if value is None:
            continue
        if name in sections:
            value = {**result.get(name, {}), **_go_keys(sections[name], value, name)}
        result[name] = value
    return result
