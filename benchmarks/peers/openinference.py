"""OpenInference's instrumentation of the openai client."""

from __future__ import annotations

from types import SimpleNamespace

import openai
from openai.types.chat import ChatCompletion
from openinference.instrumentation import OITracer, TraceConfig
from openinference.instrumentation.openai._request import (
    _Request,  # pyright: ignore[reportPrivateUsage] - what `instrument` puts around the client
)

from benchmarks.peers.openai_stream import CLIENT, REQUEST, respond, stream
from benchmarks.peers.peer import Bench, Peer

DISTRIBUTION = "openinference-instrumentation-openai"


def _open_peer(bench: Bench) -> Peer:
    tracer = OITracer(bench.tracer_provider().get_tracer(__name__), config=TraceConfig())
    request = _Request(tracer, openai)
    options = SimpleNamespace(json_data=REQUEST)

    def serve(_: int) -> None:
        for _chunk in request(respond, CLIENT, (ChatCompletion, options), {}):
            pass

    return Peer("openinference", serve, stream)


OPENERS = (_open_peer,)
