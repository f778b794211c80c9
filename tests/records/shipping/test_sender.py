"""`Sender`: each request ends in time, takes little memory, and shows no secrets."""

from __future__ import annotations

import gzip
import socket
import tracemalloc
from collections.abc import Callable

import grpc
import pytest
from google.rpc.status_pb2 import Status

from otel_lifecycle.records.shipping import Answer, Fate, Sender
from tests.ports import free_port
from tests.records.shipping.collectors import (
    ACCEPT,
    GRPC,
    HTTP_PROTOBUF,
    UNAVAILABLE,
    Collector,
    Reply,
)
from tests.records.shipping.hostile import Server, head

TIMEOUT = "0.5"
NO_ANSWER = Answer(Fate.WAITING, "no answer within 0.5 s")
MIB = 1 << 20


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Answer]:
    """Send no spans to a server; return the result."""

    def ask(port: int, protocol: str = HTTP_PROTOBUF, timeout: str = TIMEOUT) -> Answer:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", timeout)
        return Sender().send([])

    return ask


BODY = b"\x0a\x00" * 150  # 15 s at this pace, and a valid answer


@pytest.mark.parametrize(
    ("at_once", "slowly"),
    [
        (b"", head("200 OK", "x: " + "x" * 300, "content-length: 0")),
        (b"HTTP/1.1 200 OK\r\n", b"x: x\r\n" * 50 + b"content-length: 0\r\n\r\n"),
        (head("200 OK", f"content-length: {len(BODY)}"), BODY),
        (head("200 OK", "transfer-encoding: chunked"), b"1\r\n\x0a\r\n" * 50 + b"0\r\n\r\n"),
        (head("200 OK", "connection: close"), BODY),
        (head("503 Service Unavailable", f"content-length: {len(BODY)}"), BODY),
    ],
    ids=["status", "headers", "body", "chunks", "until closed", "of an error"],
)
def test_byte_after_byte(ask: Callable[..., Answer], at_once: bytes, slowly: bytes) -> None:
    """The deadline covers the whole answer, even if it arrives byte by byte."""

    def answer(server: Server, connection: socket.socket) -> None:
        connection.sendall(at_once)
        server.dribble(connection, slowly)

    with Server(answer) as server:
        assert ask(server.port) == NO_ANSWER
        assert server.sent < len(slowly)


def test_byte_after_byte_over_grpc(ask: Callable[..., Answer]) -> None:
    """GRPC has one deadline too."""

    def answer(server: Server, connection: socket.socket) -> None:
        connection.sendall(bytes(3) + b"\x04" + bytes(5))  # empty settings
        server.dribble(connection, b"\x00\x40\x00\xee" + bytes(400))  # a frame of unknown type

    with Server(answer) as server:
        answered = ask(server.port, GRPC)

    assert answered.fate is Fate.WAITING
    assert "DEADLINE_EXCEEDED" in answered.reason


@pytest.mark.parametrize("protocol", [HTTP_PROTOBUF, GRPC])
def test_no_answer(ask: Callable[..., Answer], protocol: str) -> None:
    """The deadline also holds for a server that accepts connections and sends nothing."""
    with Server(lambda server, connection: server.dribble(connection, b"H", 15.0)) as server:
        assert ask(server.port, protocol).fate is Fate.WAITING


