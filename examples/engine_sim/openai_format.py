"""Renders OpenAI responses: JSON bodies and server-sent events."""

from __future__ import annotations

import json
import time
from itertools import cycle
from typing import Any

from engine_sim.engine import Job

DONE_EVENT = b"data: [DONE]\n\n"

_SENTENCE = "the router sends each request to the engine that will answer it soonest"


class Renderer:
    """Renders the answer to one request, chat or plain completion."""

    def __init__(self, *, chat: bool, request_id: str, model: str) -> None:
        self._chat = chat
        self._words = cycle(_SENTENCE.split())
        kind = "chat.completion" if chat else "text_completion"
        self._head: dict[str, Any] = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{request_id}",
            "object": kind,
            "created": int(time.time()),
            "model": model,
        }
        self._event_head: dict[str, Any] = dict(self._head)
        if chat:
            self._event_head["object"] = "chat.completion.chunk"
        # Only the words of an event change: render the rest once.
        template = json.dumps({**self._event_head, "choices": [self._choice("@", None)]})
        # The last one: the request id and the model, which come before it, may contain an "@".
        self._event_start, _, self._event_end = f"data: {template}\n\n".rpartition("@")

    def event(self, tokens: int, *, last: bool) -> bytes:
        """Render the event with `tokens` words of output."""
        if not last:
            return f"{self._event_start}{self._text(tokens)}{self._event_end}".encode()
        return _event({**self._event_head, "choices": [self._choice(self._text(tokens), "length")]})

    def usage_event(self, job: Job) -> bytes:
        """Render the event before the last, sent if the client asked for usage."""
        return _event({**self._event_head, "choices": [], "usage": _usage(job)})

    def body(self, job: Job) -> dict[str, Any]:
        """Render the complete answer to a request that does not stream."""
        text = self._text(job.output_tokens)
        if self._chat:
            message = {"role": "assistant", "content": text}
            choice: dict[str, Any] = {"index": 0, "message": message, "finish_reason": "length"}
        else:
            choice = {"index": 0, "text": text, "finish_reason": "length"}
        return {**self._head, "choices": [choice], "usage": _usage(job)}

    def _choice(self, text: str, finish_reason: str | None) -> dict[str, Any]:
        content: dict[str, Any] = {"delta": {"content": text}} if self._chat else {"text": text}
        return {"index": 0, **content, "finish_reason": finish_reason}

    def _text(self, tokens: int) -> str:
        return "".join(f"{next(self._words)} " for _ in range(tokens))


def _event(content: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(content)}\n\n".encode()


def _usage(job: Job) -> dict[str, Any]:
    return {
        "prompt_tokens": job.prompt.tokens,
        "completion_tokens": job.output_tokens,
        "total_tokens": job.prompt.tokens + job.output_tokens,
        "prompt_tokens_details": {"cached_tokens": job.cached_tokens},
    }
