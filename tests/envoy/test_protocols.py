"""Times at low load, and HTTP/2 with trailers on both sides of Envoy."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.envoy.clients import Ask
from tests.envoy.observing import observe, settle, unix_ns
from tests.envoy.picker import ASK_ENDPOINT
from tests.envoy.programs import Engine, Envoy

pytestmark = pytest.mark.envoy

REQUESTS = 100


def first_byte_ms(connection: socket.socket, ask: Ask) -> float:
    """Sends a request; returns the milliseconds to the first byte of the body of its answer."""
    headers = {**ask.headers, "host": "envoy", "content-length": str(len(ask.body))}
    lines = [f"{name}: {value}" for name, value in headers.items()]
    head = "\r\n".join(["POST /v1/completions HTTP/1.1", *lines, "", ""])
    before = time.monotonic_ns()
    connection.sendall(head.encode() + ask.body)
    received = b""
    while not received.partition(b"\r\n\r\n")[2]:
        received += connection.recv(1 << 16)
    elapsed = (time.monotonic_ns() - before) / 1e6
    while not received.endswith(b"0\r\n\r\n"):
        received += connection.recv(1 << 16)
    return elapsed


def test_time_to_first_token(
    tmp_path: Path, engines: dict[str, Engine], envoy: Callable[..., Envoy]
) -> None:
    """At low load the TTFT is that of the client: never more, and within a millisecond of it.

    The client also sees how long it waits for a processor, so that only the best of many tell.
    """
    running = envoy("1.38")
    seen: dict[str, float] = {}
    with socket.create_connection(("127.0.0.1", running.port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for number in range(REQUESTS):
            ask = Ask(f"r-{number}", engines["none"].address)
            seen[ask.name] = first_byte_ms(connection, ask)
    settle(running, REQUESTS)
    records = observe(running.log, tmp_path / "records.jsonl")

    late: list[float] = []
    for name, record in records.items():
        first = unix_ns(record.first_chunk_at) - unix_ns(record.received_at)
        late.append(seen[name] - first / 1e6)
    assert len(late) == REQUESTS
    assert 0 <= min(late) < 1.0


@pytest.fixture
def http2_engine() -> Iterator[str]:
    """An engine that speaks HTTP/2 alone, with trailers; it streams four messages."""

    def answer(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        for number in range(4):
            yield json.dumps({"number": number}).encode()
            while b'"endless"' in request and context.is_active():
                time.sleep(0.01)
        context.set_trailing_metadata((("x-usage", "4"),))

    server = grpc.server(ThreadPoolExecutor(8))
    handler: Any = grpc.unary_stream_rpc_method_handler(answer)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("v1", {"completions": handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


def test_http2(tmp_path: Path, http2_engine: str, envoy: Callable[..., Envoy]) -> None:
    """Streams of one HTTP/2 connection, with trailers, are recorded as their client saw them."""
    running = envoy("1.38", http2=True)
    outcomes: dict[str, str] = {}
    with grpc.insecure_channel(f"127.0.0.1:{running.port}") as channel:
        call = channel.unary_stream("/v1/completions")
        for number in range(20):
            name = f"r-{number}"
            leaves = number % 4 == 3
            body = json.dumps({"model": "endless" if leaves else "m", "stream": True}).encode()
            metadata = (("x-request-id", name), (ASK_ENDPOINT, http2_engine))
            answer = call(body, metadata=metadata, timeout=60)
            if leaves:
                next(answer)
                answer.cancel()
            else:
                assert len(list(answer)) == 4
                assert ("x-usage", "4") in answer.trailing_metadata()
            outcomes[name] = "client_disconnect" if leaves else "completed"
    settle(running, len(outcomes))
    records = observe(running.log, tmp_path / "records.jsonl")

    assert running.stats()["downstream_rq_completed"] == len(outcomes)
    assert {name: record.outcome.value for name, record in records.items()} == outcomes
    for record in records.values():
        assert record.served_endpoint == f"addr://{http2_engine}"
        assert record.first_byte_at is not None
        assert record.dispatch_inflight is not None
