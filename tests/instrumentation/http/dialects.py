"""Answers in each dialect, with the expected results of reading them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

DONE = b"data: [DONE]\n\n"
CHUNK = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}


def sse(*events: Any, name: str | None = None, end: str = "\n") -> bytes:
    """Server-sent events, one per object, named by a dict's `type` if `name` is `type`."""
    told = b""
    for event in events:
        if name is not None:
            told += f"event: {event['type'] if name == 'type' else name}{end}".encode()
        told += f"data: {json.dumps(event)}{end}{end}".encode()
    return told


def lines(*pieces: Any, end: bytes = b"\n") -> bytes:
    """One line of JSON per piece."""
    return b"".join(json.dumps(piece).encode() + end for piece in pieces)


def chat(delta: Any, reason: Any = None, index: int = 0, **more: Any) -> dict[str, Any]:
    """A chunk of a chat completion."""
    choice = {"index": index, "delta": delta, "finish_reason": reason}
    return {**CHUNK, "choices": [choice], **more}


def generated(text: str, count: int, reason: Any = None, **more: Any) -> dict[str, Any]:
    """A chunk of SGLang's own dialect."""
    info = {
        "id": "r",
        "finish_reason": reason,
        "prompt_tokens": 9,
        "completion_tokens": count,
        "cached_tokens": 4,
    }
    return {"text": text, "output_ids": list(range(count)), "meta_info": info, **more}


USAGE = {
    "prompt_tokens": 9,
    "completion_tokens": 3,
    "total_tokens": 12,
    "prompt_tokens_details": {"cached_tokens": 4},
}


@dataclass(frozen=True)
class Said:
    """The result of reading a complete answer.

    Attributes:
        name: Name of the dialect and the answer.
        body: Its bytes.
        usage: Input, output and cached tokens.
        reason: The finish reason.
        is_stream: Whether it is a stream.
        ended: Whether the answer itself shows its end.
        headers: Headers of the response.
    """

    name: str
    body: bytes
    usage: tuple[int | None, int | None, int | None] = (9, 3, 4)
    reason: str | None = "stop"
    is_stream: bool = True
    ended: bool = True
    has_output: bool = True
    headers: dict[str, str] = field(default_factory=dict[str, str])


ANTHROPIC = (
    {
        "type": "message_start",
        "message": {
            "usage": {
                "input_tokens": 2,
                "cache_creation_input_tokens": 3,
                "cache_read_input_tokens": 4,
                "output_tokens": 1,
            }
        },
    },
    {"type": "ping"},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "a"}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "b"}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "c"}},
    {"type": "content_block_stop", "index": 0},
    {
        "type": "message_delta",
        "delta": {"stop_reason": "end_turn", "stop_sequence": None},
        "usage": {"output_tokens": 3},
    },
    {"type": "message_stop"},
)
RESPONSE_USAGE = {
    "input_tokens": 9,
    "input_tokens_details": {"cached_tokens": 4},
    "output_tokens": 3,
    "output_tokens_details": {"reasoning_tokens": 1},
    "total_tokens": 12,
}
RESPONSES = (
    {"type": "response.created", "response": {"id": "r", "status": "in_progress", "usage": None}},
    {"type": "response.output_item.added", "item": {"type": "message"}},
    {"type": "response.output_text.delta", "delta": "a", "sequence_number": 3},
    {"type": "response.output_text.delta", "delta": "b", "sequence_number": 4},
    {
        "type": "response.completed",
        "response": {"id": "r", "status": "completed", "error": None, "usage": RESPONSE_USAGE},
    },
)
GEMINI_USAGE = {
    "promptTokenCount": 9,
    "candidatesTokenCount": 2,
    "thoughtsTokenCount": 1,
    "cachedContentTokenCount": 4,
}
GEMINI = (
    {"candidates": [{"content": {"parts": [{"text": "a"}], "role": "model"}, "index": 0}]},
    {
        "candidates": [{"content": {"parts": [{"text": "b"}]}, "finishReason": "STOP"}],
        "usageMetadata": GEMINI_USAGE,
    },
)
OLLAMA = (
    {"model": "m", "created_at": "t", "message": {"role": "assistant", "content": ""}},
    {"model": "m", "created_at": "t", "message": {"role": "assistant", "content": "a"}},
    {
        "model": "m",
        "message": {"content": ""},
        "done": True,
        "done_reason": "stop",
        "prompt_eval_count": 9,
        "eval_count": 3,
    },
)
OLLAMA_STREAM = ({**OLLAMA[0], "done": False}, {**OLLAMA[1], "done": False}, OLLAMA[2])
TGI_DETAILS = {"finish_reason": "stop", "generated_tokens": 3, "input_length": 9, "seed": None}
TOKEN = {"id": 1, "text": "a", "logprob": -0.5, "special": False}

