"""How a request ended, from what both of its sides tell."""

from __future__ import annotations

from asyncio import CancelledError
from typing import NamedTuple

from otel_lifecycle.instrumentation.http.answers import AnswerReader
from otel_lifecycle.instrumentation.http.attempt import Attempt
from otel_lifecycle.instrumentation.routing import DECODE
from otel_lifecycle.model import Endpoint, Outcome, RequestCompletion
from otel_lifecycle.tracking.handle import ending
from otel_lifecycle.tracking.scheduling import error_type


class End(NamedTuple):
    """What is known of a request that reached an engine, when it has ended.

    Attributes:
        response: What the client got.
        is_truncated: Whether that is known to be cut short.
        attempt: The call whose answer was the client's.
        prefill: The call of the prefill of a PD route.
        status: Of the response, 0 if it never began.
        answered: Whether the response came to its end.
        disconnected: Whether the client left before that.
        error: What left the application.
        streaming: Whether the client asked for a stream.
        counts_itself: Whether the router makes up the usage that it sends.
        served: Who served it.
    """

    response: AnswerReader
    is_truncated: bool
    attempt: Attempt
    prefill: Attempt | None
    status: int
    answered: bool
    disconnected: bool
    error: BaseException | None
    streaming: bool | None
    counts_itself: bool
    served: Endpoint


def judge(end: End) -> RequestCompletion:
    """The completion of a request, by what weighs most."""
    response, attempt = end.response, end.attempt
    answer = attempt.answer or response
    # The body of a refusal is whole too.
    is_whole = answer.ended and not attempt.engine_status
    is_counted = answer.output_tokens is not None or response.output_tokens is not None
    failure = "" if is_whole or is_counted else attempt.failure
    if end.disconnected:
        if not response.ended:
            return RequestCompletion(outcome=Outcome.CLIENT_DISCONNECT)
    elif end.error is not None and (end.status >= 500 or not end.answered):
        if isinstance(end.error, Exception):
            # Frameworks raise errors of their own in place of the one that broke the answer.
            broken = attempt.engine_status or (failure if attempt.answered_ns is not None else "")
            return _failure(broken or error_type(end.error))
        return ending(end.error)
    elif end.status >= 400:
        engine_status = attempt.engine_status if attempt is end.prefill else ""
        return _failure(engine_status or f"http_{end.status}")
    elif not end.answered:
        return _failure("response_incomplete")
    if failure:  # some routers begin a response of status 200 before they know
        return _failure(failure)
    if answer.failed or response.failed:
        told = answer if answer.failed else response
        return _failure("stream_error" if told.is_stream else "response_error", told)
    if attempt.is_cut or end.is_truncated:
        told = answer if attempt.is_cut else response
        is_stream = told.is_stream or end.streaming
        return _failure("stream_truncated" if is_stream else "response_truncated")
    return _completed(end, answer)


def judge_unserved(
    response: AnswerReader,
    is_truncated: bool,
    status: int,
    answered: bool,
    disconnected: bool,
    error: BaseException | None,
) -> RequestCompletion:
    """The completion of a request for which no engine was called, as far as was seen.

    Args:
        response: What the client got.
        is_truncated: Whether that is known to be cut short.
        status: Of the response, 0 if it never began.
        answered: Whether the response came to its end.
        disconnected: Whether the client left before that.
        error: What left the application, or its routing.
    """
    if disconnected or isinstance(error, (CancelledError, GeneratorExit)):
        return RequestCompletion(outcome=Outcome.CLIENT_DISCONNECT)
    if error is not None and (status >= 500 or not answered):
        return _refusal(error_type(error))
    if not answered:
        return _refusal("no_answer")
    if status >= 400:
        return _refusal(f"http_{status}")
    if response.failed:
        return _failure("stream_error" if response.is_stream else "response_error", response)
    # Not every application is a router: an answer without output is none of an engine.
    if is_truncated and response.has_output:
        return _failure("stream_truncated" if response.is_stream else "response_truncated")
    return RequestCompletion(
        output_tokens=response.output_tokens,
        input_tokens=response.input_tokens,
        cached_tokens=response.cached_tokens,
        finish_reason=response.finish_reason,
        calls_tools=response.calls_tools,
    )


def _refusal(reason: str) -> RequestCompletion:
    return RequestCompletion(outcome=Outcome.REJECTED, error_type=reason)


def _completed(end: End, answer: AnswerReader) -> RequestCompletion:
    cached = answer.cached_tokens
    if end.prefill is not None:
        # A decode engine counts as cached what the prefill engine has just computed.
        prefilled = None if end.prefill.failure else end.prefill.answer
        cached = None if prefilled is None else prefilled.cached_tokens
    elif end.attempt.mark.leg == DECODE:  # the prefill is not one of this request's calls
        cached = None
    counted = answer
    if answer.output_tokens is None and not end.counts_itself:
        counted = end.response  # of a router that translates
    return RequestCompletion(
        output_tokens=counted.output_tokens,
        input_tokens=counted.input_tokens,
        cached_tokens=cached,
        served_endpoint=end.served,
        finish_reason=answer.finish_reason or end.response.finish_reason,
        calls_tools=answer.calls_tools or end.response.calls_tools,
    )


def _failure(error: str, told: AnswerReader | None = None) -> RequestCompletion:
    reason = None if told is None else told.finish_reason
    return RequestCompletion(outcome=Outcome.ERROR, error_type=error, finish_reason=reason)
