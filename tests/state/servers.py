"""Servers to scrape, good and bad ones, on real sockets."""

from __future__ import annotations

import gzip
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = Callable[[BaseHTTPRequestHandler], None]


def engine_exposition(running: int = 3, waiting: int = 1, usage: float = 0.25) -> bytes:
    """The metrics of a vLLM engine."""
    labels = 'engine="0",model_name="m"'
    return (
        f"vllm:num_requests_running{{{labels}}} {running}\n"
        f"vllm:num_requests_waiting{{{labels}}} {waiting}\n"
        f"vllm:kv_cache_usage_perc{{{labels}}} {usage}\n"
    ).encode()


def npu_exposition(
    core: int = 60, pod: str = "qwen-0", at: float | None = None, device: str = "0"
) -> bytes:
    """The metrics of npu-exporter for one chip."""
    labels = f'id="{device}",namespace="llm",pod_name="{pod}",container_name="vllm"'
    stamp = int((time.time() if at is None else at) * 1000)
    return "".join(
        f"npu_chip_info_{name}{{{labels}}} {value} {stamp}\n"
        for name, value in [
            ("utilization", core),
            ("hbm_utilization", 71),
            ("hbm_bandwidth_utilization", 40),
        ]
    ).encode()


def npu_exporter(
    core: int = 60, pod: str = "qwen-0", now: Callable[[], float] = time.time
) -> Answer:
    """Answer like npu-exporter, with values of this moment."""
    return lambda handler: send(handler, npu_exposition(core, pod, now()))


class Site:
    """A server with answers by path, which may change at any time."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.answers: dict[str, Answer | bytes] = {}
        self.asked: Counter[str] = Counter()
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                site.answer(self)

            do_POST = do_GET  # noqa: N815

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self._server.handle_error = lambda request, client_address: None  # type: ignore[method-assign]
        if tls is not None:
            self._server.socket = tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.port: int = self._server.server_address[1]
        scheme = "http" if tls is None else "https"
        self.url = f"{scheme}://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer one request."""
        path = handler.path.partition("?")[0]
        self.asked[path] += 1
        answer = self.answers.get(path)
        if answer is None:
            send(handler, b"", status=404)
        elif isinstance(answer, bytes):
            send(handler, answer)
        else:
            answer(handler)

    def stop(self) -> None:
        """Stop listening; existing connections stay open."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def send(
    handler: BaseHTTPRequestHandler,
    body: bytes,
    *,
    status: int = 200,
    content_type: str = "text/plain; version=0.0.4",
    **headers: str,
) -> None:
    """Send a complete response."""
    handler.send_response(status)
    handler.send_header("Content-Type", content_type)
    handler.send_header("Content-Length", str(len(body)))
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def packed(body: bytes) -> Answer:
    """Send the body compressed by gzip."""
    content = gzip.compress(body)
    return lambda handler: send(handler, content, Content_Encoding="gzip")


def chunked(body: bytes, size: int = 7) -> Answer:
    """Send the body in many small chunks."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/plain")
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for start in range(0, len(body), size):
            piece = body[start : start + size]
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        handler.wfile.write(b"0\r\n\r\n")

    return answer


def cut_off(body: bytes) -> Answer:
    """Send a truncated body."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(body) + 100))
        handler.end_headers()
        handler.wfile.write(body)
        handler.close_connection = True

    return answer


def dripping(handler: BaseHTTPRequestHandler) -> None:
    """Send single bytes without end."""
    handler.send_response(200)
    handler.send_header("Content-Type", "text/plain")
    handler.end_headers()
    while True:
        handler.wfile.write(b"#\n")
        handler.wfile.flush()
        time.sleep(0.05)