STREAMS = [
    Said(
        "chat",
        sse(
            chat({"role": "assistant", "content": ""}),
            *(chat({"content": text}) for text in ("a", "b", "c", "d\n", "")),
            chat({}, "stop"),
            {**CHUNK, "choices": [], "usage": USAGE},
        )
        + DONE,
    ),
    Said(
        "chat, usage in each chunk, no terminator",
        sse(
            *(
                chat({"content": "x"}, usage={**USAGE, "completion_tokens": count})
                for count in (0, 1, 2)
            ),
            chat({"content": "x"}, "stop", usage=USAGE),
        ),
    ),
    Said(
        "chat, two choices",
        sse(
            chat({"content": "a"}),
            chat({"content": "b"}, index=1),
            chat({}, "length"),
            chat({"content": "c"}, index=1),
            chat({}, "stop", index=1, usage=USAGE),
        ),
        reason="length",
    ),
    Said(
        "chat, usage in the choice",
        sse(
            chat({"content": "a"}),
            {**CHUNK, "choices": [{"index": 0, "finish_reason": "stop", "usage": USAGE}]},
        )
        + DONE,
    ),
    Said(
        "chat, usage of Groq and DeepSeek",
        sse(
            chat({"content": "a"}),
            chat(
                {},
                "stop",
                x_groq={
                    "usage": {
                        "prompt_tokens": 9,
                        "completion_tokens": 3,
                        "prompt_cache_hit_tokens": 4,
                    }
                },
            ),
        ),
    ),
    Said(
        "completions",
        sse(
            *({**CHUNK, "choices": [{"index": 0, "text": text}]} for text in "abc"),
            {
                **CHUNK,
                "choices": [{"index": 0, "text": "", "finish_reason": "stop"}],
                "usage": USAGE,
            },
        )
        + DONE,
    ),
    Said("responses", sse(*RESPONSES, name="type"), reason="completed"),
    Said("responses without names", sse(*RESPONSES), reason="completed"),
    Said(
        "responses, cut by the limit",
        sse(
            *RESPONSES[:-1],
            {
                "type": "response.incomplete",
                "response": {
                    "status": "incomplete",
                    "incomplete_details": {"reason": "max_output_tokens"},
                    "usage": RESPONSE_USAGE,
                },
            },
            name="type",
        ),
        reason="max_output_tokens",
    ),
    Said("messages", sse(*ANTHROPIC, name="type"), reason="end_turn"),
    Said("messages, CRLF", sse(*ANTHROPIC, name="type", end="\r\n"), reason="end_turn"),
    Said("messages, CR", sse(*ANTHROPIC, name="type", end="\r"), reason="end_turn"),
    Said(
        "SGLang",
        sse(
            generated("a", 1),
            generated("ab", 2),
            generated("abc", 3, {"type": "stop", "matched": 2}),
        )
        + DONE,
    ),
    Said(
        "TGI",
        sse(
            {"index": 1, "token": TOKEN, "generated_text": None, "details": None},
            {"index": 2, "token": TOKEN, "generated_text": None, "details": None},
            {"index": 3, "token": TOKEN, "generated_text": "aaa", "details": TGI_DETAILS},
        ),
        usage=(9, 3, None),
    ),
    Said("Ollama", lines(*OLLAMA_STREAM), usage=(9, 3, None)),
    Said(
        "Ollama, one line",
        lines(OLLAMA[2]),
        usage=(9, 3, None),
        headers={"content-type": "application/x-ndjson"},
        has_output=False,
    ),
    Said("Gemini", sse(*GEMINI, end="\r\n"), reason="STOP"),
    Said(
        "FastChat's worker",
        lines(
            *(
                {"text": text, "error_code": 0, "usage": {**USAGE, "completion_tokens": count}}
                for count, text in enumerate(("", "a", "ab"))
            ),
            {"text": "abc", "error_code": 0, "usage": USAGE, "finish_reason": "stop"},
            end=b"\0",
        ),
    ),
    Said(
        "vLLM's demo",
        lines({"text": ["a"]}, {"text": ["ab"]}),
        usage=(None, None, None),
        reason=None,
        ended=False,
    ),
    Said(
        "text without an end mark",
        sse({"text_output": "a", "model_name": "m"}, {"text_output": "b", "model_name": "m"}),
        usage=(None, None, None),
        reason=None,
        ended=False,
    ),
]


