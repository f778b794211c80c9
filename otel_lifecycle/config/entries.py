"""Settings that are lists of entries, which a variable separates by commas."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, cast

from pydantic import Field

if TYPE_CHECKING:

    class Entries:
        """A tuple of texts when read; constructors accept a sequence, or one text."""

        def __get__(self, settings: object, owner: type[object]) -> tuple[str, ...]: ...
        def __set__(self, settings: object, value: str | Sequence[str]) -> None: ...


def no_entries() -> Any:
    """Return the default of such a setting."""
    return Field(default=(), strict=False)


def entries(value: object, expected: str) -> tuple[str, ...]:
    """Return the entries of a text, or of a list of texts.

    Raises:
        ValueError: It is neither; the message is `expected`.
    """
    if isinstance(value, str):
        return tuple(filter(None, map(str.strip, value.split(","))))
    if isinstance(value, (list, tuple)):
        parts = tuple(cast("Iterable[object]", value))
        if all(isinstance(part, str) for part in parts):
            return cast("tuple[str, ...]", parts)
    raise ValueError(expected)
