"""Tells the dialect of an answer by the keys of its first object."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import msgspec

from otel_lifecycle.instrumentation.http.answers.answer import Answer
from otel_lifecycle.instrumentation.http.answers.dialects import (
    anthropic,
    gemini,
    ollama,
    openai,
    plain,
    responses,
    sglang,
    tgi,
)

Dialect: TypeAlias = Callable[[bytes | msgspec.Raw, Answer], None]

_BY_KEY: tuple[tuple[str, Dialect], ...] = (
    ("choices", openai.read),
    ("candidates", gemini.read),
    ("usageMetadata", gemini.read),
    ("promptFeedback", gemini.read),
    ("meta_info", sglang.read),
    ("generated_text", tgi.read),
    ("token", tgi.read),
    ("done", ollama.read),
    ("prompt_eval_count", ollama.read),
)


def detect(keys: Mapping[str, msgspec.Raw]) -> Dialect:
    """Return the dialect of an object; `plain.read` when it is none in particular."""
    for key, dialect in _BY_KEY:
        if key in keys:
            return dialect
    kind = _text(keys.get("type"))
    if kind.startswith("response.") or _text(keys.get("object")) == "response":
        return responses.read
    return anthropic.read if kind in anthropic.TYPES else plain.read


def _text(raw: msgspec.Raw | None) -> str:
    return "" if raw is None else bytes(memoryview(raw)[:64]).decode("utf-8", "replace").strip('"')