def body(*, name: str, value: Any, **said: Any) -> Said:
    """A complete answer."""
    content = value if isinstance(value, bytes) else json.dumps(value).encode()
    return Said(name, content, **{"is_stream": False, **said})


MESSAGE = {"role": "assistant", "content": "abc"}
WHOLE = [
    body(
        name="chat",
        value={
            "object": "chat.completion",
            "choices": [{"index": 0, "message": MESSAGE, "finish_reason": "stop"}],
            "usage": USAGE,
        },
    ),
    body(
        name="usage before much else",
        value={
            "usage": USAGE,
            "choices": [{"index": 0, "message": MESSAGE, "finish_reason": "stop"}],
            "prompt_token_ids": list(range(10_000)),
        },
    ),
    body(
        name="chat, indented, of two choices",
        value=json.dumps(
            {
                "choices": [
                    {"index": index, "message": MESSAGE, "finish_reason": reason}
                    for index, reason in enumerate(("length", "stop"))
                ],
                "usage": USAGE,
            },
            indent=2,
        ).encode()
        + b"\n",
        reason="length",
    ),
    body(
        name="not a number, and half a character",
        value=b'{"choices":[{"text":"\\ud83d","logprobs":[NaN,-Infinity],"finish_reason":"stop"}],'
        b'"usage":' + json.dumps(USAGE).encode() + b"}",
    ),
    body(
        name="responses",
        value={
            "object": "response",
            "status": "completed",
            "output": [{"type": "message"}],
            "error": None,
            "usage": RESPONSE_USAGE,
        },
        reason="completed",
    ),
    body(
        name="messages",
        value={
            "type": "message",
            "content": [{"type": "text", "text": "abc"}],
            "stop_reason": "end_turn",
            "usage": {
                "input_tokens": 2,
                "cache_creation_input_tokens": 3,
                "cache_read_input_tokens": 4,
                "output_tokens": 3,
            },
        },
        reason="end_turn",
    ),
    body(
        name="messages, all of it cached",
        value={
            "type": "message",
            "content": [{"type": "text", "text": "abc"}],
            "stop_reason": "end_turn",
            "usage": {"input_tokens": 0, "cache_read_input_tokens": 4, "output_tokens": 3},
        },
        usage=(4, 3, 4),
        reason="end_turn",
    ),
    body(name="SGLang", value=generated("abc", 3, {"type": "stop"})),
    body(
        name="SGLang, two prompts",
        value=[generated("abc", 3, {"type": "stop"}), generated("ab", 2, {"type": "length"})],
        usage=(18, 5, None),
    ),
    body(
        name="TGI",
        value=[{"generated_text": "abc", "details": {**TGI_DETAILS, "tokens": [TOKEN] * 3}}],
        usage=(9, 3, None),
    ),
    body(
        name="TGI without details", value={"generated_text": "abc"}, usage=(None,) * 3, reason=None
    ),
    body(name="Ollama", value={**OLLAMA[2], "message": MESSAGE}, usage=(9, 3, None)),
    body(name="Gemini", value={**GEMINI[0], **GEMINI[1]}, reason="STOP"),
    body(name="Gemini, a list", value=list(GEMINI), reason="STOP"),
    body(
        name="Gemini, refused",
        value={
            "promptFeedback": {"blockReason": "SAFETY"},
            "usageMetadata": {"promptTokenCount": 9},
        },
        usage=(9, None, None),
        reason="SAFETY",
        has_output=False,
    ),
    body(
        name="embeddings",
        value={"object": "list", "data": [], "usage": {"prompt_tokens": 9, "total_tokens": 9}},
        usage=(9, None, None),
        reason=None,
        ended=False,
        has_output=False,
    ),
    body(
        name="embeddings that count no completion",
        value={"data": [], "usage": {"prompt_tokens": 9, "completion_tokens": 0}},
        usage=(9, 0, None),
        reason=None,
        ended=False,
        has_output=False,
    ),
    body(
        name="rerank",
        value={"results": [{"index": 0, "relevance_score": 0.5}], "usage": {"total_tokens": 9}},
        usage=(9, None, None),
        reason=None,
        ended=False,
        has_output=False,
    ),
    body(
        name="embeddings of 3 MB",
        value={"data": [{"embedding": [0.123456789] * 250_000}], "usage": {"prompt_tokens": 9}},
        usage=(9, None, None),
        reason=None,
        ended=False,
        has_output=False,
    ),
    body(
        name="a list of numbers",
        value=[[0.5, 1e-3], [1, 2]],
        usage=(None,) * 3,
        reason=None,
        ended=False,
        has_output=False,
    ),
]

