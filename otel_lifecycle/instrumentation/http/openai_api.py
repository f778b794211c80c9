"""Reads the OpenAI-style API as it passes by: what is asked, and how the answer ends.

Nothing here buffers beyond a bound, and nothing raises, whatever the bytes are: what cannot be read
is unknown.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any

import msgspec

MAX_BUFFERED_BYTES = 1 << 20
_WINDOW_BYTES = 32 << 10
_OVERLAP_BYTES = 64  # longer than any mark that may lie across two chunks
_USAGE_BYTES = 4 << 10
_STREAM_MARKS = (b"data:", b"event:", b"id:", b"retry:", b":")
_CHARACTERS_PER_TOKEN = 4

# Paths by their end, with the GenAI operation each stands for.
OPERATIONS = {
    "/chat/completions": "chat",
    "/completions": "text_completion",
    "/messages": "chat",
    "/responses": "chat",
    "/generate": "text_completion",
}

# In the text of an answer the quotes are escaped and no line begins.
_TERMINATORS = (
    re.compile(rb'"finish_reason"\s*:\s*"'),
    re.compile(rb"\ndata: ?\[DONE\]"),
    re.compile(rb'"type"\s*:\s*"(?:message_stop|response\.(?:completed|incomplete))"'),
)
# How an engine tells of what went wrong after it had begun; vLLM ends such a stream like any other.
_ERROR = re.compile(rb'\ndata: ?\{\s*"error"\s*:\s*[{"]')
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


class _Call(msgspec.Struct):
    max_tokens: Any = None
    max_completion_tokens: Any = None
    kv_transfer_params: Any = None


_request_decoder = msgspec.json.Decoder(_Request)
# Of its own, because skipping a long prompt is much cheaper than reading it.
_call_decoder = msgspec.json.Decoder(_Call)


def is_prefill(body: bytes) -> bool:
    """Whether a call only fills a KV cache for another engine, as a PD proxy asks for."""
    try:
        call = _call_decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    limit = call.max_tokens or call.max_completion_tokens
    remote = _field(call.kv_transfer_params, "do_remote_decode") is True
    return remote or (limit == 1 and call.kv_transfer_params is not None)


class InferenceRequest:
    """What the body of a request says.

    Attributes:
        model: The model, empty when unknown.
        streaming: Whether a stream is asked for; None when unknown.
        input_tokens: Length of the prompt: of its token ids, or an estimate of its text.
        input_token_source: `tokenized`, `estimated` or None.
    """

    def __init__(self, body: bytes, *, whole: bool = True) -> None:
        self.model = ""
        self.streaming: bool | None = None
        self.input_tokens: int | None = None
        self.input_token_source: str | None = None
        if whole:
            try:
                self._read(_request_decoder.decode(body))
                return
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                pass
        self._scan(body)

    @classmethod
    def of_call(cls, model: object, prompt: object, *, streaming: bool) -> InferenceRequest:
        """The request of a program that calls a router without HTTP."""
        request = cls(b"", whole=False)
        with suppress(RecursionError):
            request._read(_Request(model=model, stream=streaming, prompt=prompt))
        return request

    def _read(self, request: _Request) -> None:
        if isinstance(request.model, str):
            self.model = request.model
        self.streaming = request.stream is True
        self._count(request)

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
        failed: Whether a stream told of an error.
        input_tokens: Prompt tokens of the usage.
        output_tokens: Completion tokens of the usage.
        cached_tokens: Cached prompt tokens of the usage.
    """

    def __init__(self) -> None:
        self.is_stream = False
        self.ended = False
        self.failed = False
        self.input_tokens: int | None = None
        self.output_tokens: int | None = None
        self.cached_tokens: int | None = None
        self._tail = b"\n"
        self._head: bytes | None = b""
        self._json: bytearray | None = None
        self._expected = 0

    @property
    def is_truncated(self) -> bool:
        """Whether the answer is known to be cut short.

        A stream that lacks its terminator, a body shorter than its header says, a JSON object that
        is not closed, or nothing at all.
        """
        if self.is_stream:
            return not self.ended
        if self._expected > 0 or self._head == b"":
            return True
        return self._json is not None and _is_cut(self._json)

    def expect(self, content_length: str | None) -> None:
        """Takes the length that the header of the body says, if there is one."""
        if content_length is not None and content_length.isdecimal():
            self._expected = int(content_length)

    def feed(self, chunk: bytes) -> None:
        """Takes the next bytes of the body."""
        self._expected -= len(chunk)
        if self._head is not None:
            self._look_for_stream(chunk)
        if self._json is not None:
            room = MAX_BUFFERED_BYTES - len(self._json)
            if len(chunk) <= room:
                self._json += chunk
            else:
                self._json = None
        # A usage object or a terminator may lie across two chunks: look at both ends together.
        window = self._tail + chunk
        if len(window) > _WINDOW_BYTES:
            window = window[-_WINDOW_BYTES:]
        if self.is_stream and not self.ended:
            self.ended = _is_end(window)
        if self.is_stream and not self.failed:
            self.failed = _ERROR.search(window) is not None
        self._tail = self._read_usage(window)

    def _look_for_stream(self, chunk: bytes) -> None:
        head = ((self._head or b"") + chunk[:_OVERLAP_BYTES]).lstrip()[:6]
        self.is_stream = head.startswith(_STREAM_MARKS)
        undecided = any(mark.startswith(head) for mark in _STREAM_MARKS)
        self._head = head if undecided and not self.is_stream else None
        if head.startswith(b"{"):
            self._json = bytearray()

    def _read_usage(self, window: bytes) -> bytes:
        """Reads what usage is whole; returns what is to be looked at again with the next chunk."""
        if b'"usage"' in window:
            for match in _USAGE.finditer(window):
                end = _end_of_object(window, match.end())
                if end is None:
                    if len(window) - match.end() < _USAGE_BYTES:
                        return window[match.start() :]
                    continue
                try:
                    usage = msgspec.json.decode(window[match.end() : end], type=dict[str, Any])
                except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                    continue
                self._set_usage(usage)
        return window[-_OVERLAP_BYTES:]

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


def _is_end(window: bytes) -> bool:
    # A loop: `any` makes a generator, for each chunk of each stream.
    for terminator in _TERMINATORS:  # noqa: SIM110
        if terminator.search(window):
            return True
    return False


def _is_cut(body: bytearray) -> bool:
    try:
        msgspec.json.decode(body, type=msgspec.Raw)
    except msgspec.DecodeError as error:
        return "truncated" in str(error)  # not so what is wrong in itself
    except RecursionError:
        pass
    return False


def _end_of_object(window: bytes, start: int) -> int | None:
    """Where the JSON object ends that begins at `start`; None when it is not all there."""
    end = start
    while True:
        end = window.find(b"}", end, start + _USAGE_BYTES) + 1
        if end == 0:
            return None
        if window.count(b"{", start, end) == window.count(b"}", start, end):
            return end


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
