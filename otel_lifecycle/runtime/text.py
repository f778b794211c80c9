"""Makes text of others fit for a log or a terminal."""

from __future__ import annotations

import re
from typing import Any, cast
from urllib.parse import urlsplit

_HIDDEN = "***"
# To the last `@`, and to the end: a password may hold any of the characters that end it elsewhere.
_USER = re.compile(r"((?:[A-Za-z][A-Za-z0-9+.-]*:)?//|).*@", re.DOTALL)
_QUERY = re.compile(r"([?#]).+", re.DOTALL)
_DEEPEST = 8


def printable(text: str) -> str:
    r"""Escapes what a terminal would obey: control, bidirectional and other invisible characters.

    They become `\uXXXX` as in JSON, so text that is JSON stays what it was.
    """
    return text if text.isprintable() else "".join(map(_escaped, text))


def _escaped(character: str) -> str:
    if character.isprintable():
        return character
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))


def without_secrets(text: str) -> str:
    """Hides user info, query and fragment of a URL: they may hold passwords.

    In text that is no valid URL, everything before an `@` and after a `?` or `#`.
    """
    if not _is_without_user(text):
        text = _USER.sub(rf"\1{_HIDDEN}@", text)
    return _QUERY.sub(rf"\1{_HIDDEN}", text)


def _is_without_user(url: str) -> bool:
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises where it is none
    except ValueError:
        return False
    return bool(parts.scheme and parts.hostname) and "@" not in parts.netloc


def shown(value: object) -> str:
    """The `repr` of a value as it came from JSON, without secrets."""
    return repr(_hidden(value, _DEEPEST))


def _hidden(value: object, deepest: int) -> object:
    if isinstance(value, str):
        return without_secrets(value)
    if not isinstance(value, (dict, list, tuple)):
        return value
    if deepest == 0:
        return ...
    if isinstance(value, dict):
        return {
            key: _hidden(one, deepest - 1) for key, one in cast("dict[Any, object]", value).items()
        }
    return [_hidden(one, deepest - 1) for one in cast("list[object]", value)]
