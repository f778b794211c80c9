"""Decodes what matters of a JSON object, and whatever of it is of the expected type."""

from __future__ import annotations

import json
import re
from typing import Final, Generic, TypeVar

import msgspec

Scalar = str | int | float | bool | None
NOTHING: Final = msgspec.Raw(b"")
# What says nothing.
_EMPTY: Final = frozenset({b"", b"null", b'""', b"[]", b"{}", b"false", b"0"})
UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
_LENIENT = re.compile(rb"\\u[dD][89a-fA-F]|NaN|Infinity")

T = TypeVar("T", bound=msgspec.Struct)

_parts_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])


class TolerantDecoder(Generic[T]):
    """Decodes an object; a field of an unexpected type has its default.

    Args:
        type_: A struct whose fields all have defaults.
    """

    def __init__(self, type_: type[T]) -> None:
        self._type = type_
        self._whole = msgspec.json.Decoder(type_)
        self._fields = [
            (field.name, field.encode_name, msgspec.json.Decoder(field.type))
            for field in msgspec.structs.fields(type_)
        ]

    def decode(self, data: bytes | msgspec.Raw) -> T:
        """Decode an object.

        Raises:
            msgspec.DecodeError: It is no JSON object.
            RecursionError: It is too deep.
        """
        try:
            return self._whole.decode(data)
        except msgspec.ValidationError:
            parts = decode_parts(data)
        found = self._type()
        for name, key, decoder in self._fields:
            if key in parts:
                try:
                    setattr(found, name, decoder.decode(parts[key]))
                except UNREADABLE:
                    continue
        return found


def decode_parts(data: bytes | msgspec.Raw) -> dict[str, msgspec.Raw]:
    """Decode an object no further than its keys.

    Raises:
        msgspec.DecodeError: It is no JSON object.
        RecursionError: It is too deep.
    """
    return _parts_decoder.decode(data)


def strict(data: bytes) -> bytes | None:
    """Return as strict JSON what Python's own module also takes: NaN and lone surrogates.

    Returns:
        None when it is no JSON at all, or cannot be said.
    """
    if _LENIENT.search(data) is None:
        return None
    text = _SURROGATE.sub(rb"\\ufffd", data).decode("utf-8", "replace")
    try:
        return msgspec.json.encode(json.loads(text))
    except (ValueError, RecursionError):
        return None


def is_empty(raw: msgspec.Raw) -> bool:
    """Return whether a value is missing, or says nothing."""
    return raw is NOTHING or bytes(raw) in _EMPTY
