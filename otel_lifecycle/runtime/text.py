"""Makes text from other programs safe for a log or a terminal."""

from __future__ import annotations

import re
from typing import Any, cast
from urllib.parse import urlsplit

_HIDDEN = "***"
# Up to the last `@`: a password may contain any character that ends a user name elsewhere.
_USER = re.compile(r"((?:[A-Za-z][A-Za-z0-9+.-]*:)?//|).*@", re.DOTALL)
_QUERY = re.compile(r"([?#]).+", re.DOTALL)
_MAX_DEPTH = 8


def printable(text: str) -> str:
    r"""Escape characters that a terminal would obey: control, bidirectional and invisible ones.

    They become `\uXXXX` as in JSON, so JSON text keeps its meaning.
    """
    return text if text.isprintable() else "".join(map(_escaped, text))


def _escaped(character: str) -> str:
    if character.isprintable():
        return character
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))


def without_secrets(text: str) -> str:
    """Hide user info, query and fragment of a URL: they may contain passwords.

    In text that is not a valid URL, hide everything before an `@` and after a `?` or `#`.
    """
    if not _is_without_user(text):
        text = _USER.sub(rf"\1{_HIDDEN}@", text)
    return _QUERY.sub(rf"\1{_HIDDEN}", text)


def _is_without_user(url: str) -> bool:
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises if the port is invalid
    except ValueError:
        return False
    return bool(parts.scheme and parts.hostname) and "@" not in parts.netloc


def shown(value: object) -> str:
    """Return the `repr` of a value read from JSON, without secrets."""
    return repr(_hidden(value, _MAX_DEPTH))


def _hidden(value: object, depth: int) -> object:
    if isinstance(value, str):
        return without_secrets(value)
    if not isinstance(value, (dict, list, tuple)):
        return value
    if depth == 0:
        return ...
    if isinstance(value, dict):
        return {
            key: _hidden(one, depth - 1) for key, one in cast("dict[Any, object]", value).items()
        }
    return [_hidden(one, depth - 1) for one in cast("list[object]", value)]
