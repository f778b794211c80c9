"""logfire: one span by hand, with the attributes of ours of 40, and two logs inside."""

from __future__ import annotations

import logfire

from benchmarks.peers.peer import Bench, Chunks, Peer, stream
from benchmarks.requests import FORTY_ATTRIBUTES, told

DISTRIBUTION = "logfire"


def _open_peer(bench: Bench) -> Peer:
    _, said = told(bench.folder, FORTY_ATTRIBUTES)
    values = {name.replace(".", "_"): value for name, value in (said.first | said.rest).items()}
    instance = logfire.configure(
        local=True,
        send_to_logfire=False,
        console=False,
        inspect_arguments=False,
        metrics=False,
        additional_span_processors=[bench.kept],
    )

    def serve(_: int) -> None:
        with instance.span("route {gen_ai_request_model}", **values):
            for number, _chunk in enumerate(Chunks()):
                if number == 0:
                    instance.info("first chunk")
            instance.info("completion")

    return Peer("logfire", serve, stream)


OPENERS = (_open_peer,)
