"""What msgspec says of data that it refuses: its words change with its versions."""

from __future__ import annotations

from typing import Any

import msgspec


def refusal(data: bytes, type_: Any = Any) -> str:
    """Its words for data that are not of a type."""
    try:
        msgspec.json.decode(data, type=type_)
    except (ValueError, RecursionError) as error:
        return str(error)
    raise AssertionError(f"{data!r} is not refused")


def missing(field: str) -> str:
    """Its words for an object without a field."""
    return refusal(b"{}", msgspec.defstruct("Type", [(field, Any)]))


TRUNCATED = refusal(b"")
NOT_AN_OBJECT = refusal(b"[]", dict[str, Any])
