"""Sends requests over many connections, with little CPU of its own."""

from __future__ import annotations

import asyncio

CONNECTIONS = 16
KEY = "sk-of-the-benchmark-4f1c2ab97d"


async def send(port: int, path: str, body: bytes, requests: int) -> None:
    """Send requests, shared among the connections; each answer is awaited.

    Raises:
        AssertionError: An answer was not 200.
        OSError: Nobody serves.
    """
    share = requests // CONNECTIONS
    await asyncio.gather(*(_send(port, path, body, share) for _ in range(CONNECTIONS)))


async def _send(port: int, path: str, body: bytes, requests: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = (
        f"POST {path} HTTP/1.1\r\nhost: router\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer {KEY}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    try:
        for _ in range(requests):
            writer.write(head.encode() + body)
            await _read_answer(reader)
    finally:
        writer.close()


async def _read_answer(reader: asyncio.StreamReader) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    # LiteLLM repeats the engine's headers behind a prefix.
    if b"\r\ntransfer-encoding: chunked" in head:
        body = await reader.readuntil(b"\r\n0\r\n\r\n")
    else:
        length = head.partition(b"\r\ncontent-length: ")[2].partition(b"\r\n")[0]
        body = await reader.readexactly(int(length))
    assert head.startswith(b"http/1.1 200"), head + body
