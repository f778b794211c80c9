"""A streamed chat completion in the openai client's own types, without a server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
from openai.types.chat import ChatCompletionChunk

from benchmarks.peers.peer import CHUNKS
from benchmarks.requests import MODEL, OUTPUT_TOKENS

REQUEST: dict[str, Any] = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "Why is the sky blue?"}],
    "stream": True,
    "stream_options": {"include_usage": True},
}
CLIENT = openai.OpenAI(api_key="none", base_url="http://10.0.0.7:8000/v1")


def _chunk(number: int) -> ChatCompletionChunk:
    last = number == CHUNKS - 1
    usage = {"prompt_tokens": 512, "completion_tokens": OUTPUT_TOKENS, "total_tokens": 640}
    choice = {
        "index": 0,
        "delta": {} if last else {"role": "assistant", "content": "word "},
        "finish_reason": "stop" if last else None,
    }
    return ChatCompletionChunk.model_validate(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": MODEL,
            "choices": [choice],
            "usage": usage if last else None,
        }
    )


_CHUNKS = [_chunk(number) for number in range(CHUNKS)]


class ChatStream(openai.Stream[ChatCompletionChunk]):
    """The stream that the client returns, with parsed chunks."""

    def __init__(self) -> None:
        self._rest = iter(_CHUNKS)

    def __next__(self) -> ChatCompletionChunk:
        return next(self._rest)

    def __iter__(self) -> Iterator[ChatCompletionChunk]:
        return self

    def close(self) -> None:
        """Do nothing: nothing is open."""


def respond(*_: object, **__: object) -> ChatStream:
    """Stands in for the client's request to the engine."""
    return ChatStream()


def stream(_: int) -> None:
    """Pass on the answer without instrumentation."""
    for _chunk in respond():
        pass
