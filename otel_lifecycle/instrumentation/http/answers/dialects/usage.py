"""The usage object of the OpenAI APIs and of those who follow them."""

from __future__ import annotations

import msgspec

from otel_lifecycle.instrumentation.http.answers.answer import Answer
from otel_lifecycle.instrumentation.http.answers.decoding import Scalar


class _Details(msgspec.Struct, gc=False):
    cached_tokens: Scalar = None


class Usage(msgspec.Struct, gc=False):
    """A usage object; of each pair of names, one is the Responses API's."""

    prompt_tokens: Scalar = None
    input_tokens: Scalar = None
    completion_tokens: Scalar = None
    output_tokens: Scalar = None
    total_tokens: Scalar = None
    prompt_tokens_details: _Details | Scalar = None
    input_tokens_details: _Details | Scalar = None
    cached_tokens: Scalar = None  # Moonshot
    prompt_cache_hit_tokens: Scalar = None  # DeepSeek


def read_usage(usage: Usage, answer: Answer) -> None:
    """Count a usage object."""
    prompt = usage.input_tokens if usage.prompt_tokens is None else usage.prompt_tokens
    output = usage.output_tokens if usage.completion_tokens is None else usage.completion_tokens
    if prompt is None and output is None:
        prompt = usage.total_tokens  # a reranker's, which has no other
    cached = usage.cached_tokens
    if cached is None:
        cached = usage.prompt_cache_hit_tokens
    for details in (usage.prompt_tokens_details, usage.input_tokens_details):
        if isinstance(details, _Details) and details.cached_tokens is not None:
            cached = details.cached_tokens
    answer.count(prompt, output, cached)
