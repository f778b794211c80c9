"""OpenLLMetry's (Traceloop's) instrumentation of the openai client."""

from __future__ import annotations

from opentelemetry.instrumentation.openai.shared.chat_wrappers import chat_wrapper

from benchmarks.peers.openai_stream import CLIENT, REQUEST, respond, stream
from benchmarks.peers.peer import Bench, Peer

DISTRIBUTION = "opentelemetry-instrumentation-openai"


def _open_peer(bench: Bench) -> Peer:
    meter = bench.meter_provider.get_meter(__name__)
    create = chat_wrapper(
        bench.tracer_provider().get_tracer(__name__),
        meter.create_histogram("gen_ai.client.token.usage"),
        meter.create_counter("gen_ai.client.generation.choices"),
        meter.create_histogram("gen_ai.client.operation.duration"),
        meter.create_counter("llm.openai.chat_completions.exceptions"),
        meter.create_histogram("gen_ai.server.time_to_first_token"),
        meter.create_histogram("llm.chat_completions.streaming_time_to_generate"),
    )
    completions = CLIENT.chat.completions

    def serve(_: int) -> None:
        for _chunk in create(respond, completions, (), REQUEST):
            pass

    return Peer("openllmetry", serve, stream)


OPENERS = (_open_peer,)
