"""The setting for the paths of inference requests."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import BeforeValidator

from otel_lifecycle.config.entries import entries

MAX_SEGMENTS: Final = 6
_EXPECTED: Final = (
    "must be endings of paths such as /ask, /v3/*/run=chat or :ask, "
    f"of at most {MAX_SEGMENTS} segments"
)


def _paths(value: object) -> object:
    """Parse text from an environment variable, `/ask, /v3/*/run=chat`, or check a list."""
    endings = entries(value, _EXPECTED)
    if not all(map(_is_ending, endings)):
        raise ValueError(_EXPECTED)
    return endings


def _is_ending(text: str) -> bool:
    ending, _, operation = text.partition("=")
    body = ending[1:]
    return (
        ending.startswith(("/", ":"))
        and bool(body.strip("/*"))
        and not body.endswith("/")
        and ending.count("/") <= MAX_SEGMENTS
        and (ending.startswith("/") or "/" not in ending)
        and text.isprintable()
        and " " not in text
        and "=" not in operation
    )


Paths = Annotated[tuple[str, ...], BeforeValidator(_paths)]