# Each is inserted between the first chunks of a chat stream and its end.
ERRORS_IN_A_STREAM = {
    "object": sse({"error": {"message": "out of memory", "code": 500}}),
    "text": sse({"error": "gone"}),
    "behind other keys": sse(chat({}, None, error={"code": 502, "message": "gone"})),
    "in the choice": sse(
        {**CHUNK, "choices": [{"index": 0, "error": {"code": 502}, "finish_reason": None}]}
    ),
    "flat": sse({"object": "error", "message": "boom", "type": "InternalServerError", "code": 500}),
    "flat without object": sse({"message": "boom", "type": "BadRequestError", "param": None}),
    "flat with a code": sse({"message": "boom", "code": 500}),
    "named": sse({"message": "x", "code": 500}, name="error"),
    "named, no JSON": b"event: error\ndata: engine is gone\n\n",
    "typed": sse({"type": "error", "message": "busy", "code": None}),
    "typed and nested": sse({"type": "error", "error": {"type": "overloaded_error"}}),
    "status": sse({"status": "failed"}),
    "abort": sse(chat({}, "abort")),
    "finish reason": sse(chat({"content": ""}, "error")),
    "reason as an object": sse(chat({}, {"type": "abort"})),
    "error code": sse({"text": "x", "error_code": 50001}),
    "not an event": b'{"error": {"message": "gone"}}\n\n',
    "several lines": b'data: {"error":\ndata: {"message": "gone"}}\n\n',
    "not a number beside it": b'data: {"x": NaN, "error": {"message": "gone"}}\n\n',
    "an odd type beside it": b'data: {"choices": 5, "error": {"message": "gone"}}\n\n',
}
NO_ERRORS_IN_A_STREAM = {
    "null": sse(chat({"content": "a"}, error=None)),
    "empty": sse(chat({"content": "a"}, error={})),
    "talk of one": sse(chat({"content": 'data: {"error": {"code": 5}}\n\n'})),
    "key of a text": sse(chat({"content": "a"}, metadata={"error": "none"})),
    "a comment": b": error\n\n",
    "name without data": b"event: error\n\n",
    "JSON that is none": b'data: {"error": {"message"\n\n',
    "deep": b"data: " + b"[" * 100_000 + b"\n\n",
}
ERRORS_AS_BODY: dict[str, Any] = {
    "object": {"error": {"message": "rate limit", "type": "rate_limit_error", "code": 429}},
    "text": {"error": "gone"},
    "flat": {"object": "error", "message": "boom", "type": "BadRequestError", "code": 400},
    "typed": {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}},
    "response": {"object": "response", "status": "failed", "error": {"code": "server_error"}},
    "response cancelled": {"object": "response", "status": "cancelled", "error": None},
    "abort": {"choices": [{"text": "", "finish_reason": "abort"}]},
    "abort of one": {
        "choices": [{"finish_reason": "stop"}, {"index": 1, "finish_reason": "error"}]
    },
    "SGLang": generated("", 0, {"type": "abort", "message": "x"}),
    "one of several prompts": [generated("a", 1, {"type": "stop"}), {"error": {"message": "x"}}],
    "Gemini": {"error": {"code": 503, "status": "UNAVAILABLE"}},
    "Gemini, a list": [{"error": {"code": 503, "status": "UNAVAILABLE"}}],
    "Ollama": {"error": "model not found"},
    "of 3 MB": {"choices": [{"text": "x" * (3 << 20)}], "error": {"code": 500}},
}