def test_clock_that_is_set_back(
    ask: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deadline holds even if the clock is set back by a day."""
    times = iter(range(10**9, 0, -86_400))
    monkeypatch.setattr("time.time", lambda: float(next(times)))

    with Server(lambda server, connection: server.dribble(connection, bytes(300))) as server:
        assert ask(server.port) == NO_ANSWER


@pytest.mark.parametrize(
    ("status", "fate"), [("200 OK", Fate.ACCEPTED), ("500 Oh", Fate.WAITING)], ids=["200", "500"]
)
def test_endless_answer(ask: Callable[..., Answer], status: str, fate: Fate) -> None:
    """Only the beginning of an endless answer is read."""

    def answer(server: Server, connection: socket.socket) -> None:
        connection.sendall(head(status, "connection: close"))
        server.flood(connection, bytes(MIB), 256)

    with Server(answer) as server:
        assert ask(server.port, timeout="30").fate is fate
        assert server.sent < 64 * MIB  # the sockets' buffers


@pytest.mark.parametrize("status", ["200 OK", "302 Found", "400 Bad Request", "503 Unavailable"])
@pytest.mark.parametrize("encoding", ["gzip", "deflate", "gzip, gzip", "br"])
def test_bomb(ask: Callable[..., Answer], status: str, encoding: str) -> None:
    """A small answer that decompresses to a large one is not decompressed completely."""
    bomb = gzip.compress(bytes(64 * MIB))
    length, kind = f"content-length: {len(bomb)}", f"content-encoding: {encoding}"

    def answer(server: Server, connection: socket.socket) -> None:
        connection.sendall(head(status, length, kind, "location: /", "retry-after: 99") + bomb)

    with Server(answer) as server:
        tracemalloc.start()
        try:
            answered = ask(server.port, timeout="30")
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        # Older exporters retry a 503 whatever its Retry-After is.
        assert server.connections == 1 or status.startswith("503")

    fates = {"200": Fate.ACCEPTED, "400": Fate.REFUSED}
    assert answered.fate is fates.get(status[:3], Fate.WAITING)
    assert peak < 8 * MIB


def test_compressed_answer(ask: Callable[..., Answer]) -> None:
    """An answer that a proxy compresses unasked is read."""
    body = gzip.compress(Status(message="it is not to my taste").SerializeToString())
    kind = "content-type: application/x-protobuf"
    headers = head("400 Bad", f"content-length: {len(body)}", "content-encoding: gzip", kind)

    with Server(lambda server, connection: connection.sendall(headers + body)) as server:
        assert ask(server.port) == Answer(Fate.REFUSED, "400 Bad: it is not to my taste")


def test_large_answer_over_grpc(ask: Callable[..., Answer]) -> None:
    """GRPC refuses an answer that is too large."""
    large = Reply(message="x" * MIB)
    with Collector(GRPC, lambda ids: large) as collector:
        answered = ask(collector.port, GRPC)

    assert answered.fate is not Fate.ACCEPTED
    assert len(answered.reason) < 1_000


@pytest.mark.parametrize("protocol", [HTTP_PROTOBUF, GRPC])
def test_transient_failure(ask: Callable[..., Answer], protocol: str) -> None:
    """A failure that the exporter's own retry repairs is not reported."""
    replies = iter([UNAVAILABLE, ACCEPT])
    with Collector(protocol, lambda ids: next(replies)) as collector:
        assert ask(collector.port, protocol, "30") == Answer(Fate.ACCEPTED)

    assert len(collector.asked) == 2


SECRETS = ["pa55word", "t0ken-of-mine", "k3y-of-mine"]


@pytest.mark.parametrize("variable", ["OTEL_EXPORTER_OTLP", "OTEL_EXPORTER_OTLP_TRACES"])
@pytest.mark.parametrize("protocol", [HTTP_PROTOBUF, GRPC])
def test_secrets(protocol: str, variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials, query strings and headers are never shown, even if the collector does."""
    echo = Reply(401, grpc.StatusCode.UNAUTHENTICATED, "what is k3y-of-mine?")
    monkeypatch.setenv(f"{variable}_PROTOCOL", protocol)
    monkeypatch.setenv(f"{variable}_TIMEOUT", "2")
    monkeypatch.setenv(f"{variable}_HEADERS", "authorization=Bearer%20k3y-of-mine")
    query = "?token=t0ken-of-mine" if protocol == HTTP_PROTOBUF else ""
    reasons: list[str] = []
    with Collector(protocol, lambda ids: echo) as collector:
        for host in (f"127.0.0.1:{collector.port}", f"127.0.0.1:{free_port()}", "nowhere.invalid"):
            for user in ("user:pa55word@", ""):
                monkeypatch.setenv(f"{variable}_ENDPOINT", f"http://{user}{host}/{query}")
                reasons.append(Sender().send([]).reason)

    assert all(reasons)
    assert [reason for reason in reasons if any(secret in reason for secret in SECRETS)] == []
    if protocol == HTTP_PROTOBUF:
        assert reasons[2:4] == ["Connection refused"] * 2


def test_header_that_cannot_be_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """An invalid header is not shown either."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", HTTP_PROTOBUF)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=k3y-of-mine%0A")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", TIMEOUT)
    answer = Sender().send([])

    assert answer.fate is Fate.WAITING
    assert "k3y-of-mine" not in answer.reason
