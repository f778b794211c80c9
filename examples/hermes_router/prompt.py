"""The part of a prompt that a prefix cache uses: the chained hashes of its blocks."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, cast

from hermes_router.errors import InvalidFieldError

PROMPT_FORMS = "a string or a non-empty list of token ids"

BYTES_PER_TOKEN_ID = 8
BYTES_PER_TEXT_TOKEN = 4  # a rule of thumb for text: four characters per token


@dataclass(frozen=True)
class Prompt:
    """A prompt as bytes, hashed on demand for the block size of each endpoint."""

    content: bytes
    bytes_per_token: int
    _hashes: dict[int, tuple[bytes, ...]] = field(
        default_factory=dict[int, tuple[bytes, ...]], repr=False, compare=False
    )

    def block_hashes(self, block_size: int) -> tuple[bytes, ...]:
        """Return one hash per full block; each covers everything before it, as in the engines."""
        hashes = self._hashes.get(block_size)
        if hashes is None:
            hashes = self._hashes[block_size] = self._hash(block_size * self.bytes_per_token)
        return hashes

    def block_count(self, block_size: int) -> int:
        """Return how many blocks the prompt takes; the last one may be partial."""
        return max(1, -(-len(self.content) // (block_size * self.bytes_per_token)))

    def _hash(self, block_bytes: int) -> tuple[bytes, ...]:
        hashes: list[bytes] = []
        parent = b""
        for start in range(0, len(self.content) - block_bytes + 1, block_bytes):
            block = self.content[start : start + block_bytes]
            parent = blake2b(parent + block, digest_size=8).digest()
            hashes.append(parent)
        return tuple(hashes)


def text_prompt(text: str) -> Prompt:
    """Return the prompt of a request with text."""
    return Prompt(text.encode(errors="surrogatepass"), BYTES_PER_TEXT_TOKEN)


def token_prompt(token_ids: Sequence[int]) -> Prompt:
    """Return the prompt of a request with token ids."""
    try:
        return Prompt(array("q", token_ids).tobytes(), BYTES_PER_TOKEN_ID)
    except (TypeError, OverflowError) as error:
        raise InvalidFieldError("prompt", token_ids, PROMPT_FORMS) from error


def chat_text(messages: Any) -> str:
    """Return the messages of a chat, one per line, as the engines read them."""
    if not messages or not isinstance(messages, list):
        raise InvalidFieldError("messages", messages, "a non-empty list of messages")
    lines: list[str] = []
    for index, message in enumerate(cast("list[object]", messages)):
        if not isinstance(message, Mapping):
            raise InvalidFieldError(
                f"messages[{index}]", message, "an object with role and content"
            )
        fields = cast("Mapping[str, object]", message)
        lines.append(f"{fields.get('role')}: {fields.get('content')}")
    return "\n".join(lines)
