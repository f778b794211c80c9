"""For any client and engine the work is linear in the bytes, and memory is bounded."""

from __future__ import annotations

import json
import time
import tracemalloc
from collections.abc import Callable, Iterable

import pytest

from otel_lifecycle.instrumentation.http.answers import AnswerReader
from otel_lifecycle.instrumentation.http.asgi import open_exchange
from otel_lifecycle.instrumentation.http.requests.inference_request import RequestReader
from otel_lifecycle.instrumentation.http.requests.marks import read_mark
from tests.conftest import Bench

KIB = 1 << 10
MIB = 1 << 20
ROUNDS = 3
# Twice the bytes take twice the time; a quadratic part of any weight takes four times.
GROWTH = 3.2

USAGE_BOMB = b'"usage":{' * 150 + (b"{}," * 1_100 + b'"a":1,') * 4


def repeat(part: bytes, size: int) -> bytes:
    """Return about this many bytes."""
    return part * (size // len(part) + 1)


HOSTILE: dict[str, Callable[[int], bytes]] = {
    "nested usage": lambda size: b'data: {"choices":[' + repeat(USAGE_BOMB, size),
    "nested usage in JSON": lambda size: b'{"choices":[' + repeat(USAGE_BOMB, size),
    "nested usage, whole": lambda size: (
        b'{"a":[' + repeat(b'{"usage":{}},', size) + b'1],"usage":{}}'
    ),
    "empty choices": lambda size: b'{"choices":[' + repeat(b"{},", size) + b"{}]}",
    "empty choices, streamed": lambda size: (
        b'data: {"choices":[' + repeat(b"{},", size) + b"{}]}\n\n"
    ),
    "list of empty objects": lambda size: b"[" + repeat(b"{},", size) + b"{}]",
    "deep": lambda size: repeat(b'{"a":', size),
    "deep list": lambda size: repeat(b"[", size),
    "deep in events": lambda size: repeat(b"data: " + b"[" * 500 + b"\n\n", size),
    "braces": lambda size: b'{"a":' + repeat(b"[{]}", size),
    "tiny events": lambda size: repeat(b"data:1\n\n", size),
    "empty lines": lambda size: b"data:\n" + repeat(b"\n", size),
    "carriage returns": lambda size: b"data:\r" + repeat(b"\r\n\r", size),
    "empty data": lambda size: b"data:1\n" + repeat(b"data:\n", size),
    "lines of an event": lambda size: b"data:1\n" + repeat(b"data:x\n", size),
    "names": lambda size: b"data:1\n" + repeat(b"event:error\n", size),
    "no end of line": lambda size: b"data: " + repeat(b"x", size),
    "quotes": lambda size: b'{"a":[' + repeat(b'"",', size),
    "escapes": lambda size: b'{"a":"' + repeat(rb"\\\"", size),
    "keys": lambda size: b"{" + repeat(b'"":{},', size) + b'"":1}',
    "surrogates": lambda size: b'{"a":"' + repeat(rb"\ud800", size) + b'"}',
    "lines": lambda size: b'{"done":false}\n' + repeat(b"{}\n", size),
    "one long line": lambda size: b'{"done":false}\n' + repeat(b"x", size),
    "blanks": lambda size: repeat(b" \n", size),
    "errors": lambda size: repeat(b"data: {nothing}\n\n", size),
    "choices": lambda size: b"".join(
        b'data: {"choices":[{"index":%d}]}\n\n' % number for number in range(size // 32)
    ),
}
REQUESTS: dict[str, Callable[[int], bytes]] = {
    "messages": lambda size: b'{"messages":[' + repeat(b"{},", size) + b"{}]}",
    "messages of a list": lambda size: b'{"messages":[' + repeat(b"[],", size) + b"[]]}",
    "other objects": lambda size: b'{"tools":[' + repeat(b"{},", size) + b"{}]}",
    "prompts": lambda size: b'{"prompt":[' + repeat(b'"",', size) + b'""]}',
    "prompts of ids": lambda size: b'{"prompt":[' + repeat(b"[],", size) + b"[]]}",
    "token ids": lambda size: b'{"prompt":[' + repeat(b"1,", size) + b"1]}",
    "nested content": lambda size: repeat(b'{"content":', size),
    "nested content within": lambda size: b'{"messages":' + repeat(b'{"content":', size),
    "models": lambda size: b"{" + repeat(b'"model":"m",', size) + b'"a":1}',
    "long model": lambda size: b'{"model":"' + repeat(rb"\n", size) + b'"}',
    "escaped": lambda size: b'{"prompt":"' + repeat(rb"\"", size) + b'"}',
    "braces": lambda size: b'{"a":' + repeat(b"[{]}", size),
    "transfer": lambda size: b'{"kv_transfer_params":{' + repeat(b'"a":{},', size) + b'"b":1}}',
}


def pieces(content: bytes, size: int) -> list[bytes]:
    """Split the content into chunks."""
    return [content[start : start + size] for start in range(0, len(content), size)]


def read_answer(chunks: Iterable[bytes]) -> None:
    """Read an answer."""
    reader = AnswerReader()
    for chunk in chunks:
        reader.feed(chunk)
    reader.finish()


def read_request(chunks: Iterable[bytes]) -> None:
    """Read a request from the router's client, and as the router sends it on."""
    reader = RequestReader()
    for chunk in chunks:
        reader.feed(chunk)
    reader.read(whole=True)
    read_mark(b"".join(chunks))


def cpu(work: Callable[[], object]) -> float:
    """Return the smallest CPU time of the thread, in seconds."""
    taken: list[float] = []
    for _ in range(ROUNDS):
        began = time.thread_time()
        work()
        taken.append(time.thread_time() - began)
    return min(taken)


def assert_linear(read: Callable[[list[bytes]], None], make: Callable[[int], bytes]) -> None:
    """Double the bytes, in large and small chunks, and check how the CPU time grows."""
    for chunk, size in ((32 * KIB, 100 * KIB), (1 << 30, 100 * KIB), (1, 5 * KIB)):
        small, big = (pieces(make(size * factor), chunk) for factor in (1, 2))
        least = 1e-3  # anything faster is lost in the noise
        once = twice = 0.0
        for _ in range(4):  # a busy machine may slow one of the two
            once, twice = (max(cpu(lambda c=c: read(c)), least) for c in (small, big))
            if twice <= GROWTH * once:
                break
        else:
            pytest.fail(f"{once * 1e3:.1f} ms became {twice * 1e3:.1f} ms, chunks of {chunk}")


@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE)
def test_answers(make: Callable[[int], bytes]) -> None:
    """Twice the answer takes twice the work, in chunks of any size."""
    assert_linear(read_answer, make)


@pytest.mark.parametrize("make", REQUESTS.values(), ids=REQUESTS)
def test_requests(make: Callable[[int], bytes]) -> None:
    """Twice the request takes twice the work."""
    assert_linear(read_request, make)


@pytest.mark.parametrize("name", [b"x-request-id", b"traceparent", b"tracestate", b"baggage"])
def test_repeated_headers(bench: Bench, name: bytes) -> None:
    """Twice as many headers of one name take twice the work: some servers accept megabytes."""

    def read(parts: list[bytes]) -> None:
        headers = [(name, part) for part in parts]
        open_exchange(bench.tracker, {"path": "/v1/completions", "headers": headers})

    small, big = ([b"k=" + b"x" * 20] * count for count in (20_000, 40_000))
    once = twice = 0.0
    for _ in range(4):
        once, twice = (max(cpu(lambda h=h: read(h)), 1e-3) for h in (small, big))
        if twice <= GROWTH * once:
            return
    pytest.fail(f"{once * 1e3:.1f} ms became {twice * 1e3:.1f} ms")


@pytest.mark.parametrize("make", [*HOSTILE.values(), *REQUESTS.values()], ids=[*HOSTILE, *REQUESTS])
def test_work_beside_a_parse(make: Callable[[int], bytes]) -> None:
    """No bytes take more than a few times the work of parsing as many bytes of JSON."""
    size = MIB // 4
    content = make(size)[: size - 1]
    dense = b"[" + b"{}," * (size // 3) + b"{}]"
    parse = cpu(lambda: json.loads(dense))

    for read in (read_answer, read_request):
        assert cpu(lambda read=read: read(pieces(content, 64 * KIB))) < 40 * parse


# Objects that might be kept.
HOARDED = (
    "nested usage",
    "empty choices",
    "empty choices, streamed",
    "list of empty objects",
    "no end of line",
    "one long line",
    "lines of an event",
    "quotes",
    "keys",
    "surrogates",
    "blanks",
    "choices",
)


@pytest.mark.parametrize("name", HOARDED)
def test_memory_of_answers(name: str) -> None:
    """An answer of any size takes a few megabytes while it is read, and nothing afterwards."""
    chunks = pieces(HOSTILE[name](3 * MIB), 64 * KIB)
    reader = AnswerReader()
    tracemalloc.start()
    try:
        for chunk in chunks:
            reader.feed(chunk)
        kept, _ = tracemalloc.get_traced_memory()
        reader.finish()
        left, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert kept < 4 * MIB
    assert left < 256 * KIB
    assert peak < 64 * MIB
