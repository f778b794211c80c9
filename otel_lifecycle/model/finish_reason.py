"""Why an engine stopped: a bounded vocabulary for the words of all dialects."""

from __future__ import annotations

from enum import Enum
from typing import Final


class FinishReason(str, Enum):
    """Why an engine stopped.

    The first four are OpenAI's, and those that OpenTelemetry's GenAI conventions name. `TOOL_CALLS`
    means that the client is to call tools; `ABORT` that the engine or its caller broke the answer
    off; `OTHER` that the engine used another word.
    """

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    CONTENT_FILTER = "content_filter"
    ABORT = "abort"
    ERROR = "error"
    OTHER = "other"


# In lower case, `-` and ` ` as `_`: of OpenAI (chat, completions, responses), vLLM, SGLang, TGI,
# Anthropic, Gemini, Ollama, Bedrock, Cohere and Mistral.
_WORDS: Final = {
    FinishReason.STOP: (
        "stop",
        "stopped",
        "completed",
        "complete",
        "end_turn",
        "stop_sequence",
        "eos",
        "eos_token",
        "end_of_text",
        "finish",
        "finished",
    ),
    FinishReason.LENGTH: (
        "length",
        "max_tokens",
        "max_output_tokens",
        "max_new_tokens",
        "max_length",
        "model_length",
        "model_context_window_exceeded",
    ),
    FinishReason.TOOL_CALLS: ("tool_calls", "tool_call", "tool_use", "function_call"),
    FinishReason.CONTENT_FILTER: (
        "content_filter",
        "content_filtered",
        "guardrail_intervened",
        "refusal",
        "safety",
        "image_safety",
        "recitation",
        "image_recitation",
        "blocklist",
        "prohibited_content",
        "image_prohibited_content",
        "spii",
        "model_armor",
        "error_toxic",
    ),
    FinishReason.ABORT: ("abort", "aborted", "cancel", "cancelled", "canceled"),
    FinishReason.ERROR: (
        "error",
        "failed",
        "failure",
        "internal_error",
        "error_limit",
        "malformed_function_call",
        "unexpected_tool_call",
        "too_many_tool_calls",
    ),
}
_REASONS: Final = {word: reason for reason, words in _WORDS.items() for word in words}


def finish_reason(word: str) -> FinishReason | None:
    """Return the reason that an engine's word means; None for no word."""
    if not word:
        return None
    known = _REASONS.get(word)
    if known is None:
        known = _REASONS.get(word.lower().replace("-", "_").replace(" ", "_"))
    return FinishReason.OTHER if known is None else known
