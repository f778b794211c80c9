"""opentelemetry-util-genai: the handler used by OpenTelemetry's own GenAI instrumentations."""

from __future__ import annotations

from openai.types.chat import ChatCompletionChunk
from opentelemetry.util.genai.handler import TelemetryHandler
from opentelemetry.util.genai.invocation import InferenceInvocation
from opentelemetry.util.genai.stream import SyncStreamWrapper

from benchmarks.peers.openai_stream import ChatStream, respond, stream
from benchmarks.peers.peer import Bench, Peer
from benchmarks.requests import CACHED_TOKENS, MODEL

DISTRIBUTION = "opentelemetry-util-genai"


class _Followed(SyncStreamWrapper[ChatCompletionChunk]):
    """A subclass as the instrumentations have it."""

    def __init__(self, answer: ChatStream, invocation: InferenceInvocation) -> None:
        super().__init__(answer, invocation)
        self._self_inference = invocation

    def _process_chunk(self, chunk: ChatCompletionChunk) -> None:
        inference = self._self_inference
        inference.response_model_name = chunk.model
        inference.response_id = chunk.id
        if chunk.choices and chunk.choices[0].finish_reason:
            inference.finish_reasons = [chunk.choices[0].finish_reason]
        if chunk.usage is not None:
            inference.input_tokens = chunk.usage.prompt_tokens
            inference.output_tokens = chunk.usage.completion_tokens
            inference.cache_read_input_tokens = CACHED_TOKENS

    def _on_stream_end(self) -> None:
        self._self_inference.stop()

    def _on_stream_error(self, error: BaseException) -> None:
        self._self_inference.fail(error)


def _open_peer(bench: Bench) -> Peer:
    handler = TelemetryHandler(bench.tracer_provider(), bench.meter_provider)

    def serve(_: int) -> None:
        inference = handler.inference(
            "vllm",
            request_model=MODEL,
            server_address="10.0.0.7",
            server_port=8000,
            operation_name="chat",
        )
        for _chunk in _Followed(respond(), inference):
            pass

    return Peer("opentelemetry-util-genai", serve, stream)


OPENERS = (_open_peer,)
