"""The wording of libraries for data that they refuse, which changes with their versions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec


def words(call: Callable[..., object], *arguments: Any) -> str:
    """Return the message of what a call raises."""
    try:
        call(*arguments)
    except Exception as error:
        return str(error)
    raise AssertionError(f"{arguments!r} are not refused")


def refusal(data: bytes | str, type_: Any = Any) -> str:
    """Return msgspec's message for data of the wrong type."""
    return words(lambda: msgspec.json.decode(data, type=type_))


def missing(field: str) -> str:
    """Return msgspec's message for an object without a field."""
    return refusal(b"{}", msgspec.defstruct("Type", [(field, Any)]))


def unknown(field: str) -> str:
    """Return msgspec's message for an object with an unknown field."""
    type_ = msgspec.defstruct("Type", [], forbid_unknown_fields=True)
    return refusal(f'{{"{field}": 1}}', type_)


TRUNCATED = refusal(b"")
NOT_AN_OBJECT = refusal(b"[]", dict[str, Any])
