"""LiteLLM's OpenTelemetry callback, which makes its spans afterwards."""

from __future__ import annotations

import logging
import os
from datetime import datetime, timezone
from typing import Any

# Otherwise it requests prices over the network when it is imported.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

from litellm.integrations.opentelemetry import OpenTelemetry, OpenTelemetryConfig
from litellm.types.utils import Choices, Message, ModelResponse, Usage

from benchmarks.peers.openai_stream import REQUEST, stream
from benchmarks.peers.peer import Bench, Peer
from benchmarks.requests import MODEL, OUTPUT_TOKENS

DISTRIBUTION = "litellm"

_KWARGS: dict[str, Any] = {
    "model": MODEL,
    "messages": REQUEST["messages"],
    "call_type": "completion",
    "optional_params": {"stream": True, "max_tokens": OUTPUT_TOKENS},
    "litellm_params": {
        "custom_llm_provider": "hosted_vllm",
        "api_base": "http://10.0.0.7:8000/v1",
        "metadata": {},
    },
    "additional_args": {"complete_input_dict": REQUEST},
    "standard_logging_object": {
        "id": "chatcmpl-1",
        "call_type": "completion",
        "stream": True,
        "status": "success",
        "custom_llm_provider": "hosted_vllm",
        "model": MODEL,
        "model_group": MODEL,
        "api_base": "http://10.0.0.7:8000/v1",
        "metadata": {},
        "hidden_params": {},
        "response_cost": 0.0,
        "prompt_tokens": 512,
        "completion_tokens": OUTPUT_TOKENS,
        "total_tokens": 640,
    },
}
_RESPONSE = ModelResponse(
    id="chatcmpl-1",
    model=MODEL,
    choices=[
        Choices(
            finish_reason="stop", index=0, message=Message(role="assistant", content="word " * 32)
        )
    ],
    usage=Usage(prompt_tokens=512, completion_tokens=OUTPUT_TOKENS, total_tokens=640),
)


def _open_peer(bench: Bench) -> Peer:
    logging.getLogger("LiteLLM").setLevel(logging.ERROR)
    callback = OpenTelemetry(
        OpenTelemetryConfig(
            exporter="console",
            enable_metrics=True,
            skip_set_global=True,
        ),
        tracer_provider=bench.tracer_provider(),
        meter_provider=bench.meter_provider,
    )

    def serve(number: int) -> None:
        began = datetime.now(timezone.utc)
        stream(number)
        # Each request has its own, in which the callback marks the request as seen.
        kwargs = {**_KWARGS, "litellm_params": {**_KWARGS["litellm_params"], "metadata": {}}}
        callback.log_success_event(kwargs, _RESPONSE, began, datetime.now(timezone.utc))

    return Peer("LiteLLM's callback", serve, stream)


OPENERS = (_open_peer,)
