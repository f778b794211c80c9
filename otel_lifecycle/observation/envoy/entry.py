"""One entry of Envoy's JSON access log.

The keys are those that the presets in `collector/envoy` write. Every entry has all of them; what
Envoy does not know is null. Envoy's manual explains the operators behind the keys:
https://www.envoyproxy.io/docs/envoy/latest/configuration/observability/access_log/usage
"""

from __future__ import annotations

from typing import Any, TypeVar, cast

import msgspec

START, READY, UPSTREAM_END, END = (
    "DownstreamStart",
    "UpstreamPoolReady",
    "UpstreamEnd",
    "DownstreamEnd",
)
TYPES = frozenset({START, READY, UPSTREAM_END, END})
VERSION = "1"
DESTINATION = "x-gateway-destination-endpoint"

_END_OF_TIME_NS = 1 << 63
_NANOSECONDS = {6: 1_000, 9: 1, 3: 1_000_000}
_MISSING = "-"  # what text formats and failed operators write
UNKNOWN = ("", _MISSING)

_Struct = TypeVar("_Struct", bound=msgspec.Struct)


class Answer(msgspec.Struct, gc=False, omit_defaults=True):
    """What Envoy's filters read in the bodies of a request: its dynamic metadata `llm`.

    Attributes:
        req_model: The model that the client asked for.
        model: The model that answered.
        id: The engine's id of the request.
        stream: Whether the client asked for a stream.
        prompt_tokens: Prompt tokens of the usage.
        completion_tokens: Completion tokens of the usage.
        cached_tokens: Prompt tokens that the engine found in its prefix cache.
        finish_reason: Why the engine stopped.
        first_us: Time of the first byte of the body, Unix microseconds; from Lua.
        done: Whether the stream came to its terminator; from Lua.
    """

    req_model: str | None = None
    model: str | None = None
    id: str | None = None
    stream: bool | None = None
    prompt_tokens: float | None = None
    completion_tokens: float | None = None
    cached_tokens: float | None = None
    finish_reason: str | None = None
    first_us: str | None = None
    done: bool | None = None


class Entry(msgspec.Struct, gc=False, omit_defaults=True):
    """One entry; None is unknown. Durations ending in `_us` are microseconds since the arrival.

    Attributes:
        type: One of `TYPES`.
        t: Arrival of the request, or begin of the attempt that an upstream entry tells of; Unix
            seconds with six digits of a fraction.
        v: Version of the format; None is 1.
        rid: The header `x-request-id`.
        sid: Envoy's id of the stream.
        conn: Envoy's number of the client's connection; 0 is unknown.
        now: When the entry was made, in the format of `t`.
        method: The HTTP method.
        path: The path without its query.
        size: The header `content-length` of the request.
        ep: The endpoint that the picker chose, `host:port`; more than one are separated by commas.
        pf: The prefill endpoint that the picker chose.
        up: Where Envoy sent the request.
        code: Status of the response; 0: there was none.
        details: Envoy's reason of the status.
        flags: Envoy's response flags, separated by commas.
        reason: The picker's reason of a refusal.
        attempts: How often the router filter tried; 0 if it was never asked.
        ct: Content type of the response.
        tp: The header `traceparent`.
        ts: The header `tracestate`.
        trace: Envoy's trace id.
        span: Envoy's span id.
        up_tx_us: First byte sent to the endpoint that answered.
        ttfb_body_us: First byte of the body of its answer.
        e2e_us: Last byte sent to the client.
        dur_ms: End of the stream, in milliseconds.
        llm: What was read in the bodies.
        lb: What the picker told of its decision.
        headers: Headers of the request that the settings may ask for, in lower case.
    """

    type: str
    t: str
    v: str | None = None
    rid: str | None = None
    sid: str | None = None
    conn: int | None = None
    now: str | None = None
    method: str | None = None
    path: str | None = None
    size: int | None = None
    ep: str | None = None
    pf: str | None = None
    up: str | None = None
    code: int | None = None
    details: str | None = None
    flags: str | None = None
    reason: str | None = None
    attempts: int | None = None
    ct: str | None = None
    tp: str | None = None
    ts: str | None = None
    trace: str | None = None
    span: str | None = None
    up_tx_us: int | None = None
    ttfb_body_us: int | None = None
    e2e_us: int | None = None
    dur_ms: int | None = None
    llm: Answer | None = None
    lb: dict[str, Any] | None = None
    headers: dict[str, Any] | None = None


def parse_entry(line: bytes) -> Entry:
    """Return the entry in a line; a field of another type than it should be is unknown.

    Raises:
        ValueError: The line is no entry; the text gives the reason.
    """
    try:
        entry = _decode(line)
    except (msgspec.ValidationError, RecursionError):
        entry = _salvage(line)
    if entry.type not in TYPES:
        raise ValueError(f"type is not one of {', '.join(sorted(TYPES))}")
    version = entry.v
    if version is not None and version != VERSION and known(version):
        raise ValueError(f"v is {version[:20]!r}, and this version reads {VERSION!r}")
    return entry


def unix_ns(moment: str) -> int:
    """Return a moment of an entry in Unix nanoseconds.

    Raises:
        ValueError: The text is none, or is before 1970 or after 2262.
    """
    if len(moment) == 17 and moment[10] == ".":  # as the presets write it
        digits = moment.replace(".", "", 1)
        if digits.isdecimal():
            return int(digits) * 1_000
    seconds, _, fraction = moment.partition(".")
    unit = _NANOSECONDS.get(len(fraction))
    if unit is None or not (seconds.isdecimal() and fraction.isdecimal() and len(seconds) <= 10):
        raise ValueError(f"{moment[:40]!r} is not a time like 1795970684.260860")
    return int(seconds) * 1_000_000_000 + int(fraction) * unit


def known(text: str | None) -> str:
    """Return a text of an entry; empty: unknown."""
    return "" if text is None or text == _MISSING else text


def selected(entry: Entry) -> str:
    """Return the endpoint that was chosen; empty: none, as far as the entry knows.

    A picker says it in a header or in metadata; without a picker it is Envoy that chooses.
    """
    told = known(entry.ep)
    if not told and entry.lb is not None:
        in_metadata = entry.lb.get(DESTINATION)
        told = known(in_metadata) if isinstance(in_metadata, str) else ""
    return told or known(entry.up)


def _salvage(line: bytes) -> Entry:
    """Read an entry some fields of which are not what they should be."""
    try:
        values: object = msgspec.json.decode(line)
    except RecursionError as error:
        raise ValueError(str(error)) from error
    if not isinstance(values, dict):
        raise ValueError("is not a JSON object")
    entry = _keep_valid(Entry, cast("dict[Any, Any]", values))
    if entry is None:
        raise ValueError("has no type and t, as an entry of the presets has")
    return entry


def _keep_valid(struct: type[_Struct], values: dict[Any, Any]) -> _Struct | None:
    kept: dict[str, Any] = {}
    for field in msgspec.structs.fields(struct):
        value = values.get(field.name)
        if field.name == "llm" and isinstance(value, dict):
            value = _keep_valid(Answer, cast("dict[Any, Any]", value))
        try:
            kept[field.name] = msgspec.convert(value, field.type, strict=False)
        except msgspec.ValidationError:
            if field.required:
                return None
    return struct(**kept)


_decode = msgspec.json.Decoder(Entry, strict=False).decode
