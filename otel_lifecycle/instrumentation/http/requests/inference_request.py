"""What a client asks an engine for, read from the body of its request."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import msgspec

from otel_lifecycle.instrumentation.http.requests.top_level_scanner import (
    TopLevelScanner,
    without_strings,
)
from otel_lifecycle.model.request import TokenIds
from otel_lifecycle.tracking.asked.body import BodyFields, Path

MAX_BUFFERED_BYTES = 1 << 20
_CHARACTERS_PER_TOKEN = 4
_TOKENIZED = "tokenized"
_MAX_PARTS = 20_000  # of a prompt; the length of one that has more is not estimated
_MAX_CHOICES = 1 << 10
_NOT_OF_TOKEN_IDS = bytes(byte for byte in range(256) if byte not in b"0123456789,[]")
_BLANKS = b" \t\r\n"
_TRUE = frozenset({"true", "1", "on", "yes", "y", "t"})
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_LIMITS = ("max_tokens", "max_completion_tokens")
_SCANNED = ("model", "stream", "n", *_LIMITS)

_Scalar = str | int | float | bool | None


class _Part(msgspec.Struct, gc=False):
    """A message, or a part of one."""

    content: _Scalar | _Part | list[_Scalar | _Part] = None
    text: _Scalar | _Part | list[_Scalar | _Part] = None


class _Sampling(msgspec.Struct):
    n: _Scalar = None


_NULL = msgspec.Raw(b"null")


class _Request(msgspec.Struct):
    model: msgspec.Raw = _NULL
    stream: msgspec.Raw = _NULL
    n: msgspec.Raw = _NULL
    max_tokens: msgspec.Raw = _NULL
    max_completion_tokens: msgspec.Raw = _NULL
    sampling_params: msgspec.Raw = _NULL
    prompt: msgspec.Raw = _NULL
    text: msgspec.Raw = _NULL
    input_ids: msgspec.Raw = _NULL
    messages: msgspec.Raw = _NULL
    input: msgspec.Raw = _NULL
    tools: msgspec.Raw = _NULL
    system: msgspec.Raw = _NULL
    instructions: msgspec.Raw = _NULL


# What a body has that asks for output: something to answer, and how.
_PROMPTS = frozenset({"prompt", "messages", "input", "inputs", "input_ids", "text", "contents"})
_WAYS = frozenset(
    {
        "stream",
        "max_tokens",
        "max_completion_tokens",
        "max_new_tokens",
        "max_output_tokens",
        "sampling_params",
        "parameters",
        "generationConfig",
        "temperature",
    }
)


class _Usual(msgspec.Struct):
    """A request whose fields are of the types that they should be."""

    model: str | None = None
    stream: bool | None = None
    n: int | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    sampling_params: msgspec.Raw = _NULL
    prompt: msgspec.Raw = _NULL
    text: msgspec.Raw = _NULL
    input_ids: msgspec.Raw = _NULL
    messages: msgspec.Raw = _NULL
    input: msgspec.Raw = _NULL
    tools: msgspec.Raw = _NULL
    system: msgspec.Raw = _NULL
    instructions: msgspec.Raw = _NULL


_Text = _Scalar | _Part | list[_Scalar | _Part]
_usual_decoder = msgspec.json.Decoder(_Usual)
_request_decoder = msgspec.json.Decoder(_Request)
_names_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_scalar_decoder = msgspec.json.Decoder(_Scalar)
_text_decoder = msgspec.json.Decoder(_Text)
_sampling_decoder = msgspec.json.Decoder(_Sampling)


def asks_for_output(body: bytes) -> bool:
    """Return whether a call, whatever its path, has a prompt and says how to answer it.

    Moderation, tokenization and the like have the prompt alone.
    """
    try:
        names = _names_decoder.decode(body).keys()
    except _UNREADABLE:
        return False
    return not names.isdisjoint(_PROMPTS) and not names.isdisjoint(_WAYS)


class InferenceRequest:
    """What the body of a request says.

    Attributes:
        model: The model, empty when unknown.
        streaming: Whether a stream is asked for; None when unknown.
        input_tokens: Length of the prompt: of its token ids, or an estimate of its text.
        input_token_source: `tokenized`, `estimated` or None.
        samples: How many answers to each prompt are asked for.
        choices: How many answers to all prompts.
        is_one_token: Whether a single token is asked for.
    """

    __slots__ = (
        "_prompt",
        "choices",
        "input_token_source",
        "input_tokens",
        "is_one_token",
        "model",
        "samples",
        "streaming",
    )

    def __init__(self) -> None:
        self.model = ""
        self.streaming: bool | None = None
        self.input_tokens: int | None = None
        self.input_token_source: str | None = None
        self.samples = 1
        self.choices = 1
        self.is_one_token = False
        self._prompt: tuple[msgspec.Raw | bytes, ...] = ()

    @classmethod
    def of_body(cls, body: bytes) -> InferenceRequest:
        """Read a whole body; what cannot be read of it is unknown."""
        request = cls()
        try:
            usual = _usual_decoder.decode(body)
        except _UNREADABLE:
            return cls._of_unusual_body(body)
        request._set(usual.model, usual.n)
        request.streaming = usual.stream is True
        request.is_one_token = usual.max_tokens == 1 or usual.max_completion_tokens == 1
        request._read_prompt(usual)
        return request

    @classmethod
    def _of_unusual_body(cls, body: bytes) -> InferenceRequest:
        request = cls()
        try:
            request._read(_request_decoder.decode(body))
        except _UNREADABLE:
            scanner = TopLevelScanner(_SCANNED)
            scanner.feed(body)
            return cls.of_scan(scanner)
        return request

    @classmethod
    def of_scan(cls, scanner: TopLevelScanner) -> InferenceRequest:
        """Take what was found in a body that is too big to keep, or not all there."""
        request = cls()
        found = {name: _scalar(value) for name, value in scanner.values.items()}
        request._set(found.get("model"), found.get("n"))
        if "stream" in found or scanner.is_whole:
            request.streaming = _is_true(found.get("stream"))
        request.is_one_token = any(found.get(name) == 1 for name in _LIMITS)
        return request

    @classmethod
    def of_call(cls, model: object, prompt: object, *, streaming: bool) -> InferenceRequest:
        """Read the request of a program that calls a router without HTTP."""
        request = cls()
        request._set(model, None)
        request.streaming = streaming
        with suppress(TypeError, ValueError, RecursionError):
            encoded = msgspec.json.encode(prompt)
            if not request._measure_ids(encoded):
                request._measure([encoded])
            request._prompt = (encoded,)
        return request

    def take_prompt(self, *, wanted: bool) -> bytes | memoryview | TokenIds | None:
        """Return the prompt as it is in the body; None if it is not wanted, or not one.

        It is forgotten either way: the request lives longer than its body should.
        """
        parts, self._prompt = self._prompt, ()
        if not wanted or not parts or self.choices != self.samples:
            return None
        prompt = memoryview(parts[0]) if len(parts) == 1 else b"".join(map(bytes, parts))
        return TokenIds(prompt) if self.input_token_source == _TOKENIZED else prompt

    def _read(self, body: _Request) -> None:
        self._set(_scalar(body.model), _scalar(body.n))
        self.streaming = _is_true(_scalar(body.stream))
        self.is_one_token = 1 in (_scalar(body.max_tokens), _scalar(body.max_completion_tokens))
        self._read_prompt(body)

    def _read_prompt(self, body: _Request | _Usual) -> None:
        if body.sampling_params is not _NULL:
            with suppress(*_UNREADABLE):
                sampling = _sampling_decoder.decode(body.sampling_params)
                self.samples = max(self.samples, _count(sampling.n))
        self.choices = self.samples
        for prompts in (body.prompt, body.text, body.input_ids):
            if prompts is not _NULL:
                self.choices = max(self.choices, self.samples * _prompts(bytes(prompts)))
        for ids in (body.prompt, body.input_ids):
            if self._measure_ids(ids):
                self._prompt = (ids,)
                return
        texts = [
            text
            for text in (body.prompt, body.text, body.messages, body.input)
            if text is not _NULL
        ]
        self._measure([bytes(text) for text in texts])
        # What chat templates put before the messages.
        before = (body.tools, body.system, body.instructions)
        self._prompt = tuple([one for one in (*before, *texts) if one != _NULL])

    def _set(self, model: object, samples: object) -> None:
        if isinstance(model, str):
            self.model = model
        self.samples = self.choices = _count(samples)

    def _measure_ids(self, raw: bytes | msgspec.Raw) -> bool:
        """Count token ids without making objects of them."""
        if raw is _NULL:
            return False
        ids = bytes(raw)
        if not ids.startswith(b"["):
            return False
        compact = ids.translate(None, _BLANKS)
        if compact.translate(None, _NOT_OF_TOKEN_IDS) != compact or b"[]" in compact:
            return False
        self.input_tokens = compact.count(b",") + 1
        self.input_token_source = _TOKENIZED
        return True

    def _measure(self, texts: list[bytes]) -> None:
        """Estimate the tokens of a text by its characters."""
        characters = 0
        for text in texts:
            if len(text) > _MAX_PARTS and _parts(text) > _MAX_PARTS:
                return
            with suppress(*_UNREADABLE):
                characters += _characters(_text_decoder.decode(text))
        if characters:
            self.input_tokens = max(1, round(characters / _CHARACTERS_PER_TOKEN))
            self.input_token_source = "estimated"


class RequestReader:
    """Reads the body of a request as it arrives, and keeps at most `MAX_BUFFERED_BYTES` of it.

    Args:
        request: What has been read already, if anything.
        wanted: Reads further fields; None: none.

    Attributes:
        fields: Further fields of the body, as of the last `read`.
    """

    __slots__ = ("_body", "_request", "_scanner", "_wanted", "fields")

    def __init__(
        self, request: InferenceRequest | None = None, wanted: BodyFields | None = None
    ) -> None:
        self.fields: Mapping[Path, object] = {}
        self._wanted = wanted
        self._body: bytes | bytearray = b""
        self._request = request
        self._scanner: TopLevelScanner | None = None

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes."""
        if self._scanner is None and len(self._body) + len(chunk) <= MAX_BUFFERED_BYTES:
            if not self._body:
                self._body = chunk
            elif isinstance(self._body, bytearray):
                self._body += chunk
            else:
                self._body = bytearray(self._body) + chunk
            return
        if self._scanner is None:
            self._scanner = self._new_scanner()
            self._body = b""
        self._scanner.feed(chunk)

    def read(self, *, whole: bool) -> InferenceRequest:
        """Return what the bytes so far say; `whole` when there are no more."""
        if self._request is not None:
            return self._request
        scanner = self._scanner
        if not whole:
            if scanner is None:
                scanner = self._new_scanner()
            return self._of_scan(scanner)
        if scanner is None:
            body = bytes(self._body)
            self._request = InferenceRequest.of_body(body)
            if self._wanted is not None:
                self.fields = self._wanted.read(body)
        else:
            self._request = self._of_scan(scanner)
        self._body, self._scanner = b"", None
        return self._request

    def _new_scanner(self) -> TopLevelScanner:
        """Return what finds single values in the bytes so far."""
        wanted = () if self._wanted is None else self._wanted.names
        scanner = TopLevelScanner((*_SCANNED, *wanted))
        scanner.feed(bytes(self._body))
        return scanner

    def _of_scan(self, scanner: TopLevelScanner) -> InferenceRequest:
        if self._wanted is not None:
            self.fields = self._wanted.read_values(scanner.values)
        return InferenceRequest.of_scan(scanner)


