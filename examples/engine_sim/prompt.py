"""Converts a request body to the engine's input: token count and block hashes."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, cast

BYTES_PER_TOKEN_ID = 8
BYTES_PER_TEXT_TOKEN = 4  # a rule of thumb for text: four characters per token

DEFAULT_OUTPUT_TOKENS = 128
MAX_OUTPUT_TOKENS = 4096


class InvalidRequestError(ValueError):
    """The engine cannot serve the request body."""


@dataclass(frozen=True)
class Prompt:
    """A prompt as the KV cache sees it.

    Attributes:
        tokens: Length of the prompt.
        block_hashes: One hash per *full* block. Hashes are chained, so equal hashes mean equal
            prefixes, not merely equal blocks.
    """

    tokens: int
    block_hashes: tuple[bytes, ...]


def parse_prompt(payload: Mapping[str, Any], block_size: int) -> Prompt:
    """Read the `prompt` or the `messages` of an OpenAI request."""
    if "messages" in payload:
        content, bytes_per_token = _encode(_chat_text(payload["messages"])), BYTES_PER_TEXT_TOKEN
    else:
        content, bytes_per_token = _completion_content(payload.get("prompt"))
    return Prompt(
        tokens=max(1, -(-len(content) // bytes_per_token)),
        block_hashes=hash_blocks(content, block_size * bytes_per_token),
    )


def parse_output_tokens(payload: Mapping[str, Any]) -> int:
    """Return how many tokens to produce: `max_tokens`, within limits."""
    wanted = payload.get("max_tokens")
    if wanted is None:
        wanted = payload.get("max_completion_tokens")
    if wanted is None:
        return DEFAULT_OUTPUT_TOKENS
    if not isinstance(wanted, int) or isinstance(wanted, bool) or wanted < 1:
        raise InvalidRequestError("max_tokens must be a positive integer")
    return min(wanted, MAX_OUTPUT_TOKENS)


def parse_include_usage(payload: Mapping[str, Any]) -> bool:
    """Return whether a stream ends with an event that reports usage."""
    options = payload.get("stream_options")
    if options is None:
        return False
    if not isinstance(options, dict):
        raise InvalidRequestError("stream_options must be an object")
    return bool(cast("dict[str, object]", options).get("include_usage"))


def hash_blocks(content: bytes, block_bytes: int) -> tuple[bytes, ...]:
    """Return the chained hashes of the full blocks of a prompt."""
    hashes: list[bytes] = []
    parent = b""
    for start in range(0, len(content) - block_bytes + 1, block_bytes):
        parent = blake2b(parent + content[start : start + block_bytes], digest_size=8).digest()
        hashes.append(parent)
    return tuple(hashes)


def _completion_content(prompt: object) -> tuple[bytes, int]:
    if isinstance(prompt, str):
        return _encode(prompt), BYTES_PER_TEXT_TOKEN
    if isinstance(prompt, list):
        try:
            return array("q", cast("list[int]", prompt)).tobytes(), BYTES_PER_TOKEN_ID
        except (TypeError, OverflowError) as error:
            raise InvalidRequestError("prompt must be a list of token ids") from error
    raise InvalidRequestError("prompt must be a string or a list of token ids")


def _encode(text: str) -> bytes:
    return text.encode(errors="surrogatepass")  # JSON may hold half a surrogate pair


def _chat_text(messages: object) -> str:
    if not isinstance(messages, list):
        raise InvalidRequestError("messages must be a list")
    lines: list[str] = []
    for message in cast("list[object]", messages):
        if not isinstance(message, dict):
            raise InvalidRequestError("each message must be an object")
        fields = cast("dict[str, object]", message)
        lines.append(f"{fields.get('role')}: {fields.get('content')}")
    return "\n".join(lines)
