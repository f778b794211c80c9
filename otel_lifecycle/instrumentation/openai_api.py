"""Reads the OpenAI-style API as it passes by: what is asked, and how the answer ends.

Nothing here buffers beyond a bound, and nothing raises, whatever the bytes are: what cannot be read
is unknown.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

MAX_BUFFERED_BYTES = 1 << 20
_TAIL_BYTES = 16 << 10
_CHARACTERS_PER_TOKEN = 4

# Paths by their end, with the GenAI operation each stands for.
OPERATIONS = {
    "/chat/completions": "chat",
    "/completions": "text_completion",
    "/messages": "chat",
    "/responses": "chat",
    "/generate": "text_completion",
}

_TERMINATORS = (b"data: [DONE]", b"data:[DONE]", b"message_stop", b"response.completed")
_FINISH_REASON = re.compile(rb'"finish_reason"\s*:\s*"')
_USAGE = re.compile(rb'"usage"\s*:\s*(?=\{)')
_MODEL = re.compile(rb'"model"\s*:\s*("(?:[^"\\]|\\.){0,512}")')
_STREAM = re.compile(rb'"stream"\s*:\s*(true|false)')


def operation(path: str) -> str | None:
    """The GenAI operation of a path; None when it is no inference."""
    for ending, name in OPERATIONS.items():
        if path.endswith(ending):
            return name
    return None


class _Request(msgspec.Struct):
    model: Any = ""
    stream: Any = False
    prompt: Any = None
    messages: Any = None
    input: Any = None
    text: Any = None
    max_tokens: Any = None
    max_completion_tokens: Any = None
    kv_transfer_params: Any = None


_request_decoder = msgspec.json.Decoder(_Request)


class InferenceRequest:
    """What the body of a request says.

    Attributes:
        model: The model, empty when unknown.
        streaming: Whether a stream is asked for; None when unknown.
        input_tokens: Length of the prompt: of its token ids, or an estimate of its text.
        input_token_source: `tokenized`, `estimated` or None.
        is_prefill: Whether it only fills a KV cache for another engine, as a PD proxy asks for.
    """

    def __init__(self, body: bytes, *, whole: bool = True) -> None:
        self.model = ""
        self.streaming: bool | None = None
        self.input_tokens: int | None = None
        self.input_token_source: str | None = None
        self.is_prefill = False
        if whole:
            try:
                self._read(_request_decoder.decode(body))
                return
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                pass
        self._scan(body)

    def _read(self, request: _Request) -> None:
        if isinstance(request.model, str):
            self.model = request.model
        self.streaming = request.stream is True
        self._count(request)
        limit = request.max_tokens or request.max_completion_tokens
        remote = _field(request.kv_transfer_params, "do_remote_decode") is True
        self.is_prefill = remote or (limit == 1 and request.kv_transfer_params is not None)

    def _count(self, request: _Request) -> None:
        prompt: Any = request.text if request.prompt is None else request.prompt
        if _is_token_ids(prompt):
            self.input_tokens = len(prompt)
            self.input_token_source = "tokenized"
            return
        texts: tuple[Any, ...] = (prompt, request.messages, request.input)
        characters = sum(_characters(text) for text in texts)
        if characters:
            self.input_tokens = max(1, round(characters / _CHARACTERS_PER_TOKEN))
            self.input_token_source = "estimated"

    def _scan(self, body: bytes) -> None:
        model = _MODEL.search(body)
        if model is not None:
            try:
                self.model = msgspec.json.decode(model[1], type=str)
            except (msgspec.DecodeError, UnicodeDecodeError):
                self.model = ""
        stream = _STREAM.search(body)
        if stream is not None:
            self.streaming = stream[1] == b"true"


class ResponseReader:
    """Watches a response pass by: its terminator and its usage.

    Attributes:
        is_stream: Whether server-sent events were seen.
        ended: Whether a stream's terminator was seen.
        input_tokens: Prompt tokens of the usage.
        output_tokens: Completion tokens of the usage.
        cached_tokens: Cached prompt tokens of the usage.
    """

    def __init__(self) -> None:
        self.is_stream = False
        self.ended = False
        self.input_tokens: int | None = None
        self.output_tokens: int | None = None
        self.cached_tokens: int | None = None
        self._tail = b""
        self._began = False

    def feed(self, chunk: bytes) -> None:
        """Takes the next bytes of the body."""
        if not self._began:
            self._began = True
            self.is_stream = chunk.lstrip()[:6].startswith((b"data:", b"event:", b":"))
        # A usage object or a terminator may lie across two chunks: look at both ends together.
        window = self._tail + chunk
        if len(window) > 2 * _TAIL_BYTES:
            window = window[-2 * _TAIL_BYTES :]
        if b'"usage"' in window:
            self._read_usage(window)
        if self.is_stream and not self.ended:
            self.ended = (
                any(terminator in window for terminator in _TERMINATORS)
                or _FINISH_REASON.search(window) is not None
            )
        self._tail = window[-_TAIL_BYTES:] if b'"usage"' in window else window[-64:]

    def _read_usage(self, window: bytes) -> None:
        for match in _USAGE.finditer(window):
            usage = _first_object(window, match.end())
            if usage is not None:
                self._set_usage(usage)

    def _set_usage(self, usage: dict[str, Any]) -> None:
        for field, names in (
            ("input_tokens", ("prompt_tokens", "input_tokens")),
            ("output_tokens", ("completion_tokens", "output_tokens")),
        ):
            value = next((usage[name] for name in names if type(usage.get(name)) is int), None)
            if value is not None:
                setattr(self, field, value)
        for name in ("prompt_tokens_details", "input_tokens_details"):
            details: Any = usage.get(name)
            cached: Any = _field(details, "cached_tokens")
            if type(cached) is int:
                self.cached_tokens = cached


def _first_object(window: bytes, start: int) -> dict[str, Any] | None:
    """The JSON object that begins at `start`, if it is all there."""
    depth = 0
    for index in range(start, min(len(window), start + 4_096)):
        byte = window[index]
        depth += (byte == 0x7B) - (byte == 0x7D)
        if depth == 0:
            try:
                return msgspec.json.decode(window[start : index + 1], type=dict[str, Any])
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                return None
    return None


def _field(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


def _is_token_ids(prompt: Any) -> bool:
    return isinstance(prompt, list) and bool(prompt) and all(type(token) is int for token in prompt)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]


def _characters(part: Any) -> int:
    """The text in a prompt, a list of messages, or the parts of one."""
    if isinstance(part, str):
        return len(part)
    if isinstance(part, list):
        return sum(_characters(item) for item in part)  # pyright: ignore[reportUnknownVariableType]
    if isinstance(part, dict):
        return _characters(_field(part, "content")) + _characters(_field(part, "text"))
    return 0
