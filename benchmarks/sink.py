"""A collector that accepts exports unread, as a process of its own: `python -m benchmarks.sink`.

It prints the ports at which it speaks OTLP over HTTP and over gRPC.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar, NamedTuple
from urllib.request import urlopen

import grpc

ROOT = Path(__file__).parents[1]


class Sink(NamedTuple):
    """Where it listens.

    Attributes:
        url: For OTLP over HTTP; any path below it counts separately.
        address: For OTLP over gRPC.
    """

    url: str
    address: str

    def exports(self, below: str = "") -> int:
        """Return the number of exports to a path below `url`, or over gRPC for `grpc`."""
        with urlopen(f"{self.url}/{below}") as response:
            return int(response.read())


@contextmanager
def running() -> Iterator[Sink]:
    """Run it in another process, whose CPU is not that of the measured one."""
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.sink"], stdout=subprocess.PIPE, cwd=ROOT
    ) as process:
        try:
            assert process.stdout is not None
            http, grpc_port = process.stdout.readline().split()
            yield Sink(f"http://127.0.0.1:{int(http)}", f"127.0.0.1:{int(grpc_port)}")
        finally:
            process.kill()


class _OverHTTP(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    exports: ClassVar[Counter[str]] = Counter()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.exports[self.path.rpartition("/v1/")[0].strip("/")] += 1
        self._answer(b"")

    def do_GET(self) -> None:
        self._answer(str(self.exports[self.path.strip("/")]).encode())

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Log nothing."""


class _OverGRPC(grpc.GenericRpcHandler):
    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        _OverHTTP.exports["grpc"] += 1
        return grpc.unary_unary_rpc_method_handler(lambda request, context: b"")


def main() -> None:
    """Serve until killed."""
    rpc = grpc.server(ThreadPoolExecutor(4), handlers=[_OverGRPC()])
    grpc_port = rpc.add_insecure_port("127.0.0.1:0")
    rpc.start()
    with ThreadingHTTPServer(("127.0.0.1", 0), _OverHTTP) as server:
        print(server.server_port, grpc_port, flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
