"""Python's logging: the 40 values as one JSON line in a file, written on the request's path."""

from __future__ import annotations

import json
import logging

from benchmarks.peers.peer import Bench, Chunks, Peer, stream
from benchmarks.requests import FORTY_ATTRIBUTES, told

DISTRIBUTION = None


def _open_peer(bench: Bench) -> Peer:
    path = bench.folder / "requests.log"
    logger = logging.Logger("requests")
    logger.addHandler(logging.FileHandler(path, encoding="utf-8"))
    _, said = told(bench.folder, FORTY_ATTRIBUTES)
    values = {**said.first, **said.rest}

    def serve(_: int) -> None:
        for _chunk in Chunks():
            pass
        logger.info(json.dumps(values))

    return Peer("Python logging, JSON to a file", serve, stream, file=path, fields=len(values))


OPENERS = (_open_peer,)
