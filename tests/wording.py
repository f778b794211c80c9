"""What libraries say of data that they refuse: their words change with their versions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec


def words(call: Callable[..., object], *arguments: Any) -> str:
    """The words of what a call raises."""
    try:
        call(*arguments)
    except Exception as error:
        return str(error)
    raise AssertionError(f"{arguments!r} are not refused")


def refusal(data: bytes | str, type_: Any = Any) -> str:
    """Those of msgspec for data that are not of a type."""
    return words(lambda: msgspec.json.decode(data, type=type_))


def missing(field: str) -> str:
    """Those of msgspec for an object without a field."""
    return refusal(b"{}", msgspec.defstruct("Type", [(field, Any)]))


def unknown(field: str) -> str:
    """Those of msgspec for an object with a field that its type does not have."""
    type_ = msgspec.defstruct("Type", [], forbid_unknown_fields=True)
    return refusal(f'{{"{field}": 1}}', type_)


TRUNCATED = refusal(b"")
NOT_AN_OBJECT = refusal(b"[]", dict[str, Any])
