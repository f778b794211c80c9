"""A gRPC server of a test."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

import grpc

_Service = TypeVar("_Service", bound="GrpcService")


class GrpcService:
    """Serves until it is closed; a context manager.

    Args:
        threads: How many calls it answers at once.

    Attributes:
        server: What handlers are added to.
        port: The port of 127.0.0.1 that it listens on.
    """

    def __init__(self, threads: int) -> None:
        self.server = grpc.server(ThreadPoolExecutor(threads))
        self.port = self.server.add_insecure_port("127.0.0.1:0")

    def __enter__(self: _Service) -> _Service:
        self.server.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.server.stop(None).wait()
