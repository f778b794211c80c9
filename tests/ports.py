"""Ports for servers that are started as programs, and have to be told theirs."""

from __future__ import annotations

import itertools
import os
import socket

# Below those that systems give to whoever asks for any, so that no other test gets one of them
# before the program listens. Tests that run at once count from different ones.
_FIRST, _LAST = 20_000, 32_000
_offsets = itertools.count(os.getpid() * 97)


def free_port() -> int:
    """Return a local port on which nothing listens."""
    while True:
        port = _FIRST + next(_offsets) % (_LAST - _FIRST)
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return port