def _scalar(raw: msgspec.Raw | bytes) -> object:
    if raw is _NULL:
        return None
    try:
        return _scalar_decoder.decode(raw)
    except _UNREADABLE:
        return None


def _is_true(value: object) -> bool:
    """Return whether an engine takes the value for true."""
    return value.lower() in _TRUE if isinstance(value, str) else value == 1


def _count(value: object) -> int:
    return value if type(value) is int and 1 <= value <= _MAX_CHOICES else 1


def _prompts(raw: bytes) -> int:
    """Return how many prompts there are in a text, token ids, or a list of either."""
    if not raw.startswith(b"["):
        return 1
    if raw[1:].lstrip(_BLANKS).startswith(b"["):
        return min(raw.count(b"[") - 1, _MAX_CHOICES)
    if raw[1:].lstrip(_BLANKS).startswith(b'"'):
        return min(_parts(raw) + 1, _MAX_CHOICES)
    return 1


def _parts(text: bytes) -> int:
    """Return how many objects and elements a JSON text has."""
    outside = without_strings(text)
    return outside.count(b"{") + outside.count(b",")


def _characters(part: Any) -> int:
    """Return the length of the text in a prompt, a list of messages, or the parts of one."""
    total, left = 0, [part]
    while left:
        item: Any = left.pop()
        if isinstance(item, str):
            total += len(item)
        elif isinstance(item, _Part):
            left += (item.content, item.text)
        elif isinstance(item, list):
            left += item
    return total
