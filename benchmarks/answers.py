"""Measures the CPU of reading an answer: per event of a stream, and for a complete answer.

Run with `python -m benchmarks.answers`. The chunks have the format of real engines, first with
one event each, then with eight. All variants take turns in one process, without garbage collection;
a figure is the minimum of the rounds. "no news" is a chunk that repeats the previous one except for
its text: such chunks are not decoded.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

from benchmarks.timing import Variant, interleave
from otel_lifecycle.instrumentation.http.answers import AnswerReader

ROUNDS = 10
EVENTS = 1_000
WORDS = (" the", " quick", "brown", " fox jumps", " over", "a", " lazy", " dog.")
CHAT = {
    "id": "chatcmpl-9f8c2d7e1b3a4c5d6e7f8091a2b3c4d5",
    "object": "chat.completion.chunk",
    "created": 1732900000,
    "model": "meta-llama/Llama-3.1-8B-Instruct",
}


def _event(payload: Any, name: str = "") -> bytes:
    prefix = f"event: {name}\n" if name else ""
    return f"{prefix}data: {json.dumps(payload, separators=(',', ':'))}\n\n".encode()


def _chat(number: int, text: str, **more: Any) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": None}
    return _event({**CHAT, "choices": [choice], **more})


def _chat_ids(number: int, text: str) -> bytes:
    return _chat(number, text, token_ids=[number])


def _chat_usage(number: int, text: str) -> bytes:
    counts = {"prompt_tokens": 9, "total_tokens": 9 + number, "completion_tokens": number}
    return _chat(number, text, usage=counts)


def _messages(_: int, text: str) -> bytes:
    delta = {"type": "text_delta", "text": text}
    kind = "content_block_delta"
    return _event({"type": kind, "index": 0, "delta": delta}, kind)


def _responses(number: int, text: str) -> bytes:
    kind = "response.output_text.delta"
    return _event(
        {"type": kind, "item_id": "msg_1", "sequence_number": number, "delta": text}, kind
    )


def _sglang(number: int, text: str) -> bytes:
    info = {"id": "eb0a2d6aa2b340d8", "finish_reason": None, "prompt_tokens": 9}
    counts = {"completion_tokens": number, "cached_tokens": 1, "e2e_latency": 0.1}
    return _event({"text": text, "output_ids": [number], "meta_info": {**info, **counts}})


def _ollama(number: int, text: str) -> bytes:
    made = f"2026-11-29T10:00:00.{number:06}Z"
    message = {"role": "assistant", "content": text}
    piece = {"model": "llama3", "created_at": made, "message": message, "done": False}
    return json.dumps(piece).encode() + b"\n"


STREAMS: dict[str, Callable[[int, str], bytes]] = {
    "chat, no news": _chat,
    "chat, token ids in each": _chat_ids,
    "chat, usage in each": _chat_usage,
    "messages, no news": _messages,
    "responses, numbered": _responses,
    "SGLang /generate": _sglang,
    "Ollama": _ollama,
}


def _read(chunks: list[bytes]) -> None:
    answer = AnswerReader()
    feed = answer.feed
    for chunk in chunks:
        feed(chunk)
    answer.finish()


def reader() -> Variant:
    """A whole stream of chat, event by event: each run reads `EVENTS` of them."""
    chunks = [_chat(number, WORDS[number % len(WORDS)]) for number in range(EVENTS)]
    return Variant("reader", _reading(chunks))


def _whole(words: int) -> bytes:
    message = {"role": "assistant", "content": "hello " * words}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    usage = {"prompt_tokens": 9, "completion_tokens": words, "total_tokens": 9 + words}
    return json.dumps({**CHAT, "choices": choices, "usage": usage}).encode()


def measure() -> dict[str, float]:
    """Return the microseconds of CPU by what is read."""
    work: dict[str, tuple[list[bytes], int]] = {}
    for name, make in STREAMS.items():
        chunks = [make(number, WORDS[number % len(WORDS)]) for number in range(EVENTS)]
        eights = [b"".join(chunks[start : start + 8]) for start in range(0, EVENTS, 8)]
        work[name] = chunks, EVENTS
        work[f"{name}, eight a chunk"] = eights, EVENTS
    for words in (20, 200, 20_000):
        body = _whole(words)
        work[f"whole answer of {len(body):,} bytes"] = [body], 1
    variants = {name: Variant(name, _reading(chunks)) for name, (chunks, _) in work.items()}
    interleave(list(variants.values()), ROUNDS, 1)
    return {name: variants[name].timed.path.minimum / units for name, (_, units) in work.items()}


def _reading(chunks: list[bytes]) -> Callable[[int], None]:
    return lambda _: _read(chunks)


def main() -> None:
    """Print the table."""
    print(f"Python {sys.version.split()[0]}, CPU time, the least of {ROUNDS} rounds")
    for name, microseconds in measure().items():
        print(f"  {name:<40}{microseconds:8.2f} us")


if __name__ == "__main__":
    main()
