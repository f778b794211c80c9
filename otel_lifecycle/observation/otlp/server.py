"""Serves OTLP over gRPC."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeAlias

import grpc

Export: TypeAlias = Callable[[bytes, grpc.ServicerContext], bytes]

_LARGEST_MESSAGE: Final = 4 << 20
_MOST_CALLS: Final = 64
_THREADS: Final = 8
_END_SECONDS: Final = 1.0


class OtlpServer:
    """A server of some of OTLP's services.

    Args:
        address: Where to listen, `host:port`.
        exports: What takes the exports of a service, by its full name; called on any thread.

    Raises:
        OSError: The address cannot be listened on.

    Attributes:
        port: The port that it listens on.
    """

    def __init__(self, address: str, exports: Mapping[str, Export]) -> None:
        self._server = grpc.server(
            ThreadPoolExecutor(_THREADS, "otel-lifecycle-otlp"),
            maximum_concurrent_rpcs=_MOST_CALLS,
            options=[
                ("grpc.max_receive_message_length", _LARGEST_MESSAGE),
                ("grpc.so_reuseport", 0),
            ],
        )
        for service, export in exports.items():
            methods: dict[str, Any] = {"Export": grpc.unary_unary_rpc_method_handler(export)}
            handler = grpc.method_handlers_generic_handler(service, methods)
            self._server.add_generic_rpc_handlers((handler,))
        try:
            self.port = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {address}") from error
        if not self.port:
            raise OSError(f"cannot listen on {address}")
        self._server.start()

    def close(self) -> None:
        """Stop serving."""
        self._server.stop(_END_SECONDS).wait()


def refuse(context: grpc.ServicerContext, code: grpc.StatusCode, reason: str) -> bytes:
    """Answer a call with an error."""
    context.set_code(code)
    context.set_details(reason)
    return b""
