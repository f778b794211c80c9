"""Servers that answer in hostile ways."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import suppress
from threading import Event, Thread
from types import TracebackType


class Server:
    """Answers each connection with a function, whatever the request; a context manager.

    Attributes:
        connections: Number of connections.
        sent: Number of bytes that `dribble` and `flood` have sent.
    """

    def __init__(self, answer: Callable[[Server, socket.socket], object]) -> None:
        self.connections = 0
        self.sent = 0
        self._answer = answer
        self._ended = Event()

    def __enter__(self) -> Server:
        self._listening = socket.create_server(("127.0.0.1", 0))
        Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._listening.close()

    @property
    def port(self) -> int:
        return self._listening.getsockname()[1]

    def dribble(self, connection: socket.socket, data: bytes, seconds: float = 0.05) -> None:
        """Send one byte at a time."""
        for number in range(len(data)):
            if self._ended.is_set():
                return
            connection.sendall(data[number : number + 1])
            self.sent += 1
            time.sleep(seconds)

    def flood(self, connection: socket.socket, data: bytes, times: int) -> None:
        """Send the same data without end."""
        for _ in range(times):
            connection.sendall(data)
            self.sent += len(data)

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                self.connections += 1
                Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.recv(1 << 16)
            self._answer(self, connection)


def head(status: str, *headers: str) -> bytes:
    """Return the first lines of an answer."""
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""]).encode()
