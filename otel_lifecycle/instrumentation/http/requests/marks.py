"""What a call of the router is for, by the marks that its body carries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from operator import attrgetter
from typing import Any, Final, NamedTuple

import msgspec

from otel_lifecycle.instrumentation.http.requests.top_level_scanner import TopLevelScanner
from otel_lifecycle.instrumentation.routing import DECODE, ENCODE, PREFILL

PAIR: Final = "pair"
"""Both legs of a pair have the same body, and are called at once: prefill first."""

_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_MAX_BYTES: Final = 1 << 20  # of a body that is decoded; of a larger one single values are found
_MAX_PARTS: Final = 1_000
_ANY: Final = object()


class _Sign(NamedTuple):
    """A field of a body, what it has to be, and what the call is for then."""

    field: str
    key: str
    value: object
    leg: str


# The first that is there counts.
_SIGNS: Final = (
    _Sign("kv_transfer_params", "do_remote_prefill", True, DECODE),  # vLLM
    _Sign("kv_transfer_params", "do_remote_decode", True, PREFILL),
    _Sign("disaggregated_params", "request_type", "context_only", PREFILL),  # TensorRT-LLM
    _Sign("disaggregated_params", "request_type", "generation_only", DECODE),
    _Sign("migration_request", "", _ANY, DECODE),  # lmdeploy
    _Sign("with_cache", "", True, PREFILL),
    _Sign("kv_addr_info", "", _ANY, PREFILL),  # MLC
    _Sign("disaggregate_info", "", _ANY, PAIR),  # FastDeploy
    _Sign("bootstrap_room", "", _ANY, PAIR),  # SGLang
)
_LIMITS: Final = ("max_tokens", "max_completion_tokens")
_SIGNED: Final = tuple(dict.fromkeys(sign.field for sign in _SIGNS))
_FIELDS: Final = ("model", *_LIMITS, *_SIGNED)
_KEYS: Final = tuple(sign.key for sign in _SIGNS if sign.key)

# Whatever they are, and null where they are not; the rest is skipped.
_NULL: Final = msgspec.Raw(b"null")
_Body = msgspec.defstruct("_Body", [(name, msgspec.Raw, _NULL) for name in _FIELDS])
# A body whose fields are of the types that they should be.
_Usual = msgspec.defstruct(
    "_Usual",
    [
        ("model", str | None, None),
        *((name, int | None, None) for name in _LIMITS),
        *((name, msgspec.Raw, _NULL) for name in _SIGNED),
    ],
)
_Parameters = msgspec.defstruct("_Parameters", [(key, msgspec.Raw, _NULL) for key in _KEYS])
_Scalar = str | int | float | bool | None

_NOTHING: Final = frozenset({b"null", b"false", b"\xc0", b"\xc2"})

# The first byte of an object in MessagePack is none of JSON.
_PACKED: Final = b"\x80"

# Quotes within strings are escaped.
_MEDIA: Final = (b'"image_url"', b'"input_audio"', b'"audio_url"', b'"video_url"')
_TEXTS: Final = (b'"text"', b'"content":"', b'"content": "')


class Mark(NamedTuple):
    """What the body of a call tells.

    Attributes:
        leg: `prefill`, `decode`, `encode` or `pair`; empty without a mark.
        is_one_token: It asks for a single token, as a call does whose answer nobody reads.
        model: The model that it asks; empty when unknown.
    """

    leg: str = ""
    is_one_token: bool = False
    model: str = ""


NO_MARK: Final = Mark()


class _Format:
    """JSON or MessagePack."""

    def __init__(self, module: Any) -> None:
        self.body = module.Decoder(_Body)
        self._parameters = module.Decoder(_Parameters)
        self._scalar = module.Decoder(_Scalar)

    def scalar(self, raw: Any) -> object:
        """A value; what is no number, text or truth value counts as unknown."""
        return _decoded(self._scalar, raw)

    def parameters(self, raw: Any) -> Any:
        """What signs read in an object; None when it is none."""
        return _decoded(self._parameters, raw)

    def is_there(self, sign: _Sign, raw: Any) -> bool:
        """Whether a field, which the body has, is as a sign has it."""
        if sign.value is _ANY:
            return bytes(raw) not in _NOTHING
        if sign.key:
            raw = getattr(self.parameters(raw), sign.key, _NULL)
        return self.scalar(raw) == sign.value


_usual_decoder = msgspec.json.Decoder(_Usual)
_limits_of, _signs_of = attrgetter(*_LIMITS), attrgetter(*_SIGNED)
_JSON: Final = _Format(msgspec.json)
_MESSAGE_PACK: Final = _Format(msgspec.msgpack)


def read_mark(body: bytes) -> Mark:
    """Read the body of a call, JSON or MessagePack; the work is linear in its bytes."""
    try:
        if body[:1] >= _PACKED:
            return _read(_MESSAGE_PACK, _MESSAGE_PACK.body.decode(body), body)
        if len(body) <= _MAX_BYTES:
            return _read_plain(body) or _read(_JSON, _JSON.body.decode(body), body)
        scanner = TopLevelScanner(_FIELDS)
        scanner.feed(body)
        return _read(_JSON, _Body(**scanner.values), body)
    except _UNREADABLE:
        return NO_MARK


def _read_plain(body: bytes) -> Mark | None:
    """Read JSON without any sign in it, as most is; None for all other."""
    try:
        usual: Any = _usual_decoder.decode(body)
    except _UNREADABLE:
        return None
    if 1 in _limits_of(usual) or _signs_of(usual).count(_NULL) < len(_SIGNED):
        return None
    return Mark(model=usual.model or "")


def telling(body: Mapping[Any, Any]) -> dict[str, Any]:
    """Return the part of a body that is not encoded yet which `read_mark` reads."""
    told = {name: body[name] for name in _FIELDS if name in body}
    if any(told.get(name) == 1 for name in _LIMITS):
        told["messages"] = list(islice(_kinds(body.get("messages")), _MAX_PARTS))
    return told


def _read(form: _Format, body: Any, text: bytes) -> Mark:
    is_one_token = any(
        raw is not _NULL and form.scalar(raw) == 1
        for raw in (body.max_tokens, body.max_completion_tokens)
    )
    model = form.scalar(body.model)
    leg = ""
    for sign in _SIGNS:
        raw = getattr(body, sign.field)
        if raw is not _NULL and form.is_there(sign, raw):
            leg = sign.leg
            break
    if not leg and is_one_token:
        if form.parameters(body.kv_transfer_params) is not None:
            leg = PREFILL  # LMCache
        elif any(part in text for part in _MEDIA) and not any(part in text for part in _TEXTS):
            leg = ENCODE
    return Mark(leg, is_one_token, model if isinstance(model, str) else "")


def _decoded(decoder: Any, raw: Any) -> Any:
    try:
        return None if raw is _NULL else decoder.decode(raw)
    except _UNREADABLE:
        return None


def _kinds(messages: Any) -> Iterator[str]:
    """The kinds of the parts of messages; `text` for a text."""
    for message in _list(messages):
        content = message.get("content") if isinstance(message, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        for part in _list(content) or ["text"]:
            kind = part.get("type") if isinstance(part, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
            yield kind if isinstance(kind, str) else "text"


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []  # pyright: ignore[reportUnknownVariableType]
