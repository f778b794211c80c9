"""Prompts that share prefixes, in the two forms of the OpenAI API."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Protocol


class Prompt(Protocol):
    """The prompt of a request."""

    @property
    def path(self) -> str:
        """The API of the request."""
        ...

    def fields(self) -> dict[str, object]:
        """The prompt's fields in the body of a request."""
        ...


@dataclass(frozen=True)
class ChatPrompt:
    """A system prompt and the turns of a conversation, the first and the last being the user's."""

    system: str
    turns: tuple[str, ...]

    @property
    def path(self) -> str:
        """The chat API."""
        return "/v1/chat/completions"

    def fields(self) -> dict[str, object]:
        """The messages."""
        messages = [{"role": "system", "content": self.system}]
        for index, turn in enumerate(self.turns):
            messages.append({"role": ("user", "assistant")[index % 2], "content": turn})
        return {"messages": messages}


@dataclass(frozen=True)
class TokenPrompt:
    """A prompt of token ids in blocks: equal block ids always mean equal tokens.

    Attributes:
        block_ids: The id of each block.
        block_size: Tokens per block.
        length: Tokens of the prompt; the last block may be cut.
    """

    block_ids: tuple[int, ...]
    block_size: int
    length: int

    @property
    def path(self) -> str:
        """The completions API, the one that takes token ids."""
        return "/v1/completions"

    def fields(self) -> dict[str, object]:
        """The token ids."""
        return {"prompt": self.token_ids()}

    def token_ids(self) -> list[int]:
        """The token ids, of a small vocabulary; computed on demand, as a trace has millions."""
        ids: list[int] = []
        for block_id in self.block_ids:
            ids += random.Random(block_id).randbytes(self.block_size)
        return ids[: self.length]
