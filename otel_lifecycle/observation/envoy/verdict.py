"""How a request ended, from what Envoy says of its response."""

from __future__ import annotations

from otel_lifecycle.model import Endpoint, Outcome, RequestCompletion
from otel_lifecycle.observation.envoy.entry import Answer, Entry, known, selected

_NOTHING_READ = Answer()
_LEFT = ("DownstreamConnectionTermination", "DownstreamRemoteReset")
_LEFT_DETAILS = (
    "downstream_remote_disconnect",
    "http2.remote_reset",
    "http2.remote_refuse",
    "http3.remote_reset",
)
_FROM_ENGINE = "via_upstream"
_EVENT_STREAM = "text/event-stream"


def judge(entry: Entry, served: Endpoint | None = None) -> RequestCompletion:
    """Return how the request of a `DownstreamEnd` ended.

    The picker's refusal has no upstream and no details: Envoy sends the picker's own response.

    Args:
        entry: The entry.
        served: Where Envoy sent the request.
    """
    code, details, flags = entry.code or 0, known(entry.details), known(entry.flags)
    if details.startswith(_LEFT_DETAILS) or (flags and any(flag in flags for flag in _LEFT)):
        return RequestCompletion(outcome=Outcome.CLIENT_DISCONNECT, served_endpoint=served)
    if not entry.attempts and not selected(entry):
        reason = known(entry.reason) or _short(details) or f"http_{code}"
        return RequestCompletion(outcome=Outcome.REJECTED, error_type=reason)
    answer = entry.llm or _NOTHING_READ
    if details and details != _FROM_ENGINE:
        return _failure(_short(details), answer, served)
    if code == 0 or code >= 400:
        return _failure(f"http_{code}" if code else "no_answer", answer, served)
    if flags:
        return _failure(_short(flags), answer, served)
    if answer.done is False and is_stream(entry):
        return _failure("stream_truncated", answer, served)
    return RequestCompletion(
        output_tokens=_count(answer.completion_tokens),
        cached_tokens=_count(answer.cached_tokens),
        input_tokens=_count(answer.prompt_tokens),
        served_endpoint=served,
        finish_reason=answer.finish_reason,
    )


def is_stream(entry: Entry) -> bool | None:
    """Return whether the client asked for a stream, or received one; None is unknown."""
    if known(entry.ct).startswith(_EVENT_STREAM):
        return True
    answer = entry.llm
    if answer is None:
        return None
    if answer.stream is None and answer.req_model is not None:
        return False  # the body was read, and said nothing of a stream
    return answer.stream


def _failure(error: str, answer: Answer, served: Endpoint | None) -> RequestCompletion:
    return RequestCompletion(
        outcome=Outcome.ERROR,
        error_type=error,
        input_tokens=_count(answer.prompt_tokens),
        served_endpoint=served,
        finish_reason=answer.finish_reason,
    )


def _short(text: str) -> str:
    """Return a reason without its details, which may quote what others sent."""
    for end in "{,(:":
        text = text.partition(end)[0]
    return text


def _count(value: float | None) -> int | None:
    """Return a number of tokens; the filters write every number as a float."""
    return int(value) if value is not None and value == value // 1 else None
