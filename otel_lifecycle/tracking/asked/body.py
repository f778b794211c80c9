"""Reads single fields of a JSON body, and skips the rest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import msgspec

Path: TypeAlias = "tuple[str, ...]"

_NULL = msgspec.Raw(b"null")
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_scalar_decoder = msgspec.json.Decoder(str | int | float | bool | None)


class BodyFields:
    """Reads fields of a body, given the names of nested objects; thread-safe.

    The work is linear in the bytes, and nothing but the fields is kept.

    Args:
        paths: The fields.

    Attributes:
        paths: As given.
        names: Their top-level names.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self.paths = tuple(paths)
        below: dict[str, list[Path]] = {}
        self._is_field: set[str] = set()
        for name, *rest in self.paths:
            inner = below.setdefault(name, [])
            if rest:
                inner.append(tuple(rest))
            else:
                self._is_field.add(name)
        self.names = tuple(below)
        self._below = {name: BodyFields(inner) for name, inner in below.items() if inner}
        # Names of JSON need not be names of Python.
        self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(
            msgspec.defstruct(
                "_Object",
                [(f"f{number}", msgspec.Raw, _NULL) for number in range(len(self.names))],
                rename={f"f{number}": name for number, name in enumerate(self.names)},
            )
        )

    def read(self, body: bytes | msgspec.Raw) -> dict[Path, object]:
        """Return the fields that a body has, if they are text, numbers or truth values."""
        try:
            found = self._decoder.decode(body)
        except _UNREADABLE:
            return {}
        return self.read_values(dict(zip(self.names, msgspec.structs.astuple(found), strict=True)))

    def read_values(self, values: Mapping[str, bytes | msgspec.Raw]) -> dict[Path, object]:
        """Return the same, given the JSON text of top-level values."""
        fields: dict[Path, object] = {}
        for name in self.names:
            raw = values.get(name, _NULL)
            if raw is _NULL:
                continue
            if name in self._is_field:
                try:
                    value = _scalar_decoder.decode(raw)
                except _UNREADABLE:
                    value = None
                if value is not None:
                    fields[(name,)] = value
            below = self._below.get(name)
            if below is not None:
                fields |= {(name, *path): value for path, value in below.read(raw).items()}
        return fields
