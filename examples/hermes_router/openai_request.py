"""Reads only those parts of an OpenAI request that routing needs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast
from uuid import uuid4

from hermes_router.errors import InvalidFieldError
from hermes_router.model import InferenceRequest, RequestBody, TokenizedPrompt
from hermes_router.prompt import PROMPT_FORMS, chat_text, text_prompt, token_prompt

CHARACTERS_PER_TOKEN = 4


def parse_request(path: str, headers: Mapping[str, str], content: bytes) -> InferenceRequest:
    """Build the request to route; raise `InvalidFieldError` if it is invalid."""
    payload = parse_object(content)
    source = _prompt_source(path, payload)
    is_text = isinstance(source, str)
    return InferenceRequest(
        request_id=headers.get("x-request-id") or str(uuid4()),
        target_model=_model(payload),
        body=RequestBody(path=path, content=content, stream=_stream(payload)),
        prompt=text_prompt(source) if is_text else token_prompt(source),
        inbound_headers=headers,
        tokenized_prompt=None if is_text else TokenizedPrompt(source),
        prompt_tokens_estimate=estimate_tokens(source) if is_text else None,
    )


def parse_object(content: bytes) -> dict[str, Any]:
    """Parse a body that must be a JSON object."""
    try:
        payload: object = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InvalidFieldError(
            "body", content[:80].decode(errors="replace"), "valid JSON"
        ) from error
    if not isinstance(payload, dict):
        raise InvalidFieldError("body", payload, "a JSON object")
    return cast("dict[str, Any]", payload)


def _prompt_source(path: str, payload: Mapping[str, Any]) -> str | list[int]:
    if path.endswith("/chat/completions"):
        return chat_text(payload.get("messages"))
    prompt = payload.get("prompt")
    if isinstance(prompt, str):
        return prompt
    if isinstance(prompt, list) and prompt:
        return cast("list[int]", prompt)
    raise InvalidFieldError("prompt", payload.get("prompt"), PROMPT_FORMS)


def estimate_tokens(text: str) -> int:
    """Return about how many tokens a text has."""
    return max(1, round(len(text) / CHARACTERS_PER_TOKEN))


def _model(payload: Mapping[str, Any]) -> str:
    model = payload.get("model")
    if not isinstance(model, str) or not model:
        raise InvalidFieldError("model", model, "the name of a model")
    return model


def _stream(payload: Mapping[str, Any]) -> bool:
    stream = payload.get("stream")
    if stream is not None and not isinstance(stream, bool):
        raise InvalidFieldError("stream", stream, "true or false")
    return bool(stream)
